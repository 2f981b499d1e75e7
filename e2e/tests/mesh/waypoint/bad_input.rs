//! Policies that cannot be.

use ambit_e2e::eventually;
use ambit_e2e::http::Request;
use ambit_e2e::sample::Web;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::failures::restart_operators;
use super::{condition, enforce, get_policy, policy};
use ambit_e2e::lab::{LIMIT, Lab};

#[test]
fn contradictory_policies_are_refused_with_field() -> Result<()> {
    let lab = Lab::enter()?;
    let web = json!([{"kind": "Service", "name": "web"}]);
    let rule = |rule: Value| json!({"targetRefs": web, "authorization": [rule]});
    let retry = |retry: Value| json!({"targetRefs": web, "retry": retry});
    for (spec, words) in [
        (
            json!({"targetRefs": web}),
            ["spec", "one of authorization, timeouts, retry"],
        ),
        (
            json!({"targetRefs": [], "timeouts": {"request": "1s"}}),
            ["spec.targetRefs", "at least 1"],
        ),
        (
            json!({"targetRefs": [{"kind": "Deployment", "name": "web"}], "timeouts": {"request": "1s"}}),
            ["spec.targetRefs[0].kind", "supported values"],
        ),
        (
            json!({"targetRefs": [{"kind": "Gateway", "name": "web"}], "timeouts": {"request": "1s"}}),
            ["spec.targetRefs[0]", "gateway.networking.k8s.io for kinds"],
        ),
        (
            json!({"targetRefs": [web[0], web[0]], "timeouts": {"request": "1s"}}),
            ["spec.targetRefs", "the same target twice"],
        ),
        (
            rule(json!({"name": "empty", "action": "Allow"})),
            ["spec.authorization[0]", "needs one of from, methods, paths"],
        ),
        (
            rule(json!({"name": "both", "action": "Deny", "paths": [{"exact": "/a", "prefix": "/b"}]})),
            ["spec.authorization[0].paths[0]", "exact or prefix"],
        ),
        (
            rule(json!({"name": "odd", "action": "Deny", "paths": [{"prefix": "/a/../b"}]})),
            ["spec.authorization[0].paths[0].prefix", "normal form"],
        ),
        (
            rule(json!({"name": "case", "action": "Deny", "methods": ["get"]})),
            ["spec.authorization[0].methods[0]", "should match"],
        ),
        (
            rule(
                json!({"name": "who", "action": "Deny", "from": [{"principals": ["spiffe://a/ns/b/sa/c"]}]}),
            ),
            ["principals", "without a scheme"],
        ),
        (
            json!({"targetRefs": web, "timeouts": {"request": "0s"}}),
            ["spec.timeouts.request", "between 1ms and 1h"],
        ),
        (
            retry(json!({"conditions": []})),
            ["spec.retry", "codes or conditions"],
        ),
        (
            json!({"targetRefs": web, "timeouts": {"request": "1s", "backendRequest": "2s"}}),
            ["spec.timeouts", "longer than timeouts.request"],
        ),
        (
            json!({"targetRefs": web, "timeout": "1s"}),
            ["spec.timeout", "timeout is now timeouts.request"],
        ),
        (
            json!({"targetRefs": web, "timeouts": {"request": "1s"}, "mirror": {}}),
            ["mirror", "unknown field"],
        ),
    ] {
        let manifest = policy("bad", spec);
        let said = lab
            .cluster
            .refusal("default", &manifest)
            .with_context(|| manifest.clone())?;
        ensure!(
            words.iter().all(|word| said.contains(word)),
            "{manifest}\nis refused with\n{said}"
        );
    }
    let scaling = super::ambient(json!({"waypoint": {"minReplicas": 3, "maxReplicas": 2}}));
    let said = lab.cluster.refusal("default", &scaling)?;
    ensure!(
        said.contains("minReplicas must not be above maxReplicas"),
        "{said}"
    );
    Ok(())
}

/// Waits until a policy is not accepted; returns why.
fn not_accepted(lab: &Lab, web: &Web, name: &str) -> Result<(String, String)> {
    eventually(&format!("{name} not to be accepted"), LIMIT, || {
        let policy = get_policy(lab, web, name)?;
        let (status, reason, message) = condition(&policy, "Accepted")?;
        ensure!(status == "False", "it is: {reason}");
        Ok((reason, message))
    })
}

#[test]
fn unknown_target_is_reported_and_last_policy_stays() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("targets", |web| {
        for (name, target, wanted, word) in [
            (
                "nobody",
                json!({"kind": "Service", "name": "nobody"}),
                "TargetNotFound",
                "nobody",
            ),
            (
                "foreign",
                json!({"kind": "Namespace", "name": "default"}),
                "Invalid",
                "default",
            ),
        ] {
            let spec = json!({"targetRefs": [target], "timeouts": {"request": "1s"}});
            lab.cluster.apply(web.namespace(), &policy(name, spec))?;
            let (reason, message) = not_accepted(&lab, web, name)?;
            ensure!(
                reason == wanted && message.contains("targetRefs[0]") && message.contains(word),
                "{reason}: {message}"
            );
        }
        ensure!(
            web.waypoints(super::WAYPOINT)?.is_empty(),
            "a waypoint for nobody"
        );

        let rule = json!({"name": "no-deletes", "action": "Deny", "methods": ["DELETE"]});
        enforce(&lab, web, "verbs", json!({"authorization": [rule]}))?;
        let delete = Request::new("DELETE", "/");
        ensure!(
            web.request("load-a", &delete)?.status == 403,
            "it is not in force"
        );
        let refused = policy(
            "verbs",
            json!({"authorization": [{"name": "empty", "action": "Allow"}]}),
        );
        lab.cluster.refusal(web.namespace(), &refused)?;
        ensure!(
            web.request("load-a", &delete)?.reason() == "denied by targets/verbs/no-deletes",
            "the last good policy is no longer in force"
        );
        // Nor does a target that is misspelt release what the policy protects.
        let rule = json!({"name": "other", "action": "Deny", "methods": ["PUT"]});
        let misspelt = json!({"targetRefs": [{"kind": "Service", "name": "wbe"}], "authorization": [rule]});
        lab.cluster.apply(web.namespace(), &policy("verbs", misspelt))?;
        let (reason, message) = not_accepted(&lab, web, "verbs")?;
        ensure!(
            reason == "TargetNotFound" && message.contains("stays in force"),
            "{reason}: {message}"
        );
        ensure!(
            web.request("load-a", &delete)?.reason() == "denied by targets/verbs/no-deletes",
            "a misspelt target has released the Service"
        );
        web.echo("load-a", &Request::get("/"))?;
        // Operators that come new have it from the status.
        let written = get_policy(&lab, web, "verbs")?["status"]["inForce"].clone();
        ensure!(
            written["spec"]["authorization"][0]["name"] == "no-deletes" && written["generation"] == 1,
            "status.inForce is {written}"
        );
        restart_operators(&lab)?;

        // The Service that was missing comes: the policy is taken up by itself.
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "nobody"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 8080}]}});
        lab.cluster.apply(web.namespace(), &service.to_string())?;
        eventually("the policy to find its target", LIMIT, || {
            let policy = get_policy(&lab, web, "nobody")?;
            let (status, reason, message) = condition(&policy, "Programmed")?;
            ensure!(status == "True", "{reason}: {message}");
            Ok(())
        })?;
        let answer = web.request("load-a", &delete)?;
        ensure!(
            answer.reason() == "denied by targets/verbs/no-deletes",
            "new operators have released the Service: {}",
            answer.head()
        );
        web.echo("load-a", &Request::get("/")).map(drop)
    })
}
