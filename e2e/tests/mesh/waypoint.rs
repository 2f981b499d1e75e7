//! Waypoints: L7 where a policy asks for it.

mod authorization;
mod bad_input;
mod binding;
mod bypass;
mod failures;
mod foreign;
mod gateways;
mod interop;
mod leaving;
mod lifecycle;
mod paths;
mod protocols;
mod retry;
mod routes;
mod scaling;
mod scope;
mod smuggling;

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::{CLIENTS, Web};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use ambit_e2e::lab::{LIMIT, Lab};

/// Name of the waypoint that a policy brings about.
pub(crate) const WAYPOINT: &str = "waypoint";

/// A WaypointPolicy; for the Service `web`, unless the fields of the spec say otherwise.
pub(crate) fn policy(name: &str, mut spec: Value) -> String {
    if spec["targetRefs"].is_null() {
        spec["targetRefs"] = json!([{"kind": "Service", "name": "web"}]);
    }
    let object = json!({"apiVersion": "ambit.dev/v1alpha1", "kind": "WaypointPolicy", "metadata": {"name": name}, "spec": spec});
    object.to_string()
}

/// The namespace's settings.
pub(crate) fn ambient(spec: Value) -> String {
    let object = json!({"apiVersion": "ambit.dev/v1alpha1", "kind": "AmbientNamespace", "metadata": {"name": "ambient"}, "spec": spec});
    object.to_string()
}

pub(crate) fn principal(web: &Web, account: &str) -> String {
    format!("cluster.local/ns/{}/sa/{account}", web.namespace())
}

/// The status, reason and message of a policy's condition at its first target, if it is about the present spec.
fn condition(policy: &Value, kind: &str) -> Result<(String, String, String)> {
    condition_in(policy, "/status/ancestors/0/conditions", kind)
}

/// The same of an object whose status has its conditions elsewhere.
fn condition_in(policy: &Value, place: &str, kind: &str) -> Result<(String, String, String)> {
    let conditions = policy.pointer(place).and_then(Value::as_array);
    let found = conditions
        .and_then(|all| all.iter().find(|condition| condition["type"] == kind))
        .with_context(|| format!("no condition {kind} in {}", policy["status"]))?;
    ensure!(
        found["observedGeneration"] == policy["metadata"]["generation"],
        "{found} is not about generation {}",
        policy["metadata"]["generation"]
    );
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("reason"), text("message")))
}

fn get_policy(lab: &Lab, web: &Web, name: &str) -> Result<Value> {
    lab.cluster
        .get(&["waypointpolicy", name, "--namespace", web.namespace()])
}

/// Applies a policy and waits until a waypoint enforces it, and requests of every client go through that. Returns the
/// policy.
pub(crate) fn enforce(lab: &Lab, web: &Web, name: &str, spec: Value) -> Result<Value> {
    lab.cluster.apply(web.namespace(), &policy(name, spec))?;
    let enforced = eventually(&format!("policy {name} to be enforced"), LIMIT, || {
        let policy = get_policy(lab, web, name)?;
        for kind in ["Accepted", "Programmed"] {
            let (status, reason, message) = condition(&policy, kind)?;
            ensure!(status == "True", "{kind} is {status}, {reason}: {message}");
        }
        Ok(policy)
    })?;
    // The status says what the operators ask for; each replica of the waypoint follows at once, but nobody says when.
    let whole = format!("\"{}/{name}\"", web.namespace());
    eventually(&format!("every replica to have policy {name}"), LIMIT, || {
        for pod in web.waypoints(WAYPOINT)? {
            let dump = pod.loopback(&lab.cluster, 15000, "/config_dump")?;
            ensure!(dump.contains(&whole), "{} has no {whole}: {dump}", pod.name);
        }
        Ok(())
    })?;
    wait_way(web, Some(WAYPOINT))?;
    Ok(enforced)
}

/// Waits until requests of every client go through this waypoint; or through none, so that the server sees the client's
/// own address.
fn wait_way(web: &Web, waypoint: Option<&str>) -> Result<()> {
    for client in CLIENTS {
        eventually(&format!("{client} to go through {waypoint:?}"), LIMIT, || {
            let through = match waypoint {
                Some(name) => web.waypoints(name)?,
                None => Vec::new(),
            };
            // Whatever rules there are say no more than 403, and that comes from the waypoint.
            let answer = web.request(client, &Request::get("/way"))?;
            if answer.status == 403 && waypoint.is_some() {
                return Ok(());
            }
            let heard: ambit_e2e::sample::Heard = serde_json::from_str(&answer.body)
                .with_context(|| format!("{}: {}", answer.head(), answer.body))?;
            let seen = heard.peer.ip();
            let own = web.client(client)?.ip;
            let as_wanted = match waypoint {
                Some(_) => through.iter().any(|pod| seen == pod.ip),
                None => seen == own,
            };
            ensure!(
                as_wanted,
                "the server saw {seen}; {client} is {own}, and {waypoint:?} {through:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until a waypoint has this many replicas, all of them Ready.
pub(crate) fn wait_replicas(web: &Web, name: &str, count: usize) -> Result<Vec<Pod>> {
    eventually(&format!("{count} replicas of {name}"), LIMIT, || {
        let pods = web.waypoints(name)?;
        ensure!(
            pods.len() == count && pods.iter().all(|pod| pod.ready),
            "{pods:?}"
        );
        Ok(pods)
    })
}

/// The sum of a metric over pods.
fn metric(pods: &[Pod], name: &str, labels: &[&str]) -> Result<f64> {
    pods.iter().map(|pod| pod.metric(name, labels)).sum()
}
