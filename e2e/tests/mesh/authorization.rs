//! L4 rules and mTLS modes.

use std::time::{Duration, SystemTime};

use ambit_e2e::mesh::{self, LogLine, is_ready};
use ambit_e2e::sample::{Shop, Stats, millis};
use ambit_e2e::{eventually, kube};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use ambit_e2e::lab::{LIMIT, Lab};

/// What a rule is promised to take until it is in force.
const IN_FORCE: Duration = Duration::from_secs(2);

fn ambient(spec: Value) -> String {
    let object = json!({"apiVersion": "ambit.dev/v1alpha1", "kind": "AmbientNamespace", "metadata": {"name": "ambient"}, "spec": spec});
    object.to_string()
}

fn principal(shop: &Shop, account: &str) -> String {
    format!("cluster.local/ns/{}/sa/{account}", shop.namespace())
}

/// Waits until a client has had failures of every kind of traffic in `flows` since now; returns what it had counted
/// before.
fn wait_refused(shop: &Shop, client: &str, flows: &[&str], limit: Duration) -> Result<Stats> {
    let before = shop.stats(client)?;
    eventually(&format!("{client} to be refused"), limit, || {
        let now = shop.stats(client)?;
        for flow in flows {
            ensure!(
                now.flows[*flow].failed > before.flows[*flow].failed,
                "{flow} is answered still: {now:?}"
            );
        }
        Ok(())
    })?;
    Ok(before)
}

#[test]
fn deny_rule_refuses_one_client() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("deny", |shop| {
        shop.enroll()?;
        let rule = json!({"name": "no-client-a", "action": "Deny", "from": [{"principals": [principal(shop, "client-a")]}]});
        lab.cluster.apply(shop.namespace(), &ambient(json!({"authorization": [rule]})))?;
        let applied = millis(SystemTime::now());
        let before = wait_refused(shop, "client-a", &["http", "tcp", "banner"], LIMIT)?;
        // By the client's own clock: how often a test can look is another matter.
        for flow in ["http", "tcp", "banner"] {
            let failures = shop.stats("client-a")?.failures;
            let first = failures.iter().find(|failure| failure.flow == flow);
            let first = first.with_context(|| format!("no failure of {flow} since {before:?}"))?;
            let took = Duration::from_millis(first.seen.saturating_sub(applied));
            ensure!(took <= IN_FORCE, "{flow} was refused after {took:?} only");
            println!("{flow} was refused {took:?} after kubectl");
        }
        shop.wait_more("client-b", 20)?;
        let other = shop.stats("client-b")?;
        ensure!(other.total_failed() == 0, "client-b was refused too: {:?}", other.failures);

        let name = format!("{}/no-client-a", shop.namespace());
        eventually("the destination to log and count the refusal", LIMIT, || {
            let mut counted = 0.0;
            let mut logged = 0;
            for ztunnel in mesh::ztunnels(&lab.cluster)? {
                counted += ztunnel.metric("ambit_ztunnel_connections_denied_total", &[&name])?;
                for line in LogLine::find(&lab.cluster, &ztunnel, &[&name, "direction=\"inbound\""])? {
                    let ids = [principal(shop, "client-a"), principal(shop, "server"), name.clone()];
                    ensure!(ids.iter().all(|id| line.text().contains(id)), "{}", line.text());
                    logged += 1;
                }
            }
            ensure!(logged > 0 && counted > 0.0, "{logged} lines, {counted} counted");
            Ok(())
        })?;
        eventually("the status to say who enforces the rule", LIMIT, || {
            let object = shop.ambient()?;
            is_ready(&object)?;
            let rule = &object["status"]["rules"][0];
            ensure!(rule["name"] == "no-client-a" && rule["enforcedBy"] == "ztunnel" && rule["pods"] == 4, "{rule}");
            Ok(())
        })?;

        lab.cluster.apply(shop.namespace(), &ambient(json!({"authorization": []})))?;
        shop.wait_more("client-a", 5).map(drop)
    })
}

#[test]
fn allow_rule_refuses_all_others() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("allow", |shop| {
        shop.enroll()?;
        let rule = json!({
            "name": "b-over-http", "action": "Allow", "ports": [8080], "from": [{"principals": [principal(shop, "client-b")]}],
            "podSelector": {"matchLabels": {"app": "server"}},
        });
        lab.cluster.apply(shop.namespace(), &ambient(json!({"authorization": [rule]})))?;
        wait_refused(shop, "client-a", &["http", "tcp", "banner"], LIMIT)?;
        wait_refused(shop, "client-b", &["tcp", "banner"], LIMIT)?;
        let http = shop.stats("client-b")?.flows["http"];
        eventually("client-b to be answered over HTTP", LIMIT, || {
            let now = shop.stats("client-b")?.flows["http"];
            ensure!(now.ok > http.ok && now.failed == 0, "{now:?}");
            Ok(())
        })
    })
}

#[test]
fn audit_rule_counts_only() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_shop("audit", |shop| {
        shop.enroll()?;
        let rule = json!({"name": "watch-a", "action": "Deny", "mode": "Audit", "from": [{"principals": [principal(shop, "client-a")]}]});
        lab.cluster.apply(shop.namespace(), &ambient(json!({"authorization": [rule]})))?;
        eventually("what would be refused to be counted", LIMIT, || {
            let mut counted = 0.0;
            for ztunnel in mesh::ztunnels(&lab.cluster)? {
                counted += ztunnel.metric("ambit_ztunnel_audit_denials_total", &["watch-a"])?;
            }
            ensure!(counted > 0.0, "nothing is counted");
            Ok(())
        })?;
        shop.wait_more("client-a", 10)?;
        let stats = shop.stats("client-a")?;
        ensure!(stats.total_failed() == 0, "{:?}", stats.failures);
        Ok(())
    })
}

/// One request from a pod outside of the mesh.
fn call_from_outside(lab: &Lab, name: &str, target: &Shop) -> Result<(bool, String)> {
    let outside = Shop::create(&lab.cluster, "outside")?;
    let url = format!("http://server.{}:8080/", target.namespace());
    outside.run_to_end(name, "outsider", &["get", &url, "--timeout=5000"])
}

#[test]
fn strict_refuses_plaintext_and_probes_pass() -> Result<()> {
    let lab = Lab::enter()?;
    let result = lab.with_shop("strict", |shop| {
        shop.enroll()?;
        let (answered, said) = call_from_outside(&lab, "permissive", shop)?;
        ensure!(answered, "permissive, and refused: {said}");

        shop.make_strict()?;
        // The status says what the operator asks for; ztunnels follow at once, but nobody says when.
        let mut attempt = 0;
        eventually("a call from outside to be refused", LIMIT, || {
            attempt += 1;
            let (answered, said) = call_from_outside(&lab, &format!("strict-{attempt}"), shop)?;
            ensure!(!answered, "strict, and answered: {said}");
            Ok(())
        })?;
        eventually("a log to tell of the refusal", LIMIT, || {
            let mut logged = Vec::new();
            for ztunnel in mesh::ztunnels(&lab.cluster)? {
                let words = ["strict-mtls", "dst.namespace=\"strict\""];
                logged.extend(LogLine::find(&lab.cluster, &ztunnel, &words)?);
            }
            ensure!(!logged.is_empty(), "none does");
            Ok(())
        })?;
        shop.wait_more("client-a", 10)?;
        let stats = shop.stats("client-a")?;
        ensure!(
            stats.total_failed() == 0,
            "the mesh's own were refused: {:?}",
            stats.failures
        );

        // New pods become Ready only by their probes.
        lab.cluster.run_kubectl(&[
            "rollout",
            "restart",
            "deployment/server",
            "--namespace",
            shop.namespace(),
        ])?;
        let wait = [
            "rollout",
            "status",
            "deployment/server",
            "--timeout=180s",
            "--namespace",
            shop.namespace(),
        ];
        lab.cluster.run_kubectl(&wait)?;
        for pod in shop.pods()? {
            ensure!(pod.ready && pod.restarts == 0, "probes did not pass: {pod:?}");
        }
        Ok(())
    });
    lab.cluster.run_kubectl(&[
        "delete",
        "namespace",
        "outside",
        "--ignore-not-found",
        "--wait=false",
    ])?;
    result
}

#[test]
fn strict_for_the_whole_mesh() -> Result<()> {
    let lab = Lab::enter()?;
    let result = lab.with_shop("meshstrict", |shop| {
        shop.enroll()?;
        lab.cluster.run_kubectl(&[
            "patch",
            "mesh",
            "default",
            "--type=merge",
            "--patch",
            r#"{"spec":{"mtls":{"mode":"Strict"}}}"#,
        ])?;
        eventually("the namespace to follow the Mesh", LIMIT, || {
            let object = shop.ambient()?;
            ensure!(
                object["status"]["mtlsMode"] == "Strict",
                "{:?}",
                kube::condition(&object, "Ready")
            );
            Ok(())
        })?;
        // From this machine: no pod, no identity.
        let server = shop.pods_of("server")?.remove(0);
        let target = std::net::SocketAddr::from((server.ip, 8080));
        eventually("plaintext to be refused", LIMIT, || {
            let stream = std::net::TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let url = ambit_e2e::http::Url::parse(&format!("http://{target}/"))?;
            ensure!(ambit_e2e::http::get(stream, &url).is_err(), "it is answered");
            Ok(())
        })?;
        shop.wait_more("client-a", 10).map(drop)
    });
    lab.cluster.run_kubectl(&[
        "patch",
        "mesh",
        "default",
        "--type=merge",
        "--patch",
        r#"{"spec":{"mtls":{"mode":"Permissive"}}}"#,
    ])?;
    mesh::wait_ready(&lab.cluster)?;
    result
}
