use super::*;
use security::string_match::MatchType;
use security::{Action, Scope};

fn rule_of(world: &World, name: &str) -> security::Authorization {
    world.authorizations[&format!("shop/{name}")].clone()
}

#[test]
fn strict_mtls_is_an_authorization_that_pods_name() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    let strict = &world.authorizations["ambit-system/strict-mtls"];
    assert_eq!(
        (strict.scope(), strict.action()),
        (Scope::WorkloadSelector, Action::Deny)
    );
    let deny = &strict.rules[0].clauses[0].matches[0];
    assert_eq!(deny.not_principals[0].match_type, Some(MatchType::Presence(())));

    // (the Mesh's, the namespace's, strict in force)
    for (mesh, namespace, expected) in [
        ("Permissive", None, false),
        ("Strict", None, true),
        ("Strict", Some("Permissive"), false),
        ("Permissive", Some("Strict"), true),
    ] {
        world.mesh(json!({"mtls": {"mode": mesh}}));
        world.ambient(
            "shop",
            namespace.map_or(json!({}), |m| json!({"mtls": {"mode": m}})),
        );
        let named = &world.workload("a").unwrap().authorization_policies;
        let got = named.contains(&"ambit-system/strict-mtls".to_owned());
        assert_eq!(got, expected, "mesh {mesh}, namespace {namespace:?}");
    }
    // A pod that is left alone is not protected, and must not look so.
    world.mesh(json!({"mtls": {"mode": "Strict"}}));
    world.ambient("shop", json!({}));
    world.pod(&with(pod("a", "10.0.0.1"), "/spec/hostNetwork", json!(true)));
    assert!(world.workload("a").unwrap().authorization_policies.is_empty());
}

#[test]
fn ports_may_have_a_mode_of_their_own() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    let named = |world: &World| world.workload("a").unwrap().authorization_policies.clone();
    let deny = |world: &World| rule_of(world, "mtls::strict-mtls").rules[0].clauses[0].matches[0].clone();
    let of = |mode: &str, port: &str| json!({"mtls": {"mode": mode, "ports": [{"port": 9090, "mode": port}, {"port": 80, "mode": mode}]}});
    world.ambient("shop", of("Strict", "Permissive"));
    assert_eq!(named(&world), ["shop/mtls::strict-mtls"]);
    assert_eq!(
        deny(&world).not_principals[0].match_type,
        Some(MatchType::Presence(()))
    );
    assert_eq!(
        (deny(&world).destination_ports, deny(&world).not_destination_ports),
        (vec![], vec![9090])
    );
    world.ambient("shop", of("Permissive", "Strict"));
    assert_eq!(named(&world), ["shop/mtls::strict-mtls"]);
    assert_eq!(
        (deny(&world).destination_ports, deny(&world).not_destination_ports),
        (vec![9090], vec![])
    );
    // All alike: the one of all namespaces, or none.
    world.ambient("shop", of("Strict", "Strict"));
    assert_eq!(named(&world), ["ambit-system/strict-mtls"]);
    assert!(!world.authorizations.contains_key("shop/mtls::strict-mtls"));
    world.ambient("shop", of("Permissive", "Permissive"));
    assert_eq!(named(&world), [""; 0]);
}

#[test]
fn a_rule_on_the_wire() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    world.ambient(
        "shop",
        json!({"authorization": [{
            "name": "r", "action": "Deny", "mode": "Audit", "ports": [80, 443],
            "from": [
                {"principals": ["cluster.local/ns/a/sa/b", "cluster.local/ns/a/*", "*/sa/b", "*"], "namespaces": ["x"]},
                {"ipBlocks": ["10.1.2.3/16", "fd00::1"]},
            ],
        }]}),
    );
    let sent = rule_of(&world, "r");
    assert_eq!(
        (sent.scope(), sent.action(), sent.dry_run),
        (Scope::Namespace, Action::Deny, true)
    );
    let clauses = &sent.rules[0].clauses;
    // From one of two callers, and to one of two ports.
    assert_eq!(clauses.len(), 2);
    assert_eq!(clauses[1].matches[0].destination_ports, [80, 443]);
    let [identities, addresses] = clauses[0].matches.as_slice() else {
        panic!("two callers")
    };
    let kinds: Vec<_> = identities
        .principals
        .iter()
        .map(|p| p.match_type.clone().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            MatchType::Exact("cluster.local/ns/a/sa/b".to_owned()),
            MatchType::Prefix("cluster.local/ns/a/".to_owned()),
            MatchType::Suffix("/sa/b".to_owned()),
            MatchType::Presence(()),
        ]
    );
    assert_eq!(identities.namespaces.len(), 1);
    assert_eq!(
        (
            addresses.source_ips[0].address.as_slice(),
            addresses.source_ips[0].length
        ),
        (&[10, 1, 0, 0][..], 16)
    );
    assert_eq!(
        (
            addresses.source_ips[1].address.len(),
            addresses.source_ips[1].length
        ),
        (16, 128)
    );
    // What is sent is what the proxies understand.
    assert!(ambit_policy::Policy::try_from(sent).is_ok());
}

#[test]
fn a_selecting_rule_is_named_by_the_pods_it_selects() {
    let mut world = World::enrolled();
    world.pod(&marked(pod("a", "10.0.0.1")));
    world.pod(&marked(pod("b", "10.0.0.2")));
    let rule = json!({"name": "r", "action": "Allow", "ports": [80], "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]}});
    world.ambient("shop", json!({"authorization": [rule]}));
    assert_eq!(rule_of(&world, "selecting::r").scope(), Scope::WorkloadSelector);
    assert_eq!(
        world.workload("a").unwrap().authorization_policies,
        ["shop/selecting::r"]
    );
    assert!(world.workload("b").unwrap().authorization_policies.is_empty());
    let summary = world.index.namespace_summary("shop");
    assert_eq!((summary.rules[0].name.as_str(), summary.rules[0].pods), ("r", 1));
    // The pod's labels change.
    world.pod(&with(
        marked(pod("b", "10.0.0.2")),
        "/metadata/labels/app",
        json!("a"),
    ));
    assert_eq!(
        world.workload("b").unwrap().authorization_policies,
        ["shop/selecting::r"]
    );
    // The rule goes.
    world.ambient("shop", json!({}));
    assert!(!world.authorizations.contains_key("shop/selecting::r"));
    assert!(world.workload("a").unwrap().authorization_policies.is_empty());
}

#[test]
fn rules_hold_only_in_enrolled_namespaces() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    let rule = json!({"name": "r", "action": "Deny", "ports": [80]});
    world.ambient("shop", json!({"authorization": [rule]}));
    assert!(world.authorizations.contains_key("shop/r"));
    world.ambient("shop", json!({"enrollment": "None", "authorization": [rule]}));
    assert!(!world.authorizations.contains_key("shop/r"));
}

/// Two replicas send the same, whichever version each has seen before.
#[test]
fn what_is_in_force_depends_on_no_earlier_version() {
    let rule = |block: &str| json!({"authorization": [{"name": "r", "action": "Deny", "from": [{"ipBlocks": [block]}]}]});
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    world.ambient("shop", rule("10.0.0.0/8"));
    world.ambient("shop", rule("ten"));
    let mut restarted = World::enrolled();
    restarted.pod(&pod("a", "10.0.0.1"));
    restarted.ambient("shop", rule("ten"));
    assert_eq!(rule_of(&world, "r"), rule_of(&restarted, "r"));
    let invalid = world.index.namespace_summary("shop").rules[0]
        .invalid
        .clone()
        .unwrap();
    assert!(invalid.contains("\"ten\" is neither"), "{invalid}");
}

/// What a namespace sends to nodes is bounded: rules past that close, and the status names the field.
#[test]
fn rules_have_a_budget_of_text() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    let long = |n: usize| format!("cluster.local/ns/{}/sa/{n}", "x".repeat(290));
    let sources: Vec<Value> = (0..8)
        .map(|_| json!({"principals": (0..16).map(long).collect::<Vec<_>>()}))
        .collect();
    let rule = |name: &str, from: &[Value]| json!({"name": name, "action": "Allow", "from": from});
    // 8 × 16 × some 315 characters are within the budget; twice as much is not.
    let (small, large) = (rule("small", &sources), rule("large", &sources));
    let last = json!({"name": "last", "action": "Deny", "ports": [80]});
    world.ambient("shop", json!({"authorization": [small, large, last]}));
    assert_eq!(rule_of(&world, "small").rules[0].clauses[0].matches.len(), 8);
    assert!(rule_of(&world, "large").rules.is_empty(), "it allows nobody");
    let summary = world.index.namespace_summary("shop");
    let invalid: Vec<Option<&str>> = summary.rules.iter().map(|r| r.invalid.as_deref()).collect();
    assert_eq!(invalid[0], None);
    assert!(
        invalid[1].unwrap().starts_with("from: the sources"),
        "{invalid:?}"
    );
    let size: usize = world.authorizations.values().map(Message::encoded_len).sum();
    assert!(size < 100 << 10, "{size}");
}

/// Edits of rules in a storm: few go out, then the last.
#[test]
fn storms_of_edits_go_out_as_one() {
    let mut world = World::enrolled();
    world.pod(&pod("a", "10.0.0.1"));
    world.settle();
    let rule = |port: u32| json!({"authorization": [{"name": "r", "action": "Deny", "ports": [port]}]});
    let port = |world: &World| rule_of(world, "r").rules[0].clauses[0].matches[0].destination_ports[0];
    let mut sent = 0;
    for n in 1..=100 {
        world.ambient("shop", rule(n));
        sent += usize::from(world.last.contains(&"shop/r".to_owned()));
    }
    assert!(sent <= 6, "{sent}");
    assert!(port(&world) < 100);
    assert!(world.index.namespace_summary("shop").deferred);
    // Another namespace's go out.
    world.namespace("bank", Some("ambient"));
    world.ambient("bank", rule(1));
    assert!(!world.index.namespace_summary("bank").deferred);
    world.settle();
    assert_eq!(port(&world), 100);
    assert!(!world.index.namespace_summary("shop").deferred);
    // The object may have gone meanwhile.
    for n in 1..=100 {
        world.ambient("shop", rule(n));
    }
    world.index.set_ambient("shop", None);
    world.settle();
    assert!(!world.authorizations.contains_key("shop/r"));
}

/// Nodes without a pod of the namespace are sent none of its rules, nor is anything sent to them when these change.
#[test]
fn rules_go_to_the_nodes_of_their_namespace() {
    let mut world = World::enrolled();
    let on = |name: &str, ip: &str, node: &str| with(pod(name, ip), "/spec/nodeName", json!(node));
    world.pod(&on("a", "10.0.0.1", "n1"));
    let elsewhere = with(on("b", "10.0.0.2", "n2"), "/metadata/namespace", json!("bank"));
    world.pod(&elsewhere);
    world.ambient(
        "shop",
        json!({"authorization": [{"name": "r", "action": "Deny", "ports": [80]}]}),
    );
    let has = |world: &World, node: &str| {
        world
            .on_nodes
            .get(node)
            .is_some_and(|names| names.contains("shop/r"))
    };
    assert!(has(&world, "n1") && !has(&world, "n2"));
    // A pod is scheduled there: its rules are there before it.
    world.pod(&on("c", "10.0.0.3", ""));
    world.pod(&on("c", "10.0.0.3", "n2"));
    assert!(has(&world, "n2"));
    world.pod(&on("d", "10.0.0.4", "n2"));
    world.delete_pod("shop", "c");
    assert!(has(&world, "n2"));
    // The last one goes while the rules change.
    world.index.set_pod(&Key::new("shop", "d"), None);
    world.ambient(
        "shop",
        json!({"authorization": [{"name": "s", "action": "Deny", "ports": [80]}]}),
    );
    assert!(world.on_nodes["n2"].is_empty(), "{:?}", world.on_nodes);
    assert_eq!(world.on_nodes["n1"], ["shop/s".to_owned()].into());
    world.delete_pod("shop", "a");
    assert!(world.on_nodes["n1"].is_empty());
}

#[test]
fn a_rule_that_never_could_be_read_closes() {
    use ambit_policy::{Connection, Policies, Target};
    let connection = Connection {
        principal: Some("cluster.local/ns/shop/sa/cart"),
        source: "10.0.0.9".parse().unwrap(),
        destination: "10.0.0.1:80".parse().unwrap(),
    };
    for (action, mode, selecting, allowed) in [
        ("Deny", "Enforce", false, false),
        ("Allow", "Enforce", false, false),
        ("Deny", "Enforce", true, false),
        ("Allow", "Enforce", true, false),
        ("Deny", "Audit", false, true),
    ] {
        // As an operator that has just been started sees it.
        let mut world = World::enrolled();
        world.pod(&marked(pod("a", "10.0.0.1")));
        let mut rule = json!({"name": "r", "action": action, "mode": mode, "from": [{"ipBlocks": ["10.0.0.0/8", "ten"]}]});
        if selecting {
            rule["podSelector"] = json!({"matchLabels": {"app": "a"}});
        }
        world.ambient("shop", json!({"authorization": [rule]}));
        let mut policies = Policies::default();
        let name = if selecting { "selecting::r" } else { "r" };
        policies.insert(rule_of(&world, name).try_into().unwrap());
        let named = world.workload("a").unwrap().authorization_policies.clone();
        assert_eq!(named == ["shop/selecting::r"], selecting);
        let target = Target {
            namespace: "shop",
            policies: &named,
        };
        let decision = policies.evaluate(&connection, target);
        assert_eq!(decision.is_allowed(), allowed, "{action} {mode} {selecting}");
        assert!(world.index.namespace_summary("shop").rules[0].invalid.is_some());
    }
}
