use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::target::TargetKind;
use super::*;
use crate::testing::refusals;

fn refused(spec: Value) -> String {
    let object = json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "WaypointPolicy",
        "metadata": {"name": "orders", "namespace": "shop"}, "spec": spec,
    });
    refusals(&WaypointPolicy::crd(), &object, None).join("\n")
}

/// A good policy, with `part` on top of it.
fn with(part: Value) -> String {
    let mut spec = json!({"targetRefs": [{"kind": "Service", "name": "web"}], "timeouts": {"request": "5s"}});
    for (key, value) in part.as_object().unwrap() {
        spec[key] = value.clone();
    }
    refused(spec)
}

fn with_rule(part: Value) -> String {
    let mut rule = json!({"name": "r", "action": "Deny"});
    for (key, value) in part.as_object().unwrap() {
        rule[key] = value.clone();
    }
    with(json!({"authorization": [rule]}))
}

#[test]
fn empty_policy_is_refused() {
    let targets = json!([{"kind": "Service", "name": "web"}]);
    let nothing = "spec needs one of authorization, timeouts, retry";
    assert!(refused(json!({"targetRefs": targets})).contains(nothing));
    assert!(refused(json!({"targetRefs": targets, "authorization": []})).contains(nothing));
    assert_eq!(
        refused(json!({"targetRefs": targets, "timeouts": {"request": "1s"}})),
        ""
    );
    assert_eq!(refused(json!({"targetRefs": targets, "retry": {}})), "");
    let rule = json!({"name": "r", "action": "Allow", "methods": ["GET"]});
    assert_eq!(
        refused(json!({"targetRefs": targets, "authorization": [rule]})),
        ""
    );
}

#[test]
fn a_target_is_named_once() {
    let (web, api) = (
        json!({"kind": "Service", "name": "web"}),
        json!({"kind": "Service", "name": "api"}),
    );
    let namespace = json!({"kind": "Namespace", "name": "web"});
    assert_eq!(with(json!({"targetRefs": [web, api, namespace]})), "");
    assert!(with(json!({"targetRefs": [web, api, web]})).contains("targetRefs names the same target twice"));
}

fn target(kind: &str, name: &str) -> Value {
    let group = match kind {
        "HTTPRoute" | "GRPCRoute" | "Gateway" => "gateway.networking.k8s.io",
        _ => "",
    };
    json!({"group": group, "kind": kind, "name": name})
}

fn section(kind: &str, name: &str, section: &str) -> Value {
    let mut target = target(kind, name);
    target["sectionName"] = json!(section);
    target
}

#[test]
fn a_kind_has_its_group() {
    for kind in ["Service", "Namespace", "HTTPRoute", "GRPCRoute", "Gateway"] {
        assert_eq!(with(json!({"targetRefs": [target(kind, "web")]})), "", "{kind}");
    }
    for (kind, group) in [
        ("HTTPRoute", Some("")),
        ("GRPCRoute", None),
        ("Gateway", None),
        ("HTTPRoute", Some("networking.k8s.io")),
        ("Service", Some("gateway.networking.k8s.io")),
        ("Namespace", Some("core")),
    ] {
        let mut target = json!({"kind": kind, "name": "web"});
        if let Some(group) = group {
            target["group"] = json!(group);
        }
        let refused = with(json!({"targetRefs": [target]}));
        assert!(
            refused.contains(
                "targetRefs.group is gateway.networking.k8s.io for kinds HTTPRoute, GRPCRoute and Gateway"
            ),
            "{kind} {group:?}: {refused}"
        );
    }
    assert_eq!(TargetKind::HttpRoute.as_str(), json!(TargetKind::HttpRoute));
    assert_eq!(TargetKind::GrpcRoute.as_str(), json!(TargetKind::GrpcRoute));
    assert_eq!(TargetKind::Gateway.as_str(), json!(TargetKind::Gateway));
}

#[test]
fn a_section_is_of_what_has_sections_and_is_named_once() {
    let targets = |targets: Value| with(json!({"targetRefs": targets}));
    for kind in ["Service", "HTTPRoute", "GRPCRoute"] {
        assert_eq!(targets(json!([section(kind, "web", "canary")])), "", "{kind}");
    }
    for kind in ["Namespace", "Gateway"] {
        let refused = targets(json!([section(kind, "shop", "http")]));
        assert!(
            refused.contains("targetRefs.sectionName is the name of"),
            "{kind}: {refused}"
        );
    }
    let two = json!([
        section("HTTPRoute", "web", "a"),
        section("HTTPRoute", "web", "b"),
        target("Service", "web")
    ]);
    assert_eq!(targets(two), "");
    let twice = targets(json!([
        section("HTTPRoute", "web", "a"),
        section("HTTPRoute", "web", "a")
    ]));
    assert!(
        twice.contains("targetRefs names the same target twice"),
        "{twice}"
    );
    let both = targets(json!([
        section("HTTPRoute", "web", "a"),
        target("HTTPRoute", "web")
    ]));
    assert!(
        both.contains("targetRefs names a target and a section of it"),
        "{both}"
    );
}

#[test]
fn empty_rule_is_refused() {
    for empty in [
        json!({}),
        json!({"mode": "Audit"}),
        json!({"from": [], "methods": [], "paths": [], "hosts": [], "headers": []}),
    ] {
        assert!(with_rule(empty).contains("a rule needs one of from, methods, paths, hosts, headers"));
    }
    for good in [
        json!({"from": [{"namespaces": ["shop"]}]}),
        json!({"methods": ["GET", "M-SEARCH"]}),
        json!({"paths": [{"prefix": "/"}]}),
        json!({"hosts": ["*.shop.svc.cluster.local", "shop"]}),
        json!({"headers": [{"name": "X-Role"}]}),
    ] {
        assert_eq!(with_rule(good.clone()), "", "{good}");
    }
}

#[test]
fn callers_are_named_in_one_format() {
    assert!(with_rule(json!({"from": [{}]})).contains("needs one of principals, namespaces"));
    assert!(with_rule(json!({"from": [{"principals": []}]})).contains("needs one of principals, namespaces"));
    let principal = |p: &str| with_rule(json!({"from": [{"principals": [p]}]}));
    for good in [
        "cluster.local/ns/shop/sa/cart",
        "cluster.local/ns/shop/*",
        "*/sa/cart",
        "*",
    ] {
        assert_eq!(principal(good), "", "{good}");
    }
    for (bad, why) in [
        ("spiffe://cluster.local/ns/shop/sa/cart", "without a scheme"),
        ("cluster.local/ns/*/sa/cart", "one '*'"),
        ("*/ns/shop/*", "one '*'"),
        ("cart", "<trust domain>/ns/"),
        ("cluster.local/ns//sa/cart", "<trust domain>/ns/"),
    ] {
        assert!(principal(bad).contains(why), "{bad}: {}", principal(bad));
    }
    let namespace = |n: &str| with_rule(json!({"from": [{"namespaces": [n]}]}));
    for good in ["shop", "shop-*", "*-test", "*"] {
        assert_eq!(namespace(good), "", "{good}");
    }
    for bad in ["Shop", "a*b", "*a*", "a/b"] {
        assert!(
            namespace(bad).contains("namespaces are names of namespaces"),
            "{bad}"
        );
    }
}

#[test]
fn a_path_is_exact_or_a_prefix_and_in_normal_form() {
    let path = |path: Value| with_rule(json!({"paths": [path]}));
    for neither in [json!({}), json!({"exact": "/a", "prefix": "/a"})] {
        assert!(path(neither).contains("a path needs exact or prefix"));
    }
    for good in [
        "/",
        "/orders",
        "/orders/7",
        "/orders/",
        "/a.b",
        "/...",
        "/.well-known/x",
        "/a:b@c,d=e+f~g!",
    ] {
        assert_eq!(path(json!({"exact": good})), "", "{good}");
        assert_eq!(path(json!({"prefix": good})), "", "{good}");
    }
    let bad = [
        "orders", "//", "/a//b", "/./a", "/a/.", "/..", "/a/../b", "/a/..", "/a?b", "/a#b", "/a;b", "/a%2fb",
        "/a\\b", "/a*", "/*", "/a\u{0}", "/a\nb",
    ];
    for bad in bad {
        let exact = path(json!({"exact": bad}));
        assert!(exact.contains("are written in normal form"), "{bad:?}: {exact}");
        let prefix = path(json!({"prefix": bad}));
        assert!(prefix.contains("are written in normal form"), "{bad:?}: {prefix}");
    }
}

#[test]
fn header_values_take_one_star_at_an_end() {
    let value = |value: &str| with_rule(json!({"headers": [{"name": "x-role", "values": [value]}]}));
    for good in ["admin", "*-admin", "admin-*", "*"] {
        assert_eq!(value(good), "", "{good}");
    }
    for bad in ["a*b", "*a*", "**"] {
        assert!(value(bad).contains("values take one '*'"), "{bad}");
    }
}

#[test]
fn timeouts_have_limits() {
    for good in ["1ms", "1500ms", "1s", "1m30s", "1h"] {
        assert_eq!(with(json!({"timeouts": {"request": good}})), "", "{good}");
    }
    for bad in ["0s", "0ms", "61m", "2h"] {
        assert!(
            with(json!({"timeouts": {"request": bad}}))
                .contains("timeouts.request must be between 1ms and 1h"),
            "{bad}"
        );
    }
}

#[test]
fn empty_retry_is_refused() {
    let retry = |retry: Value| with(json!({"retry": retry}));
    // Left out, connections that fail are.
    assert_eq!(retry(json!({})), "");
    assert_eq!(
        retry(json!({"attempts": 3, "codes": [502, 503], "conditions": []})),
        ""
    );
    let nothing = retry(json!({"conditions": []}));
    assert!(nothing.contains("retry needs codes or conditions"), "{nothing}");
    assert_eq!(retry(json!({"backoff": "1m"})), "");
    for bad in ["0s", "61s"] {
        let refused = retry(json!({"backoff": bad}));
        assert!(
            refused.contains("backoff must be between 1ms and 1m"),
            "{bad}: {refused}"
        );
    }
}

#[test]
fn backend_request_fits_in_request() {
    let retry = |per_try: &str, conditions: Value| {
        with(
            json!({"timeouts": {"request": "2s", "backendRequest": per_try}, "retry": {"conditions": conditions}}),
        )
    };
    assert_eq!(retry("2s", json!(["Reset"])), "");
    assert!(
        retry("2001ms", json!(["Reset"])).contains("backendRequest must not be longer than timeouts.request")
    );
    assert!(retry("0s", json!(["Reset"])).contains("backendRequest must be between 1ms and 1h"));
    assert!(retry("1s", json!(["ConnectFailure"])).contains("needs Reset among retry.conditions"));
    // Without a timeout of the whole nothing limits it but itself.
    let alone =
        json!({"targetRefs": [{"kind": "Service", "name": "web"}], "timeouts": {"backendRequest": "1h"}});
    assert_eq!(refused(alone), "");
    assert!(with(json!({"timeouts": {}})).contains("timeouts needs request or backendRequest"));
}

/// Fields of before the Gateway API's names.
#[test]
fn renamed_fields_are_refused_with_new_name() {
    assert!(with(json!({"timeout": "1s"})).contains("timeout is now timeouts.request"));
    let codes = with(json!({"retry": {"statusCodes": [502]}}));
    assert!(codes.contains("statusCodes is now codes"), "{codes}");
    let one = with(json!({"retry": {"perTryTimeout": "1s"}}));
    assert!(
        one.contains("perTryTimeout is now spec.timeouts.backendRequest"),
        "{one}"
    );
}

/// Contradictions within one object are refused at once. Those that need a comparison of rules are in the status.
#[test]
fn contradictions() {
    let rule = |name: &str, action: &str| json!({"name": name, "action": action, "methods": ["GET"]});
    let both = with(json!({"authorization": [rule("a", "Allow"), rule("b", "Deny")]}));
    assert_eq!(both, "", "Accepted: False says it, with both rules' names");
}

/// The schema's own limits, which the API server checks without CEL.
#[test]
fn schema_limits() {
    let crd = serde_json::to_value(WaypointPolicy::crd()).unwrap();
    let spec = crd
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties")
        .unwrap();
    let at = |path: &str| spec.pointer(path).unwrap_or_else(|| panic!("{path}")).clone();
    assert_eq!(at("/targetRefs/minItems"), 1);
    assert_eq!(at("/targetRefs/maxItems"), 16);
    assert_eq!(
        at("/targetRefs/items/properties/kind/enum"),
        json!(["Service", "Namespace", "HTTPRoute", "GRPCRoute", "Gateway"])
    );
    let section = at("/targetRefs/items/properties/sectionName/pattern");
    assert!(section.as_str().unwrap().starts_with("^[a-z0-9]"));
    assert_eq!(at("/authorization/x-kubernetes-list-map-keys"), json!(["name"]));
    assert_eq!(
        at("/authorization/items/properties/mode/enum"),
        json!(["Enforce", "Audit"])
    );
    assert_eq!(at("/retry/properties/attempts/maximum"), 10.0);
    assert_eq!(at("/retry/properties/codes/items/minimum"), 400.0);
    let methods = at("/authorization/items/properties/methods/items/pattern");
    assert!(methods.as_str().unwrap().starts_with("^[A-Z]"));
    for field in [
        "timeouts/properties/request",
        "timeouts/properties/backendRequest",
        "retry/properties/backoff",
    ] {
        assert!(at(&format!("/{field}/pattern")).is_string(), "{field}");
    }
}
