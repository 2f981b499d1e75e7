//! What is retried, and for how long.

use ambit_e2e::http::Request;
use ambit_e2e::sample::{CLIENTS, Plan};
use ambit_e2e::{eventually, sample::Web};
use anyhow::{Result, ensure};
use serde_json::json;

use super::{WAYPOINT, enforce, metric};
use ambit_e2e::lab::{LIMIT, Lab};

fn flaked(web: &Web) -> Result<u64> {
    Ok(web.counts()?.iter().map(|counts| counts.flaked).sum())
}

#[test]
fn flaky_backend_fails_no_client() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("flaky", |web| {
        // Without a retry every client sees it.
        enforce(&lab, web, "limit", json!({"timeouts": {"request": "10s"}}))?;
        web.load("load-a", &Plan::get(1, "/flaky"))?;
        eventually("failures without a retry", LIMIT, || {
            let stats = web.load_stats("load-a")?;
            ensure!(
                stats.statuses.get(&503).is_some_and(|count| *count > 5),
                "{:?}",
                stats.statuses
            );
            Ok(())
        })?;
        web.load("load-a", &Plan::get(0, "/"))?;
        eventually("the load to end", LIMIT, || {
            ensure!(web.load_stats("load-a")?.in_flight == 0, "it goes on");
            Ok(())
        })?;

        let retry = json!({"attempts": 3, "codes": [503]});
        enforce(&lab, web, "retry", json!({"retry": retry}))?;
        let retried = || metric(&web.waypoints(WAYPOINT)?, "ambit_retries_total", &["flaky/retry"]);
        // One after the other: each of two servers fails at most one try of a request then.
        for client in CLIENTS {
            let (failed, tried) = (flaked(web)?, retried()?);
            let before = web.load_stats(client)?;
            web.load(client, &Plan::get(1, "/flaky"))?;
            web.wait_more(client, 300)?;
            web.load(client, &Plan::get(0, "/"))?;
            let after = eventually("the load to end", LIMIT, || {
                let now = web.load_stats(client)?;
                ensure!(now.in_flight == 0, "it goes on");
                Ok(now)
            })?;
            ensure!(
                after.failed == before.failed && after.resets == before.resets,
                "{client} saw {} failures, the last: {:?}",
                after.failed - before.failed,
                after.failures.back()
            );
            let failed = eventually("every retry to be counted", LIMIT, || {
                let failed = flaked(web)? - failed;
                let tried = retried()? - tried;
                ensure!(
                    failed >= 100 && tried == failed as f64,
                    "{failed} answers of servers were 503, {tried} retries are counted"
                );
                Ok(failed)
            })?;
            println!(
                "{client}: {} requests answered, 0 failed; the servers failed {failed}",
                after.ok - before.ok
            );
        }

        // What is not idempotent is not made twice.
        let before = flaked(web)?;
        let mut refused = 0;
        while refused == 0 {
            let answer = web.request("load-a", &Request::new("POST", "/flaky").body(b"1"))?;
            ensure!(matches!(answer.status, 200 | 503), "{}", answer.head());
            refused += u64::from(answer.status == 503);
        }
        ensure!(flaked(web)? - before == refused, "a POST was tried again");
        Ok(())
    })
}

#[test]
fn timeout_gives_504_with_reason() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("timeout", |web| {
        enforce(&lab, web, "patience", json!({"timeouts": {"request": "2s"}}))?;
        for client in CLIENTS {
            web.echo(client, &Request::get("/slow?ms=10"))?;
            let answer = web.request(client, &Request::get("/slow?ms=9000"))?;
            ensure!(
                answer.status == 504 && answer.reason().contains("timeout/patience"),
                "{}",
                answer.head()
            );
        }
        Ok(())
    })
}
