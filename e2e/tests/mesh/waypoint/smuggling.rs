//! Requests that two servers may read differently, through a waypoint to servers as people run them: one in, at most
//! one out.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::Shop;
use ambit_smuggling::{CASE, Case, SMUGGLED, http2};
use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{condition, policy};

const SERVERS: &str = include_str!("../../../manifests/software/servers.yaml");
const CLIENT: &str = include_str!("../../../manifests/software/client.yaml");

/// The servers, and whether they speak HTTP/2 at 8090.
const KINDS: [(&str, bool); 4] = [("nginx", true), ("node", true), ("go", true), ("gunicorn", false)];

const HTTP: u16 = 8080;
const HTTP2: u16 = 8090;

/// The first runs are of cases in HTTP/1.
const HTTP1_RUNS: usize = 2;

/// Cases whose connections are opened together.
const AT_ONCE: usize = 16;

/// When a case's response is no longer waited for.
const SILENCE: Duration = Duration::from_secs(5);

/// Has the waypoint serve a Service of the namespace.
pub(super) fn serve(lab: &Lab, shop: &Shop, services: &[&str]) -> Result<()> {
    let targets: Vec<_> = services
        .iter()
        .map(|name| json!({"kind": "Service", "name": name}))
        .collect();
    let spec = json!({"targetRefs": targets, "timeouts": {"request": "1h"}});
    lab.cluster.apply(shop.namespace(), &policy("all", spec))?;
    eventually("the waypoint to serve", LIMIT, || {
        let policy = lab
            .cluster
            .get(&["waypointpolicy", "all", "--namespace", shop.namespace()])?;
        let (status, reason, message) = condition(&policy, "Programmed")?;
        ensure!(status == "True", "{reason}: {message}");
        Ok(())
    })
}

/// The address of a Service.
pub(super) fn address(lab: &Lab, shop: &Shop, name: &str, port: u16) -> Result<SocketAddr> {
    let service = lab
        .cluster
        .get(&["service", name, "--namespace", shop.namespace()])?;
    let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    Ok(SocketAddr::new(
        ip.parse()
            .with_context(|| format!("{name} has the address {ip:?}"))?,
        port,
    ))
}

/// Sends a case and reads to the end of what comes back.
fn send(mut stream: TcpStream, case: &Case) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(SILENCE))?;
    let is_http2 = case.bytes.starts_with(b"PRI ");
    // Who refuses a request need not read it to its end.
    let _ = stream.write_all(&case.bytes);
    if !is_http2 {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut response = Vec::new();
    let mut part = [0; 16384];
    while !(is_http2 && http2::is_over(&response)) {
        match stream.read(&mut part) {
            Ok(n) if n > 0 => response.extend_from_slice(&part[..n]),
            _ => break,
        }
    }
    Ok(response)
}

/// Replays cases at a port of a server; after each, another client's request must be answered as if nothing had been.
fn replay(lab: &Lab, client: &Pod, to: SocketAddr, cases: &[Case], neighbours: &str) -> Result<()> {
    for (group, cases) in cases.chunks(AT_ONCE).enumerate() {
        let mut dialled = client.dial_many(&lab.cluster, to, 2 * cases.len())?.into_iter();
        for (n, case) in cases.iter().enumerate() {
            let (Some(own), Some(other)) = (dialled.next(), dialled.next()) else {
                anyhow::bail!("too few connections");
            };
            send(own?, case)?;
            let path = format!("/{neighbours}/{}", group * AT_ONCE + n);
            let answer = Request::get(&path).send(other?, "server");
            let answer = answer.with_context(|| format!("{path}, after {}", case.name))?;
            ensure!(
                answer.status == 200 && answer.body == format!("GET {path}"),
                "after {}, {path} is answered {} {:?}",
                case.name,
                answer.head(),
                answer.body
            );
        }
    }
    Ok(())
}

/// How often each path was asked for, by the lines that a server printed.
fn asked(lab: &Lab, shop: &Shop, server: &str) -> Result<BTreeMap<String, usize>> {
    let log = lab.cluster.logs(shop.namespace(), &shop.pod_of(server)?.name)?;
    let mut asked = BTreeMap::new();
    for line in log.lines().filter_map(|line| line.strip_prefix("asked ")) {
        let path = line.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        *asked.entry(path.to_owned()).or_default() += 1;
    }
    Ok(asked)
}

/// The paths of a run, for the cases' own requests and the hidden ones: as long as those that the cases come with.
fn paths(run: usize) -> (String, String) {
    // Those of HTTP/2 are compressed, and stay: there is one run of them.
    match run {
        HTTP1_RUNS.. => (CASE.to_owned(), SMUGGLED.to_owned()),
        run => (format!("/cas{run}/"), format!("/smuggle{run}/")),
    }
}

fn with_paths(case: &Case, own: &str, hidden: &str) -> Case {
    let bytes = replaced(&case.bytes, CASE, own);
    Case {
        bytes: replaced(&bytes, SMUGGLED, hidden),
        ..case.clone()
    }
}

/// With `to` in the place of each `from`.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut found = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(from.as_bytes()) {
            found.extend_from_slice(to.as_bytes());
            rest = after;
        } else {
            found.push(rest[0]);
            rest = &rest[1..];
        }
    }
    found
}

#[test]
fn smuggling_to_real_servers_ends_at_the_waypoint() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_namespace("smuggling", |shop| {
        lab.cluster.apply(shop.namespace(), SERVERS)?;
        lab.cluster.apply(shop.namespace(), CLIENT)?;
        shop.wait_ready()?;
        shop.enroll()?;
        serve(&lab, shop, &KINDS.map(|(name, _)| name))?;
        let client = shop.pod_of("client")?;
        let runs = [(HTTP, ambit_smuggling::cases()), (HTTP2, ambit_smuggling::cases()), (HTTP2, http2::cases())];
        for (server, has_http2) in KINDS {
            for (run, (port, cases)) in runs.iter().enumerate() {
                if *port == HTTP2 && !has_http2 {
                    continue;
                }
                let to = address(&lab, shop, server, *port)?;
                eventually(&format!("the waypoint to be before {server}"), LIMIT, || {
                    // No server says why it refuses such a name.
                    let answer = Request::get("/").send(client.dial(&lab.cluster, to)?, "user@server")?;
                    ensure!(answer.status == 400 && !answer.reason().is_empty(), "{}", answer.head());
                    Ok(())
                })?;
                let neighbours = format!("neighbour-{run}");
                // A server may print a request late, after the next run has begun.
                let (own, hidden) = paths(run);
                let cases: Vec<Case> = cases.iter().map(|case| with_paths(case, &own, &hidden)).collect();
                replay(&lab, &client, to, &cases, &neighbours).with_context(|| format!("{server} at {port}"))?;
                // The last neighbour's line says that all others were printed.
                let last = format!("/{neighbours}/{}", cases.len() - 1);
                let seen = eventually("the last line", LIMIT, || {
                    let seen = asked(&lab, shop, server)?;
                    ensure!(seen.contains_key(&last), "{server} has printed no {last}");
                    Ok(seen)
                })?;
                let times = |path: &str| seen.get(path).copied().unwrap_or_default();
                let (own_path, hidden_path) = (own, hidden);
                let (mut came, mut second) = (0, 0);
                for (number, case) in cases.iter().enumerate() {
                    let own = times(&format!("{own_path}{number:04}"));
                    let hidden = times(&format!("{hidden_path}{number:04}"));
                    ensure!(own <= 1, "{server} at {port}: {own} times {}", case.name);
                    ensure!(
                        hidden <= usize::from(case.second),
                        "{server} at {port}: {} brought the hidden request {hidden} times: {}",
                        case.name,
                        case.bytes.escape_ascii()
                    );
                    let neighbour = times(&format!("/{neighbours}/{number}"));
                    ensure!(neighbour == 1, "{server}: {neighbour} requests of a neighbour after {}", case.name);
                    came += own;
                    second += hidden;
                }
                println!(
                    "{server} at {port}: {} cases, {came} came, {second} with the second request that they have",
                    cases.len()
                );
                ensure!(came > 10, "of all cases {came} came to {server}: the rest says nothing");
            }
        }
        Ok(())
    })
}
