use super::*;

/// (label, AmbientNamespace spec, enrolled)
#[test]
fn label_or_object_enrolls_and_none_excludes() {
    let cases = [
        (None, None, false),
        (Some("ambient"), None, true),
        (Some("none"), None, false),
        (None, Some(json!({"enrollment": "Ambient"})), true),
        (None, Some(json!({})), true),
        (Some("ambient"), Some(json!({"enrollment": "None"})), false),
        (Some("none"), Some(json!({"enrollment": "Ambient"})), true),
        (Some("ambient"), Some(json!({"enrollment": "Label"})), true),
        (None, Some(json!({"enrollment": "Label"})), false),
    ];
    for (label, object, enrolled) in cases {
        let mut world = World::empty();
        world.mesh(json!({}));
        world.namespace("shop", label);
        if let Some(spec) = &object {
            world.ambient("shop", spec.clone());
        }
        world.pod(&pod("a", "10.0.0.1"));
        let case = format!("label {label:?}, object {object:?}");
        assert_eq!(world.enrolled.contains_key("shop"), enrolled, "{case}");
        assert_eq!(world.capture("u-a").unwrap().capture, enrolled, "{case}");
    }
}

/// What others write into its metadata (an annotation, a backup's labels) is no wish to enroll.
#[test]
fn the_operators_own_object_does_not_enroll_until_somebody_else_writes_its_spec() {
    let mut world = World::empty();
    world.mesh(json!({}));
    world.namespace("shop", None);
    let object = |managers: Value, labels: Value| {
        json!({
            "metadata": {"name": "ambient", "namespace": "shop", "labels": labels, "managedFields": managers},
            "spec": {"enrollment": "Ambient"},
        })
    };
    let wrote = |manager: &str, field: &str| json!({"manager": manager, "fieldsV1": {field: {}}});
    let own = wrote("ambit-operator", "f:spec");
    let status = json!({"manager": "other", "subresource": "status", "fieldsV1": {"f:spec": {}}});
    let label = json!({"app.kubernetes.io/managed-by": "ambit-operator"});
    world.ambient_object(object(json!([own, status]), label.clone()));
    assert!(!world.index.is_enrolled("shop"));
    let annotated = json!([own, wrote("kubectl-annotate", "f:metadata")]);
    world.ambient_object(object(annotated, json!({"app.kubernetes.io/managed-by": "Helm"})));
    assert!(!world.index.is_enrolled("shop"));
    world.ambient_object(object(json!([own, wrote("kubectl", "f:spec")]), label.clone()));
    assert!(world.index.is_enrolled("shop"));
    world.ambient_object(object(json!([wrote("kubectl", "f:spec")]), label));
    assert!(world.index.is_enrolled("shop"));
}

/// A second writer of its spec, or a restored backup, which has no trace of the operator.
#[test]
fn what_the_operator_writes_enrolls_nothing_whoever_writes_it() {
    let mut world = World::empty();
    world.mesh(json!({}));
    for (label, enrolled) in [(None, false), (Some("ambient"), true)] {
        world.namespace("shop", label);
        for managers in [
            json!(["ambit-operator"]),
            json!(["ambit-operator", "kubectl-edit"]),
            json!(["velero"]),
        ] {
            let wrote =
                |manager: &Value| json!({"manager": manager, "fieldsV1": {"f:spec": {"f:enrollment": {}}}});
            let managers: Vec<Value> = managers.as_array().unwrap().iter().map(wrote).collect();
            world.ambient_object(json!({
                "metadata": {"name": "ambient", "namespace": "shop", "managedFields": managers},
                "spec": {"enrollment": "Label", "authorization": [{"name": "r", "action": "Deny", "ports": [80]}]},
            }));
            assert_eq!(world.index.is_enrolled("shop"), enrolled, "{managers:?}");
        }
    }
}

#[test]
fn system_namespaces_are_never_enrolled() {
    let mut world = World::empty();
    world.mesh(json!({}));
    for name in ["kube-system", "ambit-system"] {
        world.namespace(name, Some("ambient"));
        world.ambient(name, json!({}));
        assert!(!world.index.is_enrolled(name), "{name}");
        let summary = world.index.namespace_summary(name);
        assert!(summary.exempt && summary.asks && !summary.enrolled);
    }
    assert!(world.enrolled.is_empty());
}

#[test]
fn without_a_mesh_nothing_is_captured_and_a_deleted_one_releases_all() {
    let mut world = World::empty();
    world.namespace("shop", Some("ambient"));
    world.pod(&marked(pod("a", "10.0.0.1")));
    assert!(!world.capture("u-a").unwrap().capture);
    assert!(world.node_config.uninstall);

    world.mesh(json!({"drainDeadline": "90s", "trustDomain": "td"}));
    assert!(world.capture("u-a").unwrap().capture);
    assert_eq!(
        world.node_config,
        agent::NodeConfig {
            uninstall: false,
            drain_deadline_seconds: 90,
            trust_domain: "td".to_owned()
        }
    );
    assert_eq!(world.workload("a").unwrap().trust_domain, "td");

    let deleting = MeshRecord {
        deleting: true,
        ..world.index.mesh.clone().unwrap()
    };
    world.index.set_mesh(Some(deleting));
    world.flush();
    assert!(world.enrolled.is_empty());
    world.settle();
    assert!(!world.capture("u-a").unwrap().capture);
    assert!(world.node_config.uninstall);
}

#[test]
fn a_namespace_that_is_gone_is_not_enrolled() {
    let mut world = World::enrolled();
    assert!(world.enrolled.contains_key("shop"));
    world.index.set_namespace("shop", None);
    world.flush();
    assert!(world.enrolled.is_empty());
}
