//! Services that use a waypoint of another namespace, whose Gateway admits them.

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::lab::{Definitions, LIMIT, Lab};
use ambit_e2e::mesh::{ENROLL, Pod};
use ambit_e2e::sample::{CLIENTS, Plan, Web};
use anyhow::{Result, ensure};
use serde_json::json;

use super::gateways::KINDS;
use super::{WAYPOINT, condition, enforce, get_policy};

/// The namespace whose waypoint it is, and the waypoint.
const LENDER: &str = "lender";
const GATE: &str = "gate";

/// The Gateway, which admits Services of these namespaces.
fn gateway(from: &str) -> String {
    let listener = json!({
        "name": "mesh", "port": 15008, "protocol": "HBONE", "allowedRoutes": {"namespaces": {"from": from}},
    });
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": GATE},
        "spec": {"gatewayClassName": "ambit-waypoint", "listeners": [listener]},
    })
    .to_string()
}

/// Waits until the server sees requests of every client come from the lender's waypoint, which has the policy.
fn wait_lent(lab: &Lab, web: &Web) -> Result<()> {
    for client in CLIENTS {
        eventually(&format!("{client} to go through {LENDER}/{GATE}"), LIMIT, || {
            let gates = Pod::list(&lab.cluster, LENDER, &format!("ambit.dev/waypoint={GATE}"))?;
            let seen = web.echo(client, &Request::get("/"))?.peer.ip();
            ensure!(
                gates.iter().any(|pod| seen == pod.ip),
                "the server saw {seen}, not one of {gates:?}"
            );
            Ok(())
        })?;
        let refused = web.request(client, &Request::new("DELETE", "/"))?;
        ensure!(refused.status == 403, "{}", refused.head());
    }
    Ok(())
}

#[test]
fn a_waypoint_of_another_namespace_serves_whom_its_gateway_admits() -> Result<()> {
    let lab = Lab::enter()?;
    let definitions = Definitions::install(&lab, &KINDS)?;
    let result = lab.with_namespace(LENDER, |lender| {
        lab.cluster
            .run_kubectl(&["label", "--overwrite", "namespace", lender.namespace(), ENROLL])?;
        lab.cluster.apply(LENDER, &gateway("All"))?;
        lab.with_web("borrower", |web| {
            let rule = json!({"name": "no-deletes", "action": "Deny", "methods": ["DELETE"]});
            enforce(&lab, web, "verbs", json!({"authorization": [rule]}))?;
            eventually("the Gateway's waypoint to be ready", LIMIT, || {
                let gateway = lab.cluster.get(&["gateway", GATE, "--namespace", LENDER])?;
                let (status, reason, message) =
                    super::condition_in(&gateway, "/status/conditions", "Programmed")?;
                ensure!(status == "True", "{reason}: {message}");
                Ok(())
            })?;
            web.load_all(&Plan::get(2, "/"))?;

            // It moves to the other namespace's waypoint, and its policy goes along.
            let namespace = web.namespace();
            let labels = [
                format!("istio.io/use-waypoint={GATE}"),
                format!("istio.io/use-waypoint-namespace={LENDER}"),
            ];
            lab.cluster.run_kubectl(&[
                "label",
                "service",
                "web",
                &labels[0],
                &labels[1],
                "--namespace",
                namespace,
            ])?;
            wait_lent(&lab, web)?;
            eventually("the policy to name the waypoint", LIMIT, || {
                let policy = get_policy(&lab, web, "verbs")?;
                let (status, reason, message) = condition(&policy, "Programmed")?;
                let says = message.contains(&format!("waypoint {LENDER}/{GATE} enforces it"));
                ensure!(status == "True" && says, "{reason}: {message}");
                Ok(())
            })?;
            eventually("its own waypoint to be gone", LIMIT, || {
                let left = web.waypoints(WAYPOINT)?;
                ensure!(left.is_empty(), "{left:?} are there still");
                Ok(())
            })?;

            web.ensure_no_failure()?;

            // Without consent, its own waypoint comes back and enforces the policy. Until then, connections are refused.
            lab.cluster.apply(LENDER, &gateway("Same"))?;
            let mut passed = 0;
            eventually("requests to go through its own waypoint", LIMIT, || {
                let answer = web.request(CLIENTS[0], &Request::new("DELETE", "/"))?;
                passed += usize::from(answer.status == 200);
                ensure!(answer.status == 403, "{}", answer.head());
                let own = web.waypoints(WAYPOINT)?;
                let seen = web.echo(CLIENTS[0], &Request::get("/"))?.peer.ip();
                ensure!(
                    own.iter().any(|pod| seen == pod.ip),
                    "the server saw {seen}, not one of {own:?}"
                );
                Ok(())
            })?;
            ensure!(passed == 0, "{passed} requests were not refused meanwhile");
            Ok(())
        })
    });
    result.and(definitions.remove())
}
