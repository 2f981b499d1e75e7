use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::testing::refusals;

fn mesh(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "ambit.dev/v1alpha1", "kind": "Mesh", "metadata": {"name": name}, "spec": spec})
}

fn refused(object: &Value) -> String {
    refusals(&Mesh::crd(), object, None).join("\n")
}

#[test]
fn the_default_mesh_is_accepted_and_reads_back_with_every_default() {
    assert_eq!(refused(&mesh("default", json!({}))), "");
    let read: Mesh = serde_json::from_value(mesh("default", json!({}))).unwrap();
    assert_eq!(read.spec, MeshSpec::default());
    let written = serde_json::to_value(&read.spec).unwrap();
    assert_eq!(
        written,
        json!({
            "trustDomain": "cluster.local",
            "identity": {"leafTTL": "24h"},
            "mtls": {"mode": "Permissive"},
            "ztunnel": {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}, "logLevel": "info", "drainDeadline": "1m"},
            "telemetry": {"accessLog": "Enabled"},
        })
    );
}

#[test]
fn a_second_mesh_is_refused() {
    assert!(refused(&mesh("other", json!({}))).contains("must be 'default'"));
}

#[test]
fn the_trust_domain_stays() {
    let old = mesh("default", json!({"trustDomain": "a.example"}));
    let new = mesh("default", json!({"trustDomain": "b.example"}));
    let messages = refusals(&Mesh::crd(), &new, Some(&old)).join("\n");
    assert!(messages.contains("trustDomain cannot be changed"), "{messages}");
    assert!(refusals(&Mesh::crd(), &old, Some(&old)).is_empty());
}

#[test]
fn durations_have_bounds() {
    for (ttl, accepted) in [
        ("1m", true),
        ("24h", true),
        ("720h", true),
        ("30s", false),
        ("721h", false),
    ] {
        let messages = refused(&mesh("default", json!({"identity": {"leafTTL": ttl}})));
        assert_eq!(messages.is_empty(), accepted, "{ttl}: {messages}");
    }
    for (deadline, accepted) in [("0s", true), ("1h30m", true), ("24h1s", false)] {
        let messages = refused(&mesh("default", json!({"ztunnel": {"drainDeadline": deadline}})));
        assert_eq!(messages.is_empty(), accepted, "{deadline}: {messages}");
    }
}

#[test]
fn log_levels_are_checked() {
    for (level, accepted) in [
        ("info", true),
        ("info,ambit_ztunnel=debug", true),
        ("h2::proto=off", true),
        ("loud", false),
        ("info,", false),
    ] {
        let messages = refused(&mesh("default", json!({"ztunnel": {"logLevel": level}})));
        assert_eq!(messages.is_empty(), accepted, "{level}: {messages}");
    }
}

#[test]
fn durations_parse() {
    assert_eq!(crate::parse_duration("1h30m").unwrap().as_secs(), 5400);
    let error = crate::parse_duration("soon").unwrap_err().to_string();
    assert!(error.contains("\"soon\" is no duration"), "{error}");
    assert!(crate::parse_duration("-1s").is_err());
}
