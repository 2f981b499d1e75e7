//! Who may do what.

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::mesh::LogLine;
use ambit_e2e::sample::CLIENTS;
use anyhow::{Result, ensure};
use serde_json::json;

use super::{WAYPOINT, ambient, enforce, metric, principal};
use ambit_e2e::lab::{LIMIT, Lab};

#[test]
fn get_passes_and_delete_is_denied() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("verbs", |web| {
        let nodes = [web.client("load-a")?.node, web.client("load-b")?.node];
        ensure!(nodes[0] != nodes[1], "both clients are on {}", nodes[0]);
        let audit =
            json!({"authorization": [{"name": "watch", "action": "Deny", "mode": "Audit", "methods": ["GET"]}]});
        enforce(&lab, web, "audit", audit)?;
        let rule = json!({"name": "no-deletes", "action": "Deny", "methods": ["DELETE"], "paths": [{"prefix": "/orders"}]});
        let enforced = enforce(&lab, web, "orders", json!({"authorization": [rule]}))?;
        let ancestor = &enforced["status"]["ancestors"][0];
        ensure!(ancestor["enforcedBy"] == "verbs/waypoint", "{ancestor}");
        ensure!(ancestor["guardedPods"] == 2, "{ancestor}");

        for client in CLIENTS {
            let received = web.echo(client, &Request::get("/orders/7?a=b"))?;
            ensure!(received.path == "/orders/7?a=b" && received.method == "GET", "{received:?}");
            let refused = web.request(client, &Request::new("DELETE", "/orders/7"))?;
            ensure!(refused.status == 403, "{client}: {} {}", refused.head(), refused.body);
            ensure!(
                refused.reason() == "denied by verbs/orders/no-deletes",
                "{client}: {}",
                refused.head()
            );
        }
        for counts in web.counts()? {
            ensure!(
                counts.seen.keys().all(|seen| !seen.starts_with("DELETE")),
                "a server saw it: {counts:?}"
            );
        }

        let server = principal(web, "web");
        for client in CLIENTS {
            let caller = principal(web, client);
            for words in [
                &[caller.as_str(), &server, "verbs/orders/no-deletes", "DELETE"][..],
                &[&caller, &server, "GET"],
            ] {
                eventually(&format!("the waypoint to log {words:?}"), LIMIT, || {
                    let mut lines = Vec::new();
                    for pod in web.waypoints(WAYPOINT)? {
                        lines.extend(LogLine::find(&lab.cluster, &pod, words)?);
                    }
                    ensure!(!lines.is_empty(), "it did not");
                    Ok(())
                })?;
            }
        }
        // The other policy refused nobody, and says whom it would have refused.
        eventually("what would be refused to be counted", LIMIT, || {
            let counted = metric(&web.waypoints(WAYPOINT)?, "ambit_audit_total", &["watch"])?;
            ensure!(counted >= 2.0, "{counted} are counted");
            Ok(())
        })
    })
}

#[test]
fn allow_rule_by_caller_host_and_header() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("callers", |web| {
        let rules = json!([
            {"name": "a-with-a-pass", "action": "Allow", "from": [{"principals": [principal(web, "load-a")]}],
                "headers": [{"name": "X-Pass", "values": ["gold*"]}]},
            {"name": "by-name", "action": "Allow", "hosts": ["web.callers"], "methods": ["PUT"]},
        ]);
        enforce(&lab, web, "callers", json!({"authorization": rules}))?;
        let get = |pass: &str| Request::get("/").header("x-pass", pass);
        for (client, request, status) in [
            ("load-a", get("golden"), 200),
            ("load-a", get("silver"), 403),
            ("load-a", Request::get("/"), 403),
            ("load-b", get("golden"), 403),
            ("load-b", Request::new("PUT", "/").body(b"x"), 200),
            (
                "load-b",
                Request::new("PUT", "/").body(b"x").header("Host", "other"),
                403,
            ),
        ] {
            let answer = web.request(client, &request)?;
            ensure!(answer.status == status, "{client} {request:?}: {}", answer.head());
            if status == 403 {
                ensure!(
                    answer.reason().starts_with("not allowed by any of ")
                        && answer.reason().contains("callers/callers/"),
                    "{}",
                    answer.head()
                );
            }
        }
        Ok(())
    })
}

#[test]
fn l4_rules_apply_to_the_real_caller_behind_a_waypoint() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("layers", |web| {
        // A policy that refuses nothing.
        enforce(&lab, web, "limit", json!({"timeouts": {"request": "10s"}}))?;
        let denied = json!({"name": "no-a", "action": "Deny", "from": [{"principals": [principal(web, "load-a")]}]});
        let allowed = json!({"name": "only-b", "action": "Allow", "from": [{"principals": [principal(web, "load-b")]}]});
        for (rule, name) in [(denied, "layers/no-a"), (allowed, "layers/only-b")] {
            lab.cluster
                .apply(web.namespace(), &ambient(json!({"authorization": [rule]})))?;
            eventually(&format!("load-a to be refused by {name}"), LIMIT, || {
                let answer = web.request("load-a", &Request::get("/"))?;
                ensure!(
                    answer.status == 403 && answer.reason().contains(name),
                    "{}: {}",
                    answer.head(),
                    answer.body
                );
                Ok(())
            })?;
            eventually(&format!("load-b to pass {name}"), LIMIT, || {
                web.echo("load-b", &Request::get("/")).map(drop)
            })?;
        }
        lab.cluster
            .apply(web.namespace(), &ambient(json!({"authorization": []})))?;
        eventually("load-a to be answered again", LIMIT, || {
            web.echo("load-a", &Request::get("/")).map(drop)
        })
    })
}
