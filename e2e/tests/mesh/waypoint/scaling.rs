//! Replicas follow the requests in flight.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use ambit_e2e::eventually;
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::{CLIENTS, Plan, Web, millis};
use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{WAYPOINT, ambient, enforce, wait_replicas};
use ambit_e2e::lab::{LIMIT, Lab};

/// What replicas are promised to take after a step of the load, in seconds.
const FOLLOW: u64 = 10;
/// How long fewer must have done before some go.
const WINDOW: Duration = Duration::from_secs(15);
/// How much earlier than the load fell its last second may begin in which the operator saw it whole: a report is the
/// mean of a second, and the load generators may have been slow in that one.
const BLUR: Duration = Duration::from_secs(3);
/// When new replicas have their share at the latest: connections move every three reports, one a second, but where they
/// go is chance, so that some measurements fail.
const SHARED: Duration = Duration::from_secs(60);
/// How long no connection moves once the load is even.
const CALM: Duration = Duration::from_secs(10);

/// When the last of the replicas became Ready, by Kubernetes' own word and not by when a test came to look: in seconds
/// since 1970.
fn ready_since(lab: &Lab, web: &Web) -> Result<u64> {
    let selector = format!("ambit.dev/waypoint={WAYPOINT}");
    let pods = ["pods", "--namespace", web.namespace(), "--selector", &selector];
    let mut last = 0;
    for pod in lab.cluster.list(&pods)? {
        let conditions = pod["status"]["conditions"].as_array().context("no conditions")?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        let since = ready.and_then(|ready| ready["lastTransitionTime"].as_str());
        let since = format!("--date={}", since.context("it never became Ready")?);
        let seconds = Command::new("date").args([&since, "+%s"]).output()?.stdout;
        last = last.max(String::from_utf8(seconds)?.trim().parse()?);
    }
    Ok(last)
}

/// Waits until `kubectl describe` tells of a change, for this reason, from this number of replicas.
fn has_event(lab: &Lab, web: &Web, reason: &str, from: &str) -> Result<()> {
    let describe = [
        "describe",
        "ambientnamespace",
        "ambient",
        "--namespace",
        web.namespace(),
    ];
    eventually("kubectl to tell of the replicas", LIMIT, || {
        let text = lab.cluster.run_kubectl(&describe)?;
        let mut events = text.lines().filter(|line| line.contains(reason));
        let event = events.find(|line| line.contains(&format!("{WAYPOINT}: {from}")));
        println!(
            "{}",
            event
                .with_context(|| format!("no Event {reason}:\n{text}"))?
                .trim()
        );
        Ok(())
    })
}

#[test]
fn tenfold_load_scales_up_and_back() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("scaling", |web| {
        let scaling =
            json!({"minReplicas": 1, "maxReplicas": 4, "targetInFlight": 8, "scaleDownWindow": format!("{}s", WINDOW.as_secs())});
        lab.cluster
            .apply(web.namespace(), &ambient(json!({"waypoint": scaling})))?;
        let rule = json!({"name": "gets", "action": "Allow", "methods": ["GET"]});
        enforce(&lab, web, "gets", json!({"authorization": [rule]}))?;
        // In flight: 4, then 40.
        let load = |connections| web.load_all(&Plan::get(connections, "/slow?ms=200"));
        load(2)?;
        for client in CLIENTS {
            web.wait_more(client, 20)?;
        }
        ensure!(
            web.waypoints(WAYPOINT)?.len() == 1,
            "more than one replica for a small load"
        );

        load(20)?;
        let (step, stepped) = (Instant::now(), millis(SystemTime::now()) / 1000);
        let replicas = wait_replicas(web, WAYPOINT, 4)?;
        let took = ready_since(&lab, web)?.saturating_sub(stepped);
        println!("1 to 4 replicas, Ready, {took} s after the step");
        ensure!(took <= FOLLOW, "the replicas followed after {took} s");
        let table = ["get", "ambientnamespace", "--namespace", web.namespace()];
        eventually("kubectl to show it", LIMIT, || {
            let table = lab.cluster.run_kubectl(&table)?;
            ensure!(table.contains("4/4"), "\n{table}");
            println!("{table}");
            Ok(())
        })?;
        has_event(&lab, web, "ScaledUp", "1 → ")?;
        let budget = lab
            .cluster
            .get(&["poddisruptionbudget", WAYPOINT, "--namespace", web.namespace()])?;
        ensure!(budget["status"]["expectedPods"].as_i64().is_some(), "{budget}");

        let shares = eventually("every replica to have its share", SHARED, || {
            let shares = web.shares(&replicas, 300)?;
            let mean = shares.iter().sum::<f64>() / 4.0;
            ensure!(shares.iter().all(|share| *share >= mean / 2.0), "{shares:?}");
            Ok(shares)
        })?;
        println!(
            "requests of each replica in the same time, {:.0} s after the step: {shares:?}",
            step.elapsed().as_secs_f64()
        );

        let moved = || -> Result<f64> {
            let of = |pod: &Pod| {
                pod.loopback_metric(&lab.cluster, "ambit_waypoint_connections_moved_total", &[])
            };
            replicas.iter().map(of).sum()
        };
        let mut last = (moved()?, Instant::now());
        ensure!(last.0 > 0.0, "no connection was moved");
        eventually("connections to stay where they are", LIMIT, || {
            let now = moved()?;
            if now > last.0 {
                last = (now, Instant::now());
            }
            ensure!(last.1.elapsed() >= CALM, "{now} moved, {:?} ago", last.1.elapsed());
            Ok(())
        })?;
        println!("{} connections moved, none in the last {CALM:?}", last.0);

        let wanted = || -> Result<i64> {
            let deployment = ["deployment", WAYPOINT, "--namespace", web.namespace()];
            let deployment = lab.cluster.get(&deployment)?;
            deployment["spec"]["replicas"].as_i64().context("no replicas")
        };
        ensure!(wanted()? == 4, "{} replicas under the whole load", wanted()?);
        // Before the load falls, and looked at after the replicas do: a slow machine makes it longer, never shorter.
        let step = Instant::now();
        load(2)?;
        eventually("fewer replicas", LIMIT, || {
            ensure!(wanted()? < 4, "4 still");
            Ok(())
        })?;
        let stayed = step.elapsed();
        println!("4 replicas for {:.1} s after the load fell", stayed.as_secs_f64());
        ensure!(
            stayed + BLUR >= WINDOW,
            "replicas went after {stayed:?}, and the window is {WINDOW:?}"
        );
        let limit = LIMIT + LIMIT;
        eventually("one replica to be left", limit, || {
            let pods = web.waypoints(WAYPOINT)?;
            ensure!(wanted()? == 1 && pods.len() == 1, "{pods:?}");
            Ok(())
        })?;
        let took = step.elapsed();
        println!("4 to 1 replica {:.1} s after the load fell", took.as_secs_f64());
        has_event(&lab, web, "ScaledDown", "4 → ")?;
        for client in CLIENTS {
            web.wait_more(client, 50)?;
        }
        for stats in web.ensure_nothing_cut(&Default::default())? {
            println!("{} requests answered, 0 failed, none made again", stats.ok);
        }
        eventually("the budget to go with the second replica", LIMIT, || {
            let gone = lab
                .cluster
                .get(&["poddisruptionbudget", WAYPOINT, "--namespace", web.namespace()]);
            gone.err().context("it is there still").map(drop)
        })
    })
}
