//! HTTP rules, and the proxies that enforce them.

use std::time::{Duration, Instant};

use ambit_e2e::cluster::Cluster;
use ambit_e2e::eventually;
use ambit_e2e::mesh::{LogLine, Pod};
use ambit_e2e::sample::{CLIENTS, Plan, Shop, Web};
use anyhow::{Context, Result, ensure};

use super::act::DENY;
use super::show;
use crate::progress::{Progress, seconds};

const LIMIT: Duration = Duration::from_secs(60);
const WAYPOINT: &str = "waypoint";
/// What a client asks for, of the Service.
const URL: &str = "http://web:8080/orders/7";

/// A field more of the spec of [`DENY`], which stays in force.
const SCALING: &str =
    "  waypoint: {minReplicas: 1, maxReplicas: 3, targetInFlight: 10, scaleDownWindow: 10s}\n";

const POLICY: &str = "apiVersion: ambit.dev/v1alpha1
kind: WaypointPolicy
metadata:
  name: orders
spec:
  targetRefs:
    - {kind: Service, name: web}
  authorization:
    - {name: readers, action: Allow, methods: [GET]}
";

/// A policy, and a load that needs more than one replica.
pub(super) fn play(cluster: &Cluster, shop: &Shop, progress: &Progress) -> Result<()> {
    let web = progress.step("another application: an HTTP Service", || {
        let web = Web::deploy(cluster, shop.clone())?;
        shop.wait_captured()?;
        Ok(web)
    })?;
    policy(cluster, &web, progress)?;
    around(cluster, &web)?;
    scale(cluster, &web, progress)
}

/// What a client in its pod prints of a request: the head of the response, and its body.
fn call(cluster: &Cluster, web: &Web, method: &str, url: &str) -> Result<String> {
    let call = ["/ambit-sample", "request", method, url];
    cluster.exec(web.namespace(), "deploy/load-a", &call)
}

fn policy(cluster: &Cluster, web: &Web, progress: &Progress) -> Result<()> {
    show::heading("HTTP rules: every client may GET from the Service web, and nothing else");
    show::command("kubectl apply -n shop -f - <<EOF");
    let ambient = format!("{DENY}{SCALING}");
    show::output(&format!("{ambient}---\n{POLICY}"));
    let start = Instant::now();
    for manifest in [ambient.as_str(), POLICY] {
        cluster.apply(web.namespace(), manifest)?;
    }
    progress.step("a waypoint starts, and the Service is reached through it", || {
        eventually("the policy to be enforced", LIMIT, || {
            let said = call(cluster, web, "DELETE", URL)?;
            ensure!(said.starts_with("HTTP/1.1 403"), "{said}");
            Ok(())
        })
    })?;
    show::line(&format!(
        "     enforced {} after `kubectl apply`",
        seconds(start.elapsed())
    ));
    show::command("kubectl get waypointpolicy,ambientnamespace -n shop");
    eventually("the policy to say so", LIMIT, || {
        let what = [
            "get",
            "waypointpolicy,ambientnamespace",
            "--namespace",
            web.namespace(),
        ];
        let table = cluster.run_kubectl(&what)?;
        let policy = cluster.get(&["waypointpolicy", "orders", "--namespace", web.namespace()])?;
        let ambient = web.shop().ambient()?;
        ensure!(
            policy["status"]["targets"] == "1/1"
                && ambient["status"]["waypointReplicas"] == "1/1"
                && ambient["status"]["rules"][0]["name"] == "no-client-a",
            "{table}"
        );
        show::output(&table);
        Ok(())
    })?;
    for (method, status) in [("GET", "200"), ("DELETE", "403")] {
        show::command(&format!(
            "kubectl exec -n shop deploy/load-a -- /ambit-sample request {method} {URL}"
        ));
        let said = call(cluster, web, method, URL)?;
        let head: Vec<&str> = said.lines().take_while(|line| !line.is_empty()).collect();
        ensure!(head.first().is_some_and(|line| line.contains(status)), "{said}");
        let telling =
            |line: &&&str| line.starts_with("HTTP/") || line.to_lowercase().starts_with("x-ambit-reason");
        for line in head.iter().filter(telling) {
            show::output(line);
        }
    }
    show::line("\n   The waypoint logs the caller, the request and the reason (its access log):");
    let line = eventually("the refusal in the log", LIMIT, || {
        for pod in web.waypoints(WAYPOINT)? {
            let words = ["sa/load-a", "/orders/7", "DELETE"];
            if let Some(line) = LogLine::find(cluster, &pod, &words)?.pop() {
                return Ok(line);
            }
        }
        anyhow::bail!("no waypoint has logged it")
    })?;
    let fields = [
        "src.identity",
        "dst.service",
        "http.method",
        "http.path",
        "http.status",
        "reason",
    ];
    show::log_line(&line, &fields);
    Ok(())
}

/// No connection bypasses a waypoint with authorization.
fn around(cluster: &Cluster, web: &Web) -> Result<()> {
    show::line("\n   The pod refuses a request that bypasses the waypoint:");
    let server = web.servers()?.into_iter().next().context("no server runs")?;
    let url = format!("http://{}:8080/orders/7", server.ip);
    show::command(&format!(
        "kubectl exec -n shop deploy/load-a -- /ambit-sample request GET {url}"
    ));
    let error = call(cluster, web, "GET", &url).err().context("it is answered")?;
    let said = format!("{error:#}");
    // The client's own message, without that of kubectl around it.
    let said = said.lines().find(|line| line.contains("GET ")).unwrap_or(&said);
    show::output(said.rsplit("exit status: 1: ").next().unwrap_or(said));
    Ok(())
}

/// The desired and the ready replicas.
fn replicas(cluster: &Cluster, web: &Web) -> Result<(u64, u64)> {
    let deployment = cluster.get(&["deployment", WAYPOINT, "--namespace", web.namespace()])?;
    let number = |path: &str| deployment.pointer(path).and_then(serde_json::Value::as_u64);
    let wanted = number("/spec/replicas").context("the Deployment has no spec.replicas")?;
    Ok((wanted, number("/status/readyReplicas").unwrap_or_default()))
}

/// Shows every change until the waypoint has this number of replicas, all ready.
fn follow(cluster: &Cluster, web: &Web, count: u64) -> Result<()> {
    let start = Instant::now();
    let mut shown = None;
    eventually(&format!("{count} replicas"), LIMIT, || {
        let now = replicas(cluster, web)?;
        if shown != Some(now) {
            shown = Some(now);
            let in_flight = in_flight(web)?;
            show::line(&format!(
                "     {:>6}   {in_flight:>3} requests in flight   {} replicas desired, {} ready",
                seconds(start.elapsed()),
                now.0,
                now.1
            ));
        }
        ensure!(now == (count, count), "{now:?}");
        Ok(())
    })
}

fn in_flight(web: &Web) -> Result<u64> {
    CLIENTS
        .iter()
        .map(|client| Ok(web.load_stats(client)?.in_flight))
        .sum()
}

fn scale(cluster: &Cluster, web: &Web, progress: &Progress) -> Result<()> {
    show::heading("Waypoints scale with the requests in flight, here 10 per replica");
    let load = |connections| web.load_all(&Plan::get(connections, "/slow?ms=200"));
    let answered = |more| -> Result<()> {
        for client in CLIENTS {
            web.wait_more(client, more)?;
        }
        Ok(())
    };
    load(2)?;
    progress.step("two clients call web, with few requests", || answered(20))?;
    show::line("\n   Seven times as many, at once:");
    load(14)?;
    follow(cluster, web, 3)?;
    let pods: Vec<Pod> = web.waypoints(WAYPOINT)?;
    let shares = progress.step("the new replicas get their share", || {
        // Connections through a waypoint last ten seconds by default: the next ones are spread over all replicas.
        eventually("every replica to have its share", LIMIT, || {
            let shares = web.shares(&pods, 100)?;
            let mean = shares.iter().sum::<f64>() / 3.0;
            ensure!(shares.iter().all(|share| *share > mean / 2.0), "{shares:?}");
            Ok(shares)
        })
    })?;
    show::line("\n   Recent requests of each replica:");
    for (pod, share) in pods.iter().zip(shares) {
        show::line(&format!("     {:<26} {:<5} {share:>5}", pod.name, pod.node));
    }
    show::line("\n   And back, ten seconds after the load is over:");
    load(2)?;
    follow(cluster, web, 1)?;
    load(0)?;
    show::line("\n   No request has failed:");
    let counts = web.ensure_no_failure()?;
    for (client, stats) in CLIENTS.iter().zip(counts) {
        show::line(&format!(
            "     {client}: {} requests succeeded, {} failed, {} repeated on another connection",
            stats.ok, stats.failed, stats.retried
        ));
    }
    Ok(())
}
