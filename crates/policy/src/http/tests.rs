use super::*;
use crate::{Decision, Reason, Verdict};

const CART: &str = "cluster.local/ns/shop/sa/cart";

struct Fields(&'static [(&'static str, &'static [u8])]);

impl Headers for Fields {
    fn any(&self, name: &str, matches: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.0.iter().any(|(n, value)| *n == name && matches(value))
    }
}

fn rule(name: &str, action: Action) -> HttpRule {
    HttpRule {
        name: format!("shop/orders/{name}"),
        action,
        audit: false,
        from: Vec::new(),
        methods: Vec::new(),
        paths: Vec::new(),
        hosts: Vec::new(),
        headers: Vec::new(),
    }
}

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.to_owned())
}

fn from_cart() -> Vec<Source> {
    vec![Source {
        principals: vec![exact(CART)],
        namespaces: Vec::new(),
    }]
}

fn decide(rules: &[HttpRule], principal: Option<&str>, method: &str, path: &str) -> Decision {
    let headers = Fields(&[]);
    let attributes = Attributes {
        method,
        path,
        host: "server.shop",
        headers: &headers,
    };
    evaluate(
        rules,
        &HttpRequest {
            principal,
            attributes: Some(attributes),
        },
    )
}

fn matches(rule: HttpRule, attributes: Attributes<'_>) -> bool {
    let allow = HttpRule {
        action: Action::Allow,
        ..rule
    };
    let request = HttpRequest {
        principal: Some(CART),
        attributes: Some(attributes),
    };
    evaluate(&[allow], &request).is_allowed()
}

#[test]
fn deny_goes_before_allow_and_allow_before_the_rest() {
    let deletes = HttpRule {
        methods: vec!["DELETE".into()],
        ..rule("no-deletes", Action::Deny)
    };
    let cart = HttpRule {
        from: from_cart(),
        ..rule("readers", Action::Allow)
    };
    let rules = [cart.clone(), deletes.clone()];
    let reason = |rules: &[HttpRule], principal, method| {
        let decision = decide(rules, principal, method, "/orders");
        (decision.verdict, decision.reason.to_string())
    };
    let (allow, deny) = (Verdict::Allow, Verdict::Deny);
    assert_eq!(
        reason(&rules, Some(CART), "GET"),
        (allow, "allowed by shop/orders/readers".into())
    );
    assert_eq!(
        reason(&rules, Some(CART), "DELETE"),
        (deny, "denied by shop/orders/no-deletes".into())
    );
    let other = Some("cluster.local/ns/shop/sa/other");
    assert_eq!(
        reason(&rules, other, "GET"),
        (deny, "not allowed by any of shop/orders/readers".into())
    );
    assert_eq!(
        reason(&rules[1..], other, "GET"),
        (allow, "no deny policy matched".into())
    );
    assert_eq!(reason(&[], None, "GET"), (allow, "no policy applies".into()));
}

#[test]
fn deny_takes_a_method_in_any_case_and_allow_as_it_is_written() {
    let deletes = |action, audit| HttpRule {
        methods: vec!["DELETE".into()],
        audit,
        ..rule("deletes", action)
    };
    for method in ["DELETE", "delete", "Delete", "dELETE"] {
        let denied = decide(&[deletes(Action::Deny, false)], Some(CART), method, "/");
        assert_eq!(denied.verdict, Verdict::Deny, "{method}");
        let audited = decide(&[deletes(Action::Deny, true)], Some(CART), method, "/");
        assert_eq!(audited.audited, ["shop/orders/deletes"], "{method}");
        let allowed = decide(&[deletes(Action::Allow, false)], Some(CART), method, "/");
        assert_eq!(allowed.is_allowed(), method == "DELETE", "{method}");
    }
    let other = decide(&[deletes(Action::Deny, false)], Some(CART), "DELETED", "/");
    assert!(other.is_allowed());
}

#[test]
fn audit_rules_tell_and_decide_nothing() {
    let deny = HttpRule {
        audit: true,
        methods: vec!["DELETE".into()],
        ..rule("would-deny", Action::Deny)
    };
    let allow = HttpRule {
        audit: true,
        from: from_cart(),
        ..rule("would-allow", Action::Allow)
    };
    let rules = [deny, allow];
    let other = decide(&rules, Some("cluster.local/ns/shop/sa/other"), "DELETE", "/");
    assert!(other.is_allowed());
    assert_eq!(other.reason, Reason::NoPolicy);
    assert_eq!(
        other.audited,
        ["shop/orders/would-deny", "shop/orders/would-allow"]
    );
    assert_eq!(decide(&rules, Some(CART), "GET", "/").audited, [""; 0]);
}

#[test]
fn a_rule_without_values_matches_nothing() {
    assert!(!decide(&[rule("empty", Action::Allow)], Some(CART), "GET", "/").is_allowed());
    assert!(decide(&[rule("empty", Action::Deny)], Some(CART), "GET", "/").is_allowed());
    let nobody = HttpRule {
        from: vec![Source::default()],
        ..rule("nobody", Action::Allow)
    };
    assert!(!decide(&[nobody], Some(CART), "GET", "/").is_allowed());
}

#[test]
fn callers_match_by_principal_and_namespace() {
    let from = |principals: Vec<StringMatch>, namespaces: Vec<StringMatch>| HttpRule {
        from: vec![Source {
            principals,
            namespaces,
        }],
        ..rule("from", Action::Allow)
    };
    let allowed = |rule: HttpRule, principal| decide(&[rule], principal, "GET", "/").is_allowed();
    let prefix = |text: &str| StringMatch::Prefix(text.to_owned());
    let suffix = |text: &str| StringMatch::Suffix(text.to_owned());
    assert!(allowed(from(vec![exact(CART)], vec![]), Some(CART)));
    assert!(allowed(from(vec![], vec![exact("shop")]), Some(CART)));
    assert!(allowed(
        from(vec![prefix("cluster.local/ns/shop/")], vec![]),
        Some(CART)
    ));
    assert!(allowed(from(vec![suffix("/sa/cart")], vec![]), Some(CART)));
    assert!(allowed(from(vec![StringMatch::Presence], vec![]), Some(CART)));
    // Both lists are asked.
    assert!(!allowed(
        from(vec![exact(CART)], vec![exact("other")]),
        Some(CART)
    ));
    // Nobody is nobody.
    assert!(!allowed(from(vec![StringMatch::Presence], vec![]), None));
    assert!(!allowed(from(vec![], vec![prefix("")]), None));
    assert!(!allowed(from(vec![prefix("")], vec![]), None));
}

#[test]
fn paths_match_by_whole_segments_and_as_applications_decode_them() {
    let headers = Fields(&[]);
    let of = |one: PathMatch, path: &str| {
        let attributes = Attributes {
            method: "GET",
            path,
            host: "",
            headers: &headers,
        };
        let paths = HttpRule {
            paths: vec![one],
            ..rule("paths", Action::Allow)
        };
        matches(paths, attributes)
    };
    let prefix = |text: &str| PathMatch::Prefix(text.to_owned());
    let exact = |text: &str| PathMatch::Exact(text.to_owned());
    for path in ["/orders", "/orders/", "/orders/7"] {
        assert!(of(prefix("/orders"), path), "{path}");
        assert!(of(prefix("/orders/"), path), "{path}");
        assert!(of(prefix("/"), path), "{path}");
    }
    for path in ["/orders-old", "/order", "/", "/Orders", "/x/orders"] {
        assert!(!of(prefix("/orders"), path), "{path}");
    }
    assert!(of(prefix("/"), "*"));
    assert!(of(exact("/orders"), "/orders"));
    assert!(!of(exact("/orders"), "/orders/"));
    assert!(!of(exact("/orders"), "/orders/7"));
    // No rule is got round by encoding what needs none.
    assert!(of(exact("/a@b"), "/a%40b"));
    assert!(of(exact("/café"), "/caf%C3%A9"));
    assert!(of(exact("/a b"), "/a%20b"));
    assert!(of(prefix("/a!b"), "/a%21b/c"));
    assert!(!of(exact("/a@b"), "/a%2540b"));
}

#[test]
fn hosts_match_whole_or_by_their_last_labels() {
    let headers = Fields(&[]);
    let of = |one: HostMatch, host: &str| {
        let attributes = Attributes {
            method: "GET",
            path: "/",
            host,
            headers: &headers,
        };
        let hosts = HttpRule {
            hosts: vec![one],
            ..rule("hosts", Action::Allow)
        };
        matches(hosts, attributes)
    };
    let suffix = || HostMatch::Suffix(".example.com".to_owned());
    assert!(of(HostMatch::Exact("example.com".to_owned()), "example.com"));
    assert!(of(suffix(), "a.example.com"));
    assert!(of(suffix(), "a.b.example.com"));
    assert!(!of(suffix(), "example.com"));
    assert!(!of(suffix(), ".example.com"));
    assert!(!of(suffix(), "badexample.com"));
    assert!(!of(suffix(), ""));
}

/// Whether a rule with these headers matches a request with these fields, by the rule's action and whether it is on
/// audit.
fn matches_headers(
    action: Action,
    audit: bool,
    wanted: &[(&str, &[StringMatch])],
    fields: &'static [(&'static str, &'static [u8])],
) -> bool {
    let one = |(name, values): &(&str, &[StringMatch])| HeaderMatch {
        name: (*name).to_owned(),
        values: values.to_vec(),
    };
    let headers = HttpRule {
        headers: wanted.iter().map(one).collect(),
        audit,
        ..rule("headers", action)
    };
    let attributes = Attributes {
        method: "GET",
        path: "/",
        host: "",
        headers: &Fields(fields),
    };
    let request = HttpRequest {
        principal: Some(CART),
        attributes: Some(attributes),
    };
    let decision = evaluate(&[headers], &request);
    match (audit, action) {
        (false, Action::Allow) => decision.is_allowed(),
        (false, Action::Deny) => !decision.is_allowed(),
        (true, Action::Allow) => decision.audited.is_empty(),
        (true, Action::Deny) => !decision.audited.is_empty(),
    }
}

#[test]
fn all_headers_must_match_by_one_of_the_values() {
    const FIELDS: &[(&str, &[u8])] = &[
        ("x-role", b"admin"),
        ("x-raw", b"\xff\x01"),
        ("x-empty", b""),
        ("x-list", b"user, admin"),
    ];
    let prefix = |text: &str| StringMatch::Prefix(text.to_owned());
    let suffix = |text: &str| StringMatch::Suffix(text.to_owned());
    for action in [Action::Allow, Action::Deny] {
        let of = |wanted: &[(&str, &[StringMatch])]| matches_headers(action, false, wanted, FIELDS);
        assert!(of(&[("x-role", &[exact("admin")])]));
        assert!(of(&[("x-role", &[exact("nobody"), prefix("ad")])]));
        assert!(of(&[("x-role", &[suffix("min")]), ("x-raw", &[])]));
        assert!(of(&[("x-empty", &[])]));
        assert!(of(&[("x-empty", &[StringMatch::Presence])]));
        assert!(!of(&[("x-role", &[exact("admin")]), ("x-other", &[])]));
        assert!(!of(&[("x-other", &[StringMatch::Presence])]));
        assert!(!of(&[("x-other", &[])]));
        // A list in one field is one value.
        assert!(!of(&[("x-list", &[exact("user"), exact("admin")])]));
        assert!(of(&[("x-list", &[exact("user, admin")])]));
    }
}

#[test]
fn of_a_repeated_field_every_line_is_to_be_allowed_and_none_denied() {
    const REPEATED: &[(&str, &[u8])] = &[("x-role", b"user"), ("x-role", b"admin"), ("x-other", b"1")];
    for audit in [false, true] {
        let of =
            |action, values: &[StringMatch]| matches_headers(action, audit, &[("x-role", values)], REPEATED);
        let all = |values: &[StringMatch]| of(Action::Allow, values);
        assert!(!all(&[exact("user")]));
        assert!(!all(&[exact("admin")]));
        assert!(all(&[exact("user"), exact("admin")]));
        assert!(all(&[exact("user"), StringMatch::Prefix("adm".into())]));
        assert!(all(&[StringMatch::Presence]));
        assert!(all(&[]));
        let any = |values: &[StringMatch]| of(Action::Deny, values);
        assert!(any(&[exact("user")]));
        assert!(any(&[exact("admin")]));
        assert!(any(&[]));
        assert!(!any(&[exact("nobody")]));
    }
}

#[test]
fn what_is_no_http_is_closed_to_rules_for_http() {
    let connection = HttpRequest {
        principal: Some(CART),
        attributes: None,
    };
    let decide = |rule: HttpRule| evaluate(&[rule], &connection).is_allowed();
    let gets = |action| HttpRule {
        methods: vec!["GET".into()],
        ..rule("gets", action)
    };
    assert!(!decide(gets(Action::Allow)));
    assert!(!decide(gets(Action::Deny)));
    let others = |action| HttpRule {
        from: vec![Source {
            principals: vec![exact("cluster.local/ns/shop/sa/other")],
            namespaces: Vec::new(),
        }],
        ..gets(action)
    };
    assert!(decide(others(Action::Deny)), "the callers still tell");
    let cart = |action| HttpRule {
        from: from_cart(),
        ..rule("cart", action)
    };
    assert!(decide(cart(Action::Allow)));
    assert!(!decide(cart(Action::Deny)));
    let audited = evaluate(
        &[HttpRule {
            audit: true,
            ..gets(Action::Deny)
        }],
        &connection,
    );
    assert!(audited.is_allowed());
    assert_eq!(audited.audited, ["shop/orders/gets"]);
}

#[test]
fn a_reason_names_a_few_rules_and_counts_the_rest() {
    let text =
        |count: usize| Reason::NotAllowedBy((1..=count).map(|n| format!("r{n}")).collect()).to_string();
    assert_eq!(text(5), "not allowed by any of r1, r2, r3, r4, r5");
    assert_eq!(text(7), "not allowed by any of r1, r2, r3, r4, r5 and 2 more");
}
