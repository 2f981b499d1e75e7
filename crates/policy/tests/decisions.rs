//! Decisions a user can observe, each a small table.

#![allow(clippy::unwrap_used, reason = "a test may end at a surprise")]

use ambit_policy::{
    Action, Clause, Connection, Decision, Match, Policies, Policy, Reason, Rule, Scope, ServiceAccountMatch,
    StringMatch, Target,
};

const SLEEP: &str = "cluster.local/ns/default/sa/sleep";
const OTHER: &str = "cluster.local/ns/other/sa/sleep";

fn policy(name: &str, action: Action, matches: Vec<Match>) -> Policy {
    Policy {
        name: format!("shop/{name}").parse().unwrap(),
        scope: Scope::Namespace,
        action,
        rules: vec![Rule(vec![Clause(matches)])],
        audit: false,
    }
}

fn principal(text: &str) -> Match {
    Match {
        principals: vec![StringMatch::Exact(text.into())],
        ..Match::default()
    }
}

fn decide(policies: Vec<Policy>, principal: Option<&str>) -> Decision {
    decide_naming(policies, principal, &[])
}

fn decide_naming(policies: Vec<Policy>, principal: Option<&str>, named: &[String]) -> Decision {
    let mut set = Policies::default();
    policies.into_iter().for_each(|p| set.insert(p));
    let connection = Connection {
        principal,
        source: "10.0.0.7".parse().unwrap(),
        destination: "10.0.1.9:8080".parse().unwrap(),
    };
    set.evaluate(
        &connection,
        Target {
            namespace: "shop",
            policies: named,
        },
    )
}

#[test]
fn without_policies_everything_is_allowed() {
    let decision = decide(vec![], None);
    assert!(decision.is_allowed());
    assert_eq!(decision.reason, Reason::NoPolicy);
}

#[test]
fn a_deny_that_matches_wins_over_an_allow_that_matches() {
    let both = vec![
        policy("let", Action::Allow, vec![principal(SLEEP)]),
        policy("stop", Action::Deny, vec![principal(SLEEP)]),
    ];
    assert_eq!(
        decide(both, Some(SLEEP)).reason,
        Reason::DeniedBy("shop/stop".into())
    );
}

#[test]
fn a_deny_that_does_not_match_leaves_the_rest_open() {
    let decision = decide(
        vec![policy("stop", Action::Deny, vec![principal(SLEEP)])],
        Some(OTHER),
    );
    assert!(decision.is_allowed());
    assert_eq!(decision.reason, Reason::NotDenied);
}

#[test]
fn an_allow_closes_the_rest() {
    let allow = || vec![policy("let", Action::Allow, vec![principal(SLEEP)])];
    assert_eq!(
        decide(allow(), Some(SLEEP)).reason,
        Reason::AllowedBy("shop/let".into())
    );
    assert_eq!(
        decide(allow(), Some(OTHER)).reason,
        Reason::NotAllowedBy(vec!["shop/let".into()])
    );
    assert!(!decide(allow(), None).is_allowed());
}

#[test]
fn a_policy_of_another_namespace_does_not_apply() {
    let mut elsewhere = policy("stop", Action::Deny, vec![principal(SLEEP)]);
    elsewhere.name = "bank/stop".parse().unwrap();
    assert!(decide(vec![elsewhere.clone()], Some(SLEEP)).is_allowed());
    elsewhere.scope = Scope::Global;
    assert!(!decide(vec![elsewhere], Some(SLEEP)).is_allowed());
}

#[test]
fn a_selected_policy_applies_where_it_is_named_and_closes_while_it_is_missing() {
    let mut selected = policy("stop", Action::Deny, vec![principal(SLEEP)]);
    selected.scope = Scope::WorkloadSelector;
    let named = ["shop/stop".to_owned()];
    assert!(decide(vec![selected.clone()], Some(SLEEP)).is_allowed());
    assert!(!decide_naming(vec![selected], Some(SLEEP), &named).is_allowed());
    assert_eq!(
        decide_naming(vec![], Some(OTHER), &named).reason,
        Reason::PolicyMissing("shop/stop".into())
    );
}

#[test]
fn variants_of_a_policy_are_told_by_one_name() {
    let variants = |action| {
        let mut selected = policy("selecting::one", action, vec![principal(SLEEP)]);
        selected.scope = Scope::WorkloadSelector;
        vec![policy("one", action, vec![principal(SLEEP)]), selected]
    };
    let named = ["shop/selecting::one".to_owned()];
    let one = || "shop/one".to_owned();
    let decide = |policies, caller| decide_naming(policies, Some(caller), &named).reason;
    assert_eq!(decide(variants(Action::Deny), SLEEP), Reason::DeniedBy(one()));
    assert_eq!(decide(variants(Action::Allow), SLEEP), Reason::AllowedBy(one()));
    assert_eq!(
        decide(variants(Action::Allow), OTHER),
        Reason::NotAllowedBy(vec![one()])
    );
    assert_eq!(decide(vec![], SLEEP), Reason::PolicyMissing(one()));
    // Counted once.
    for (action, caller) in [(Action::Deny, SLEEP), (Action::Allow, OTHER)] {
        let mut audit = variants(action);
        audit.iter_mut().for_each(|p| p.audit = true);
        assert_eq!(decide_naming(audit, Some(caller), &named).audited, [one()]);
    }
}

#[test]
fn strict_mutual_tls_is_a_deny_of_callers_without_a_principal() {
    let strict = || {
        let absent = Match {
            not_principals: vec![StringMatch::Presence],
            ..Match::default()
        };
        vec![policy("strict-mtls", Action::Deny, vec![absent])]
    };
    assert!(!decide(strict(), None).is_allowed());
    assert!(decide(strict(), Some(SLEEP)).is_allowed());
}

#[test]
fn each_field_of_a_match_is_compared() {
    let cases: Vec<(&str, Match, bool)> = vec![
        (
            "namespace",
            Match {
                namespaces: vec![StringMatch::Exact("default".into())],
                ..Match::default()
            },
            true,
        ),
        (
            "namespace",
            Match {
                namespaces: vec![StringMatch::Exact("def".into())],
                ..Match::default()
            },
            false,
        ),
        (
            "prefix",
            Match {
                namespaces: vec![StringMatch::Prefix("def".into())],
                ..Match::default()
            },
            true,
        ),
        (
            "suffix",
            Match {
                principals: vec![StringMatch::Suffix("/sa/sleep".into())],
                ..Match::default()
            },
            true,
        ),
        (
            "presence",
            Match {
                principals: vec![StringMatch::Presence],
                ..Match::default()
            },
            true,
        ),
        (
            "not",
            Match {
                not_principals: vec![StringMatch::Exact(SLEEP.into())],
                ..Match::default()
            },
            false,
        ),
        (
            "service account",
            Match {
                service_accounts: vec![ServiceAccountMatch {
                    namespace: "default".into(),
                    service_account: "sleep".into(),
                }],
                ..Match::default()
            },
            true,
        ),
        (
            "source",
            Match {
                source_ips: vec!["10.0.0.0/24".parse().unwrap()],
                ..Match::default()
            },
            true,
        ),
        (
            "source",
            Match {
                source_ips: vec!["10.0.2.0/24".parse().unwrap()],
                ..Match::default()
            },
            false,
        ),
        (
            "not source",
            Match {
                not_source_ips: vec!["10.0.0.0/24".parse().unwrap()],
                ..Match::default()
            },
            false,
        ),
        (
            "destination",
            Match {
                destination_ips: vec!["10.0.1.9/32".parse().unwrap()],
                ..Match::default()
            },
            true,
        ),
        (
            "port",
            Match {
                destination_ports: vec![80, 8080],
                ..Match::default()
            },
            true,
        ),
        (
            "port",
            Match {
                destination_ports: vec![80],
                ..Match::default()
            },
            false,
        ),
        (
            "not port",
            Match {
                not_destination_ports: vec![8080],
                ..Match::default()
            },
            false,
        ),
        (
            "all fields must match",
            Match {
                destination_ports: vec![80],
                principals: vec![StringMatch::Presence],
                ..Match::default()
            },
            false,
        ),
    ];
    for (what, one, matches) in cases {
        let text = format!("{what}: {one:?}");
        let decision = decide(vec![policy("stop", Action::Deny, vec![one])], Some(SLEEP));
        assert_eq!(!decision.is_allowed(), matches, "{text}");
    }
}

#[test]
fn no_pattern_but_an_absence_matches_a_caller_without_a_principal() {
    for pattern in [
        StringMatch::Prefix(String::new()),
        StringMatch::Suffix(String::new()),
        StringMatch::Presence,
    ] {
        let one = Match {
            principals: vec![pattern],
            ..Match::default()
        };
        assert!(!decide(vec![policy("let", Action::Allow, vec![one])], None).is_allowed());
    }
}

#[test]
fn an_empty_match_matches_nothing_and_all_clauses_must_match() {
    let empty = policy("let", Action::Allow, vec![Match::default()]);
    assert!(!decide(vec![empty], Some(SLEEP)).is_allowed());
    let mut two = policy("let", Action::Allow, vec![principal(SLEEP)]);
    two.rules[0].0.push(Clause(vec![Match {
        destination_ports: vec![9],
        ..Match::default()
    }]));
    assert!(!decide(vec![two], Some(SLEEP)).is_allowed());
    let mut none = policy("stop", Action::Deny, vec![]);
    none.rules.clear();
    assert!(decide(vec![none], Some(SLEEP)).is_allowed());
}

#[test]
fn audit_denies_nothing_and_says_what_it_would_have_denied() {
    let audit = |mut p: Policy| {
        p.audit = true;
        p
    };
    let deny = audit(policy("stop", Action::Deny, vec![principal(SLEEP)]));
    let decision = decide(vec![deny], Some(SLEEP));
    assert!(decision.is_allowed());
    assert_eq!(decision.audited, ["shop/stop"]);
    let allow = || audit(policy("let", Action::Allow, vec![principal(OTHER)]));
    let decision = decide(vec![allow()], Some(SLEEP));
    assert!(decision.is_allowed());
    assert_eq!(decision.audited, ["shop/let"]);
    assert!(decide(vec![allow()], Some(OTHER)).audited.is_empty());
    // An enforced allow beside it lets it through: switching the audit one on would deny nothing.
    let enforced = policy("yes", Action::Allow, vec![principal(SLEEP)]);
    assert!(decide(vec![allow(), enforced], Some(SLEEP)).audited.is_empty());
}

#[test]
fn replacing_and_removing_a_policy_takes_effect() {
    let mut set = Policies::default();
    set.insert(policy("stop", Action::Deny, vec![principal(SLEEP)]));
    set.insert(policy("stop", Action::Deny, vec![principal(OTHER)]));
    let connection = Connection {
        principal: Some(SLEEP),
        source: "10.0.0.7".parse().unwrap(),
        destination: "10.0.1.9:8080".parse().unwrap(),
    };
    let target = Target {
        namespace: "shop",
        policies: &[],
    };
    assert!(set.evaluate(&connection, target).is_allowed());
    assert!(set.remove("shop/stop"));
    assert!(!set.remove("shop/stop"));
    assert_eq!(set.iter().count(), 0);
}
