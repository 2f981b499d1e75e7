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
            "ztunnel": {"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}, "rollout": {"nodesAtOnce": "10%"}},
            "agent": {"resources": {"requests": {"cpu": "20m", "memory": "32Mi"}}, "rollout": {"nodesAtOnce": "10%"}},
            "placement": {},
            "waypoint": {
                "scaling": {},
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
                "placement": {},
            },
            "telemetry": {"accessLog": "Enabled", "logLevel": "info", "metrics": {"waypointReportsDestination": "Disabled"}},
            "drainDeadline": "1m",
        })
    );
}

#[test]
fn a_second_mesh_is_refused() {
    assert!(refused(&mesh("other", json!({}))).contains("must be 'default'"));
}

#[test]
fn trust_domain_cannot_change() {
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
        let messages = refused(&mesh("default", json!({"drainDeadline": deadline})));
        assert_eq!(messages.is_empty(), accepted, "{deadline}: {messages}");
    }
}

#[test]
fn waypoints_settings_have_bounds() {
    for (scaling, refusal) in [
        (json!({"minReplicas": 2, "maxReplicas": 2}), None),
        (json!({"minReplicas": 9}), None),
        (
            json!({"minReplicas": 3, "maxReplicas": 2}),
            Some("minReplicas must not be above maxReplicas"),
        ),
        (json!({"scaleUpWindow": "0s", "scaleDownWindow": "1h"}), None),
        (
            json!({"scaleUpWindow": "61m"}),
            Some("scaleUpWindow must be at most 1h"),
        ),
        (
            json!({"scaleDownWindow": "2h"}),
            Some("scaleDownWindow must be at most 1h"),
        ),
    ] {
        let messages = refused(&mesh("default", json!({"waypoint": {"scaling": scaling}})));
        assert_eq!(messages, refusal.unwrap_or_default(), "{scaling}");
        let ambient = json!({
            "apiVersion": "ambit.dev/v1alpha1", "kind": "AmbientNamespace",
            "metadata": {"name": "ambient", "namespace": "shop"}, "spec": {"waypoint": scaling},
        });
        let messages = refusals(&crate::AmbientNamespace::crd(), &ambient, None).join("\n");
        assert_eq!(messages, refusal.unwrap_or_default(), "{scaling}");
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
        let messages = refused(&mesh("default", json!({"telemetry": {"logLevel": level}})));
        assert_eq!(messages.is_empty(), accepted, "{level}: {messages}");
    }
}

#[test]
fn only_labels_that_there_are_can_be_dropped_and_the_reporter_cannot() {
    let dropped = |labels: Value| {
        let metrics = json!({"dropLabels": labels, "waypointReportsDestination": "Enabled"});
        mesh("default", json!({"telemetry": {"metrics": metrics}}))
    };
    let object = dropped(json!(["source_principal", "destination_app", "response_code"]));
    assert_eq!(refused(&object), "");
    let read: Mesh = serde_json::from_value(object).unwrap();
    let labels = read.spec.telemetry.metrics.drop_labels;
    assert_eq!(
        serde_json::to_value(labels).unwrap(),
        json!(["source_principal", "destination_app", "response_code"])
    );
    let crd = serde_json::to_value(Mesh::crd()).unwrap();
    let path = ["spec", "telemetry", "metrics", "dropLabels"].map(|field| format!("/properties/{field}"));
    let path = format!(
        "/spec/versions/0/schema/openAPIV3Schema{}/items/enum",
        path.concat()
    );
    let known = crd.pointer(&path).unwrap().as_array().unwrap();
    assert!(
        known.contains(&json!("source_principal")) && !known.contains(&json!("reporter")),
        "{known:?}"
    );
    for label in ["reporter", "source_principals", "le"] {
        let error = serde_json::from_value::<Mesh>(dropped(json!([label]))).unwrap_err();
        assert!(error.to_string().contains("unknown variant"), "{error}");
    }
}

#[test]
fn durations_parse() {
    assert_eq!(crate::parse_duration("1h30m").unwrap().as_secs(), 5400);
    let error = crate::parse_duration("soon").unwrap_err().to_string();
    assert!(error.contains("\"soon\" is no duration"), "{error}");
    assert!(crate::parse_duration("-1s").is_err());
}

#[test]
fn placements_are_checked() {
    let tolerations = |toleration: Value| {
        refused(&mesh(
            "default",
            json!({"placement": {"tolerations": [toleration]}}),
        ))
    };
    for good in [
        json!({"operator": "Exists"}),
        json!({"key": "dedicated", "value": "mesh", "effect": "NoSchedule"}),
        json!({"key": "dedicated", "operator": "Exists", "tolerationSeconds": 30, "effect": "NoExecute"}),
    ] {
        assert_eq!(tolerations(good), "");
    }
    for (bad, message) in [
        (
            json!({"key": "k", "operator": "Exist"}),
            "operator of a toleration",
        ),
        (json!({"key": "k", "effect": "NoRun"}), "effect of a toleration"),
        (json!({"value": "v"}), "without a key needs operator: Exists"),
        (
            json!({"key": "k", "operator": "Exists", "value": "v"}),
            "takes no value",
        ),
    ] {
        let messages = tolerations(bad);
        assert!(messages.contains(message), "{messages}");
    }
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}});
    let object = mesh(
        "default",
        json!({"placement": {"affinity": affinity}, "imagePullSecrets": [{"name": "registry"}]}),
    );
    assert_eq!(refused(&object), "");
    let read: Mesh = serde_json::from_value(object).unwrap();
    assert_eq!(read.spec.placement.affinity, Some(affinity));
    assert_eq!(read.spec.image_pull_secrets[0].name, "registry");
}

#[test]
fn rollouts_are_numbers_or_percentages() {
    for (nodes, accepted) in [
        ("1", true),
        ("5000", true),
        ("1%", true),
        ("100%", true),
        ("0", false),
        ("0%", false),
        ("101%", false),
        ("10 %", false),
        ("ten", false),
    ] {
        for part in ["agent", "ztunnel"] {
            let messages = refused(&mesh(
                "default",
                json!({part: {"rollout": {"nodesAtOnce": nodes}}}),
            ));
            assert_eq!(messages.is_empty(), accepted, "{part} {nodes}: {messages}");
        }
    }
}

#[test]
fn moved_ztunnel_fields_are_refused() {
    let level = refused(&mesh("default", json!({"ztunnel": {"logLevel": "debug"}})));
    assert!(
        level.contains("logLevel is now spec.telemetry.logLevel"),
        "{level}"
    );
    let deadline = refused(&mesh("default", json!({"ztunnel": {"drainDeadline": "5m"}})));
    assert!(
        deadline.contains("drainDeadline is now spec.drainDeadline"),
        "{deadline}"
    );
}
