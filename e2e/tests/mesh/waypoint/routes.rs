//! Routes of the Gateway API with a Service as their parent. Its kinds come while the operator runs, and go.

use std::io::{Read, Write};

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh::Pod;
use ambit_e2e::sample::{Plan, Web};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::condition_in;
use ambit_e2e::lab::Definitions;

/// The kinds that the operator reads.
const KINDS: [&str; 5] = [
    "httproutes",
    "grpcroutes",
    "tcproutes",
    "tlsroutes",
    "referencegrants",
];

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
    route_of("HTTPRoute", Web::HTTP, json!({"rules": rules}))
}

/// A route of this kind at a port of `web`.
fn route_of(kind: &str, port: u16, mut spec: Value) -> String {
    spec["parentRefs"] = json!([{"group": "", "kind": "Service", "name": "web", "port": port}]);
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": "web"}, "spec": spec,
    });
    route.to_string()
}

fn backend(name: &str, weight: u32) -> Value {
    json!({"name": name, "port": Web::HTTP, "weight": weight})
}

/// Waits until a condition of the HTTPRoute has this status and reason, for its present spec; returns the message.
fn wait_condition(lab: &Lab, web: &Web, kind: &str, wanted: (&str, &str)) -> Result<String> {
    wait_condition_of(lab, web, "httproute", kind, wanted)
}

/// The same of a route of another kind.
fn wait_condition_of(lab: &Lab, web: &Web, of: &str, kind: &str, wanted: (&str, &str)) -> Result<String> {
    eventually(&format!("{kind} of {of} to be {wanted:?}"), LIMIT, || {
        let route = lab.cluster.get(&[of, "web", "--namespace", web.namespace()])?;
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

#[test]
fn connections_move_by_weight_and_more_specific_routes_take_their_port() -> Result<()> {
    let lab = Lab::enter()?;
    let definitions = Definitions::install(&lab, &KINDS)?;
    let result = lab.with_web("connection-routes", |web| {
        let second = second_version(&lab, web)?;
        let tcp = |port: u16, backends: Value| {
            let route = route_of("TCPRoute", port, json!({"rules": [{"backendRefs": backends}]}));
            lab.cluster.apply(web.namespace(), &route)
        };
        let all_to = |wanted: &dyn Fn(&str) -> bool| {
            eventually("every connection to go where the route says", LIMIT, || {
                for _ in 0..20 {
                    let chosen = web.echo("load-a", &Request::get("/"))?.server;
                    ensure!(wanted(&chosen), "{chosen} was chosen");
                }
                Ok(())
            })
        };
        // Each request has a connection of its own.
        tcp(Web::HTTP, json!([backend("web-v2", 1), backend("web", 0)]))?;
        wait_condition_of(&lab, web, "tcproute", "Programmed", ("True", "Programmed"))?;
        super::wait_way(web, Some(super::WAYPOINT))?;
        all_to(&|chosen| chosen == second.name)?;

        // An HTTPRoute takes the port, and gives it back.
        let redirect = json!([{"filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 302, "hostname": "away"}}]}]);
        lab.cluster.apply(web.namespace(), &route(redirect))?;
        let message = wait_condition_of(&lab, web, "tcproute", "Accepted", ("False", "Conflicted"))?;
        ensure!(message.contains("HTTPRoute"), "{message}");
        eventually("requests to be redirected", LIMIT, || {
            let answer = web.request("load-a", &Request::get("/"))?;
            ensure!(answer.status == 302, "{}", answer.head());
            Ok(())
        })?;
        let delete = |kind: &str| {
            let words = ["delete", kind, "web", "--namespace", web.namespace()];
            lab.cluster.run_kubectl(&words).map(drop)
        };
        delete("httproute")?;
        wait_condition_of(&lab, web, "tcproute", "Accepted", ("True", "Accepted"))?;
        all_to(&|chosen| chosen == second.name)?;

        // What is not there, and what is no TLS, is closed.
        let closed = || {
            eventually("connections to be closed", LIMIT, || {
                let mut io = web.dial("load-a", Web::HTTP)?;
                io.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")?;
                let mut said = Vec::new();
                // A reset is an end, too.
                let read = io.read_to_end(&mut said);
                ensure!(said.is_empty(), "{read:?}: {}", String::from_utf8_lossy(&said));
                Ok(())
            })
        };
        tcp(Web::HTTP, json!([backend("nothing", 1)]))?;
        wait_condition_of(&lab, web, "tcproute", "ResolvedRefs", ("False", "BackendNotFound"))?;
        closed()?;
        let tls = json!({"hostnames": ["a.example.com"], "rules": [{"backendRefs": [backend("web", 1)]}]});
        lab.cluster
            .apply(web.namespace(), &route_of("TLSRoute", Web::HTTP, tls))?;
        wait_condition_of(&lab, web, "tlsroute", "Programmed", ("True", "Programmed"))?;
        closed()?;
        delete("tlsroute")?;
        delete("tcproute")?;
        super::wait_way(web, None)
    });
    result.and(definitions.remove())
}

#[test]
fn policy_of_a_rule_holds_for_its_requests_and_closes_the_pods() -> Result<()> {
    let lab = Lab::enter()?;
    let definitions = Definitions::install(&lab, &KINDS)?;
    let result = lab.with_web("route-policies", |web| {
        let canary = json!({
            "name": "canary", "matches": [{"headers": [{"name": "x-canary", "value": "yes"}]}],
            "backendRefs": [backend("web", 1)],
        });
        let rules = json!([canary, {"backendRefs": [backend("web", 1)]}]);
        lab.cluster.apply(web.namespace(), &route(rules))?;
        wait_condition(&lab, web, "Programmed", ("True", "Programmed"))?;

        let target = json!({
            "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "web", "sectionName": "canary",
        });
        let rule = json!({"name": "no-deletes", "action": "Deny", "methods": ["DELETE"]});
        let spec = json!({"targetRefs": [target], "authorization": [rule]});
        let enforced = super::enforce(&lab, web, "canary", spec)?;
        let ancestor = &enforced["status"]["ancestors"][0];
        ensure!(ancestor["ancestorRef"] == target, "{ancestor}");
        ensure!(ancestor["enforcedBy"] == "route-policies/waypoint", "{ancestor}");
        ensure!(ancestor["guardedPods"] == 2, "{ancestor}");

        let delete = || Request::new("DELETE", "/orders/7");
        let refused = web.request("load-a", &delete().header("x-canary", "yes"))?;
        ensure!(refused.status == 403, "{} {}", refused.head(), refused.body);
        ensure!(
            refused.reason() == "denied by route-policies/canary/no-deletes",
            "{}",
            refused.head()
        );
        web.echo("load-a", &Request::get("/orders/7").header("x-canary", "yes"))?;
        // Another rule of the same route.
        web.echo("load-a", &delete())?;
        // No way around.
        eventually("the pods to be closed", LIMIT, || {
            super::bypass::ensure_closed(&lab, web)
        })
    });
    result.and(definitions.remove())
}
