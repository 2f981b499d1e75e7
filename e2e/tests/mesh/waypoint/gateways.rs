//! Gateways that declare waypoints. The kinds come while the operator runs, and go.

use std::collections::BTreeSet;

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::sample::{Plan, Web};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{condition, condition_in, get_policy, policy, wait_way};
use ambit_e2e::lab::Definitions;

pub(super) const KINDS: [&str; 6] = [
    "gatewayclasses",
    "gateways",
    "xmeshes",
    "httproutes",
    "grpcroutes",
    "referencegrants",
];

/// Name of the waypoint.
const GATE: &str = "gate";

/// Waits until a condition of an object has this status.
fn wait_condition(lab: &Lab, object: &[&str], kind: &str, wanted: &str) -> Result<Value> {
    eventually(&format!("{kind} of {object:?} to be {wanted}"), LIMIT, || {
        let found = lab.cluster.get(object)?;
        let (status, reason, message) = condition_in(&found, "/status/conditions", kind)?;
        ensure!(status == wanted, "it is {status}, {reason}: {message}");
        Ok(found)
    })
}

/// The Gateway, with labels for its waypoint's pods or without.
fn gateway(labels: &Value) -> String {
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": GATE},
        "spec": {
            "gatewayClassName": "ambit-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            "infrastructure": {"labels": labels},
        },
    });
    gateway.to_string()
}

/// A route that marks requests, and a policy for all that uses the waypoint.
fn rules() -> [String; 2] {
    let header = json!({"set": [{"name": "x-routed", "value": "1"}]});
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{
                "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": header}],
                "backendRefs": [{"name": "web", "port": Web::HTTP}],
            }],
        },
    });
    let target = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATE});
    let rule = json!({"name": "no-deletes", "action": "Deny", "methods": ["DELETE"]});
    let spec = json!({"targetRefs": [target], "authorization": [rule]});
    [route.to_string(), policy("verbs", spec)]
}

/// Waits until both are in force.
fn wait_rules(web: &Web) -> Result<()> {
    eventually("the route and the policy to be in force", LIMIT, || {
        let heard = web.echo("load-a", &Request::get("/"))?;
        ensure!(heard.headers.contains_key("x-routed"), "{heard:?}");
        let answer = web.request("load-a", &Request::new("DELETE", "/"))?;
        ensure!(answer.status == 403, "{}", answer.head());
        Ok(())
    })
}

/// UIDs of the waypoint's pods.
fn pods(web: &Web) -> Result<BTreeSet<String>> {
    let pods = web.waypoints(GATE)?.into_iter();
    Ok(pods.map(|pod| pod.uid).collect())
}

#[test]
fn gateway_declares_a_waypoint_and_its_deletion_fails_no_request() -> Result<()> {
    let lab = Lab::enter()?;
    let definitions = Definitions::install(&lab, &KINDS)?;
    let result = lab.with_web("declared", |web| {
        for (object, kind) in [
            (["gatewayclass", "ambit-waypoint"], "Accepted"),
            (["xmesh", "ambit"], "Accepted"),
            (["xmesh", "ambit"], "Ready"),
        ] {
            let found = wait_condition(&lab, &object, kind, "True")?;
            let features = found["status"]["supportedFeatures"].as_array();
            ensure!(features.is_some_and(|all| !all.is_empty()), "{}", found["status"]);
        }

        // It is ready before anything uses it.
        let namespace = ["--namespace", web.namespace()];
        lab.cluster
            .apply(web.namespace(), &gateway(&json!({"team": "shop"})))?;
        let object = ["gateway", GATE, namespace[0], namespace[1]];
        let found = wait_condition(&lab, &object, "Programmed", "True")?;
        let status = &found["status"];
        ensure!(status["addresses"][0]["type"] == "IPAddress", "{status}");
        ensure!(status["listeners"][0]["name"] == "mesh", "{status}");
        let deployment = lab
            .cluster
            .get(&["deployment", GATE, namespace[0], namespace[1]])?;
        let owners = deployment["metadata"]["ownerReferences"].as_array();
        let owners = owners.context("the Deployment has no owner")?;
        let uid = &found["metadata"]["uid"];
        ensure!(owners.iter().any(|owner| owner["uid"] == *uid), "{owners:?}");
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        ensure!(labels["team"] == "shop", "{labels}");

        web.load_all(&Plan::get(2, "/"))?;
        let label = |label: &str| {
            let words = ["label", "service", "web", label, namespace[0], namespace[1]];
            lab.cluster.run_kubectl(&words).map(drop)
        };
        label("istio.io/use-waypoint=gate")?;
        wait_way(web, Some(GATE))?;
        for rule in rules() {
            lab.cluster.apply(web.namespace(), &rule)?;
        }
        wait_rules(web)?;
        eventually("the policy to be programmed at the Gateway", LIMIT, || {
            let policy = get_policy(&lab, web, "verbs")?;
            let (status, reason, message) = condition(&policy, "Programmed")?;
            ensure!(status == "True", "{reason}: {message}");
            let ancestor = &policy["status"]["ancestors"][0]["ancestorRef"];
            ensure!(ancestor["kind"] == "Gateway", "{ancestor}");
            Ok(())
        })?;

        // Labels are the pods': others come, and no request fails.
        let labelled = pods(web)?;
        lab.cluster.apply(web.namespace(), &gateway(&json!({})))?;
        let before = eventually("pods without the label alone to be there", LIMIT, || {
            let now = pods(web)?;
            ensure!(
                !now.is_empty() && now.is_disjoint(&labelled),
                "{labelled:?}, now {now:?}"
            );
            Ok(now)
        })?;
        wait_condition(&lab, &object, "Programmed", "True")?;

        // As Argo CD deletes. The label still asks for the waypoint: the same pods go on, with the same rules.
        lab.cluster.run_kubectl(&[
            "delete",
            "gateway",
            GATE,
            "--cascade=foreground",
            namespace[0],
            namespace[1],
        ])?;
        eventually("the policy to miss its target", LIMIT, || {
            let policy = get_policy(&lab, web, "verbs")?;
            let (_, reason, message) = condition(&policy, "Accepted")?;
            ensure!(reason == "TargetNotFound", "{reason}: {message}");
            Ok(())
        })?;
        for client in ambit_e2e::sample::CLIENTS {
            web.wait_more(client, 200)?;
        }
        let after = pods(web)?;
        ensure!(before == after, "{before:?} are now {after:?}");
        wait_rules(web)?;
        web.ensure_no_failure()?;

        lab.cluster
            .run_kubectl(&["delete", "httproute", "web", namespace[0], namespace[1]])?;
        label("istio.io/use-waypoint-")?;
        wait_way(web, None)?;
        eventually("the waypoint to be gone", LIMIT, || {
            let left = web.waypoints(GATE)?;
            ensure!(left.is_empty(), "{left:?} are there still");
            Ok(())
        })?;
        web.ensure_no_failure().map(drop)
    });
    result.and(definitions.remove())
}
