//! Routes of the Gateway API with a Service as their parent. Its kinds come while the operator runs, and go.

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::{Plan, Web};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::condition_in;
use super::definitions::Definitions;

/// The kinds that the operator reads.
const KINDS: [&str; 3] = ["httproutes", "grpcroutes", "referencegrants"];

/// A Service in front of one of the two servers.
fn second_version(lab: &Lab, web: &Web) -> Result<Pod> {
    let servers = web.servers()?;
    let second = servers.last().context("no server")?.clone();
    let namespace = web.namespace();
    lab.cluster.run_kubectl(&[
        "label",
        "pod",
        &second.name,
        "version=v2",
        "--namespace",
        namespace,
    ])?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web-v2"},
        "spec": {
            "selector": {"app": "web", "version": "v2"},
            "ports": [{"name": "http", "port": Web::HTTP, "targetPort": Web::HTTP, "appProtocol": "http"}],
        },
    });
    lab.cluster.apply(namespace, &service.to_string())?;
    Ok(second)
}

fn route(rules: Value) -> String {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "web"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": Web::HTTP}],
            "rules": rules,
        },
    });
    route.to_string()
}

fn backend(name: &str, weight: u32) -> Value {
    json!({"name": name, "port": Web::HTTP, "weight": weight})
}

/// Waits until a condition of the route has this status and reason, for its present spec; returns the message.
fn wait_condition(lab: &Lab, web: &Web, kind: &str, wanted: (&str, &str)) -> Result<String> {
    eventually(&format!("{kind} to be {wanted:?}"), LIMIT, || {
        let route = lab
            .cluster
            .get(&["httproute", "web", "--namespace", web.namespace()])?;
        let (status, reason, message) = condition_in(&route, "/status/parents/0/conditions", kind)?;
        ensure!(
            (&*status, &*reason) == wanted,
            "{kind} is {status}, {reason}: {message}"
        );
        Ok(message)
    })
}

#[test]
fn canary_moves_by_weight_and_fails_no_request() -> Result<()> {
    let lab = Lab::enter()?;
    let definitions = Definitions::install(&lab, &KINDS)?;
    let result = lab.with_web("routes", |web| {
        let second = second_version(&lab, web)?;
        let apply = |rules: Value| lab.cluster.apply(web.namespace(), &route(rules));
        let server = |request: &Request| Ok::<_, anyhow::Error>(web.echo("load-a", request)?.server);
        web.load_all(&Plan::get(2, "/"))?;

        // Nothing but the route asks for a waypoint. It comes under load.
        let canary = json!({"matches": [{"headers": [{"name": "x-canary", "value": "yes"}]}], "backendRefs": [backend("web-v2", 1)]});
        apply(json!([canary, {"backendRefs": [backend("web", 1)]}]))?;
        wait_condition(&lab, web, "Programmed", ("True", "Programmed"))?;
        super::wait_way(web, Some(super::WAYPOINT))?;
        for _ in 0..20 {
            let chosen = server(&Request::get("/").header("x-canary", "yes"))?;
            ensure!(chosen == second.name, "{chosen} is not the canary");
        }

        // To the end, and the requests of open connections with it.
        apply(json!([{"backendRefs": [backend("web", 0), backend("web-v2", 1)]}]))?;
        eventually("every request to go to the canary", LIMIT, || {
            for _ in 0..20 {
                let chosen = server(&Request::get("/"))?;
                ensure!(chosen == second.name, "{chosen} is not the canary");
            }
            Ok(())
        })?;

        // A rewrite, and what a backend that is not there does to its share.
        apply(json!([
            {"matches": [{"path": {"type": "PathPrefix", "value": "/old"}}],
             "filters": [
                {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}},
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x-rewritten", "value": "1"}]}}],
             "backendRefs": [backend("web-v2", 1)]},
            {"matches": [{"path": {"type": "Exact", "value": "/missing"}}], "backendRefs": [backend("nothing", 1)]},
            {"backendRefs": [backend("web-v2", 1)]},
        ]))?;
        let message = wait_condition(&lab, web, "ResolvedRefs", ("False", "BackendNotFound"))?;
        ensure!(message.contains("spec.rules[1].backendRefs[0]"), "{message}");
        eventually("the rewrite", LIMIT, || {
            let heard = web.echo("load-a", &Request::get("/old/a?b=c"))?;
            let header = heard.headers.get("x-rewritten").map(String::as_str);
            ensure!((&*heard.path, header) == ("/new/a?b=c", Some("1")), "{heard:?}");
            Ok(())
        })?;
        let answer = web.request("load-a", &Request::get("/missing"))?;
        ensure!(answer.status == 500, "{}", answer.head());
        let stats = web.ensure_no_failure()?;
        println!("{} + {} requests, 0 failed", stats[0].ok, stats[1].ok);

        // The waypoint goes with the route.
        lab.cluster
            .run_kubectl(&["delete", "httproute", "web", "--namespace", web.namespace()])?;
        super::wait_way(web, None)?;
        web.ensure_no_failure()?;
        Ok(())
    });
    result.and(definitions.remove())
}
