use serde_json::json;

use super::*;

fn owned(entries: Value) -> Owned {
    let meta: ObjectMeta = serde_json::from_value(json!({ "managedFields": entries })).unwrap();
    Owned::of(&meta)
}

fn covers(fields: Value, object: &Value) -> bool {
    owned(json!([{"manager": "ambit-operator", "operation": "Apply", "fieldsV1": fields}])).covers(object)
}

#[test]
fn field_of_another_manager_is_not_owned() {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "w", "namespace": "shop", "labels": {"a": "b"}},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"x": "y"}}},
    });
    let labels = json!({"f:labels": {"f:a": {}}});
    assert!(covers(
        json!({"f:metadata": labels, "f:spec": {"f:replicas": {}, "f:selector": {}}}),
        &object
    ));
    assert!(
        !covers(
            json!({"f:metadata": labels, "f:spec": {"f:selector": {}}}),
            &object
        ),
        "scaled"
    );
    assert!(
        !covers(
            json!({"f:metadata": labels, "f:spec": {"f:replicas": {}}}),
            &object
        ),
        "another selector"
    );
    assert!(
        !covers(json!({"f:spec": {"f:replicas": {}, "f:selector": {}}}), &object),
        "without its label"
    );
    assert!(!owned(json!([])).covers(&object), "made by somebody else");
    assert!(!Owned::default().covers(&object));
}

#[test]
fn elements_are_found_by_their_keys() {
    let ports = |ports: Value| json!({"spec": {"ports": ports}});
    let fields = json!({"f:spec": {"f:ports": {
        "k:{\"port\":1,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:name": {}},
        "k:{\"port\":2,\"protocol\":\"UDP\"}": {".": {}, "f:port": {}},
    }}});
    let is = |object: Value| covers(fields.clone(), &object);
    assert!(
        is(ports(json!([{"port": 1, "name": "a"}, {"port": 2}]))),
        "a key with a default"
    );
    assert!(!is(ports(json!([{"port": 1, "protocol": "UDP"}]))));
    assert!(!is(ports(json!([{"port": 2, "name": "b"}]))), "renamed");
    assert!(!is(ports(json!([{"port": 3}]))), "taken out");
    let set = json!({"f:metadata": {"f:finalizers": {"v:\"x\"": {}}}});
    assert!(covers(set.clone(), &json!({"metadata": {"finalizers": ["x"]}})));
    assert!(!covers(set, &json!({"metadata": {"finalizers": ["y"]}})));
}

#[test]
fn empty_values_may_be_absent() {
    let object = json!({"spec": {"a": "", "b": null, "c": [], "d": {}, "e": 1}});
    assert!(covers(json!({"f:spec": {"f:e": {}}}), &object));
    let object = json!({"spec": {"a": false, "e": 1}});
    assert!(!covers(json!({"f:spec": {"f:e": {}}}), &object));
}

#[test]
fn webhook_fields_are_owned_and_scaled_ones_are_not() {
    let object = json!({"spec": {"replicas": 1, "image": "a"}});
    let (replicas, image) = (
        json!({"f:spec": {"f:replicas": {}}}),
        json!({"f:spec": {"f:image": {}}}),
    );
    let entry = |manager: &str, fields: &Value, subresource: Option<&str>| {
        json!({
            "manager": manager, "operation": "Update", "fieldsV1": fields, "subresource": subresource,
        })
    };
    let ours = "ambit-operator";
    assert!(owned(json!([entry(ours, &replicas, None), entry(ours, &image, None)])).covers(&object));
    assert!(
        !owned(json!([
            entry(ours, &replicas, None),
            entry("kubectl-edit", &image, None)
        ]))
        .covers(&object)
    );
    assert!(
        !owned(json!([
            entry(ours, &replicas, Some("scale")),
            entry(ours, &image, None)
        ]))
        .covers(&object)
    );
}
