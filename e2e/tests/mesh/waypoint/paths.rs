//! What a client can do to a path, and to a request.

use std::io::{Read, Write};

use ambit_e2e::http::{Answer, Request};
use ambit_e2e::sample::Web;
use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::enforce;
use ambit_e2e::lab::Lab;

/// What is at or below `/admin` once somebody decodes it, however it is written.
const TRICKS: &[&str] = &[
    "/admin",
    "/admin/",
    "/admin?x=1",
    "//admin",
    "///admin//users",
    "/./admin",
    "/x/../admin",
    "/x/./../admin/users",
    "/%2e/admin",
    "/%2e%2e/admin",
    "/x/%2E%2e/admin",
    "/x/.%2e/admin",
    "/%61dmin",
    "/%61%64%6d%69%6e/users",
    "/admin/.",
    "/admin/x/..",
    "/admin;x",
    "/admin;x=1/users",
    "/x;/../admin",
    "/x/..;/admin",
    "/admin%2fusers",
    "/x%2f..%2fadmin",
    "/%2fadmin",
    "/admin%5cusers",
    "/x\\..\\admin",
    "/admin%00",
    "/admin%zz",
    "/admin%2",
    "/admin%3bx",
    "/%2561dmin",
];

/// What is not. It comes as it was sent.
const OTHERS: &[&str] = &[
    "/ADMIN",
    "/admins",
    "/a%20b",
    "/x//y/./z/../w?q=//a/../b",
    "/caf%c3%a9",
    "/%7euser",
    "/api/v4/projects/group%2Fproject",
    "/page;jsessionid=1",
];

/// Whether a path is protected, read as leniently as servers do.
fn is_protected(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    segments.first() == Some(&"admin")
}

#[test]
fn path_spellings_do_not_evade_rules() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("paths", |web| {
        let rule = json!({"name": "no-admin", "action": "Deny", "paths": [{"prefix": "/admin"}]});
        enforce(&lab, web, "paths", json!({"authorization": [rule]}))?;
        for trick in TRICKS {
            let answer = web.request("load-a", &Request::get(trick))?;
            match answer.status {
                403 => ensure!(
                    answer.reason() == "denied by paths/paths/no-admin",
                    "{trick}: {}",
                    answer.head()
                ),
                400 => ensure!(!answer.reason().is_empty(), "{trick}: {}", answer.head()),
                _ => anyhow::bail!("{trick}: {}", answer.head()),
            }
        }
        for sent in OTHERS {
            let received = web
                .echo("load-a", &Request::get(sent))
                .with_context(|| (*sent).to_owned())?;
            ensure!(received.path == *sent, "{sent} came as {}", received.path);
        }
        for counts in web.counts()? {
            let past = counts
                .seen
                .keys()
                .find(|seen| is_protected(seen.trim_start_matches("GET ")));
            ensure!(past.is_none(), "a server was asked for {past:?}");
        }
        Ok(())
    })
}

/// Sends bytes and returns the responses that come until the connection ends.
fn raw(web: &Web, bytes: &[u8]) -> Result<String> {
    let mut stream = web.dial("load-a", Web::HTTP)?;
    // Who refuses a request need not read it to its end, and a reset after the response is an end as good as any.
    let _ = stream.write_all(bytes);
    let mut answers = Vec::new();
    let _ = stream.read_to_end(&mut answers);
    Ok(String::from_utf8_lossy(&answers).into_owned())
}

#[test]
fn malformed_requests_end_at_the_waypoint() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("malformed", |web| {
        let rule = json!({"name": "no-deletes", "action": "Deny", "methods": ["DELETE"]});
        enforce(&lab, web, "verbs", json!({"authorization": [rule]}))?;
        let before = web.reached()?;
        let bomb = format!("GET / HTTP/1.1\r\nHost: web\r\n{}\r\n", "X-Fill: 0123456789abcdef\r\n".repeat(20_000));
        let smuggled = "DELETE /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";
        let requests = [
            format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
            format!("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nContent-Length: 43\r\n\r\n{smuggled}"),
            format!("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: xchunked\r\n\r\n{smuggled}"),
            "GET / HTTP/1.1\r\nHost : web\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: web\r\nHost: other\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: web\r\nX: a\0b\r\n\r\n".to_owned(),
            bomb,
        ];
        for request in requests {
            let begin: String = request.chars().take(80).collect();
            let answers = raw(web, request.as_bytes())?;
            let answer = Answer::read(answers.as_bytes()).with_context(|| format!("{begin:?}"))?;
            ensure!(
                matches!(answer.status, 400 | 431),
                "{begin:?} is answered with {}",
                answer.head()
            );
            ensure!(
                answers.matches("HTTP/1.1 ").count() == 1,
                "{begin:?} had more than one answer: {answers}"
            );
        }
        let after = web.reached()?;
        ensure!(after == before, "{} reached a server", after - before);
        web.echo("load-a", &Request::get("/")).map(drop)
    })
}
