use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::testing::refusals;

fn refused(name: &str, spec: Value) -> String {
    let object = json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "AmbientNamespace",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    });
    refusals(&AmbientNamespace::crd(), &object, None).join("\n")
}

fn with_rule(rule: Value) -> String {
    refused("ambient", json!({"authorization": [rule]}))
}

fn with_source(source: Value) -> String {
    with_rule(json!({"name": "r", "action": "Deny", "from": [source]}))
}

#[test]
fn another_name_is_refused() {
    assert_eq!(refused("ambient", json!({})), "");
    assert!(refused("shop", json!({})).contains("must be 'ambient'"));
}

#[test]
fn rule_needs_from_or_ports() {
    assert!(with_rule(json!({"name": "r", "action": "Deny"})).contains("a rule needs 'from' or 'ports'"));
    assert!(with_rule(json!({"name": "r", "action": "Deny", "from": []})).contains("a rule needs"));
    assert_eq!(
        with_rule(json!({"name": "r", "action": "Deny", "ports": [8080]})),
        ""
    );
    assert!(with_source(json!({})).contains("needs one of principals, namespaces, ipBlocks"));
}

#[test]
fn principals_have_one_format() {
    for good in [
        "cluster.local/ns/shop/sa/cart",
        "cluster.local/ns/shop/*",
        "*/sa/cart",
        "*",
    ] {
        assert_eq!(with_source(json!({"principals": [good]})), "", "{good}");
    }
    for (bad, why) in [
        ("spiffe://cluster.local/ns/shop/sa/cart", "without a scheme"),
        ("cluster.local/ns/*/sa/cart", "one '*'"),
        ("*/ns/shop/*", "one '*'"),
        ("cart", "<trust domain>/ns/"),
        ("cluster.local/ns/shop", "<trust domain>/ns/"),
    ] {
        let messages = with_source(json!({"principals": [bad]}));
        assert!(messages.contains(why), "{bad}: {messages}");
    }
}

#[test]
fn namespaces_and_blocks_are_checked() {
    for good in ["shop", "shop-*", "*-test", "*"] {
        assert_eq!(with_source(json!({"namespaces": [good]})), "", "{good}");
    }
    for bad in ["Shop", "a*b", "*a*", "a/b"] {
        assert!(
            with_source(json!({"namespaces": [bad]})).contains("namespaces are names"),
            "{bad}"
        );
    }
    for good in ["10.0.0.0/8", "10.1.2.3", "fd00::/8", "::1"] {
        assert_eq!(with_source(json!({"ipBlocks": [good]})), "", "{good}");
    }
    for bad in ["10.0.0.0/33", "10.0.0", "everyone"] {
        assert!(
            with_source(json!({"ipBlocks": [bad]})).contains("ipBlocks are CIDR blocks"),
            "{bad}"
        );
    }
}

#[test]
fn selectors_are_those_of_kubernetes() {
    let selector = |selector: Value| {
        with_rule(json!({"name": "r", "action": "Deny", "ports": [80], "podSelector": selector}))
    };
    for good in [
        json!({"matchLabels": {"app": "a"}}),
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "b"]}]}),
        json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "canary", "operator": "DoesNotExist"}]}),
    ] {
        assert_eq!(selector(good.clone()), "", "{good}");
    }
    for empty in [json!({}), json!({"matchLabels": {}, "matchExpressions": []})] {
        assert!(selector(empty).contains("podSelector needs matchLabels or matchExpressions"));
    }
    for values in [
        json!({"key": "app", "operator": "NotIn"}),
        json!({"key": "app", "operator": "Exists", "values": ["a"]}),
    ] {
        let refused = selector(json!({"matchExpressions": [values]}));
        assert!(refused.contains("In and NotIn need values"), "{refused}");
    }
}

#[test]
fn expressions_select_as_in_kubernetes() {
    let selects = |operator: &str, values: Value, labels: Value| {
        let expression = json!({"key": "app", "operator": operator, "values": values});
        let selector: crate::PodSelector =
            serde_json::from_value(json!({"matchExpressions": [expression]})).unwrap();
        selector.selects(&serde_json::from_value(labels).unwrap())
    };
    let (a, c, none) = (json!({"app": "a"}), json!({"app": "c"}), json!({}));
    let values = json!(["a", "b"]);
    let of = |operator: &str, values: &Value| {
        [&a, &c, &none].map(|labels| selects(operator, values.clone(), labels.clone()))
    };
    assert_eq!(of("In", &values), [true, false, false]);
    assert_eq!(of("NotIn", &values), [false, true, true]);
    assert_eq!(of("Exists", &json!([])), [true, true, false]);
    assert_eq!(of("DoesNotExist", &json!([])), [false, false, true]);
}
