//! Labels bind by hand.

use std::net::SocketAddr;

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::mesh;
use ambit_e2e::sample::{Heard, Web};
use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{WAYPOINT, condition, enforce, get_policy, wait_replicas, wait_way};
use ambit_e2e::lab::{LIMIT, Lab};

fn label(lab: &Lab, web: &Web, object: &[&str], label: &str) -> Result<()> {
    let mut words = vec!["label", "--overwrite"];
    words.extend(object);
    words.push(label);
    if object[0] != "namespace" {
        words.extend(["--namespace", web.namespace()]);
    }
    lab.cluster.run_kubectl(&words).map(drop)
}

#[test]
fn label_creates_a_waypoint_and_binds() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("byhand", |web| {
        let service = ["service", "web"];
        label(&lab, web, &service, "istio.io/use-waypoint=gate")?;
        wait_replicas(web, "gate", 1)?;
        wait_way(web, Some("gate"))?;

        // A policy finds the Service where it is bound already, and makes no second waypoint.
        let rule = json!({"name": "no-deletes", "action": "Deny", "methods": ["DELETE"]});
        lab.cluster.apply(
            web.namespace(),
            &super::policy("verbs", json!({"authorization": [rule]})),
        )?;
        eventually("the waypoint to enforce the policy", LIMIT, || {
            let policy = get_policy(&lab, web, "verbs")?;
            let (status, reason, message) = condition(&policy, "Programmed")?;
            ensure!(status == "True", "{reason}: {message}");
            let by = &policy["status"]["ancestors"][0]["enforcedBy"];
            ensure!(by == "byhand/gate", "it is enforced by {by}");
            let answer = web.request("load-b", &Request::new("DELETE", "/"))?;
            ensure!(answer.status == 403, "{}", answer.head());
            Ok(())
        })?;
        ensure!(web.waypoints(WAYPOINT)?.is_empty(), "there is a second waypoint");

        // `none` goes before policies, and the policy says that nobody enforces it.
        label(&lab, web, &service, "istio.io/use-waypoint=none")?;
        wait_way(web, None)?;
        eventually("the policy to say so", LIMIT, || {
            let policy = get_policy(&lab, web, "verbs")?;
            let (status, reason, message) = condition(&policy, "Programmed")?;
            ensure!(
                status == "False" && !reason.is_empty() && !message.is_empty(),
                "{status}"
            );
            println!("{reason}: {message}");
            Ok(())
        })?;
        eventually("the waypoint to be gone", LIMIT, || {
            ensure!(web.waypoints("gate")?.is_empty(), "it is there still");
            Ok(())
        })
    })
}

#[test]
fn waypoint_for_binds_pod_addresses() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("bypod", |web| {
        enforce(&lab, web, "limit", json!({"timeouts": {"request": "10s"}}))?;
        let waypoint = wait_replicas(web, WAYPOINT, 1)?.remove(0);
        let server = web.servers()?.remove(0);
        let directly = || -> Result<bool> {
            let target = SocketAddr::from((server.ip, Web::HTTP));
            let stream = web.client("load-a")?.dial(&lab.cluster, target)?;
            let answer = Request::get("/").send(stream, "web")?;
            let heard: Heard =
                serde_json::from_str(&answer.body).with_context(|| answer.head().to_owned())?;
            Ok(heard.peer.ip() == waypoint.ip)
        };
        ensure!(
            !directly()?,
            "a pod's own address is bound without being asked for"
        );
        let namespace = ["namespace", web.namespace()];
        label(&lab, web, &namespace, "istio.io/use-waypoint=waypoint")?;
        label(&lab, web, &namespace, "istio.io/waypoint-for=all")?;
        eventually("the pod's own address to be bound", LIMIT, || {
            ensure!(directly()?, "it goes past the waypoint");
            Ok(())
        })?;
        wait_way(web, Some(WAYPOINT))?;
        label(&lab, web, &namespace, "istio.io/waypoint-for=workload")?;
        wait_way(web, None)?;
        ensure!(directly()?, "it goes past the waypoint");
        mesh::wait_ready(&lab.cluster)
    })
}
