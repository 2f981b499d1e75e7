use ambit_policy::http::{Attributes, Headers, HttpRequest, evaluate};

use super::*;

struct NoHeaders;

impl Headers for NoHeaders {
    fn any(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        false
    }
}

fn exact(text: &str) -> security::StringMatch {
    security::StringMatch {
        match_type: Some(security::string_match::MatchType::Exact(text.into())),
    }
}

fn suffix(text: &str) -> security::StringMatch {
    security::StringMatch {
        match_type: Some(security::string_match::MatchType::Suffix(text.into())),
    }
}

fn policy(rule: waypoint::Rule) -> waypoint::Policy {
    waypoint::Policy {
        namespace: "shop".into(),
        name: "orders".into(),
        authorization: vec![waypoint::Rule {
            name: "one".into(),
            action: security::Action::Deny.into(),
            ..rule
        }],
        ..Default::default()
    }
}

fn allowed(policy: &WaypointPolicy) -> bool {
    let attributes = Attributes {
        method: "GET",
        path: "/",
        host: "server",
        headers: &NoHeaders,
    };
    let request = HttpRequest {
        principal: Some("cluster.local/ns/shop/sa/cart"),
        attributes: Some(attributes),
    };
    let connection = HttpRequest {
        attributes: None,
        ..request
    };
    let decisions = [request, connection].map(|one| evaluate(&policy.rules, &one).is_allowed());
    assert_eq!(decisions[0], decisions[1]);
    decisions[0]
}

#[test]
fn a_whole_policy_is_understood() {
    let from = waypoint::Policy {
        timeout: Some(prost_types::Duration {
            seconds: 2,
            nanos: 500_000_000,
        }),
        retry: Some(waypoint::Retry {
            attempts: 3,
            status_codes: vec![502, 503],
            backoff_base: Some(prost_types::Duration {
                seconds: 0,
                nanos: 25_000_000,
            }),
            ..Default::default()
        }),
        ..policy(waypoint::Rule {
            paths: vec![exact("/orders")],
            hosts: vec![exact("server"), suffix(".example.com"), suffix("example.org")],
            headers: vec![waypoint::HeaderMatch {
                name: "X-Role".into(),
                values: vec![exact("admin")],
            }],
            ..Default::default()
        })
    };
    let policy = WaypointPolicy::try_from(from).unwrap();
    assert_eq!(&*policy.name, "shop/orders");
    assert_eq!(policy.timeout, Some(Duration::from_millis(2500)));
    let retry = policy.retry.unwrap();
    assert_eq!(retry.status_codes, [502, 503]);
    assert_eq!(retry.backoff_base, Duration::from_millis(25));
    assert_eq!(
        retry.backoff_max,
        Duration::from_millis(25),
        "never below the first"
    );
    let rule = &policy.rules[0];
    assert_eq!(rule.name, "shop/orders/one");
    assert_eq!(rule.paths, [PathMatch::Exact("/orders".into())]);
    assert_eq!(rule.headers[0].name, "x-role");
    assert_eq!(
        rule.hosts,
        [
            HostMatch::Exact("server".into()),
            HostMatch::Suffix(".example.com".into()),
            HostMatch::Suffix(".example.org".into())
        ]
    );
}

#[test]
fn what_is_not_understood_is_refused_with_its_field() {
    let rule = || "shop/orders/one".to_owned();
    let path = |path: &str| {
        let from = policy(waypoint::Rule {
            paths: vec![exact(path)],
            ..Default::default()
        });
        let error = WaypointPolicyError::Path {
            rule: rule(),
            path: path.to_owned(),
        };
        (from, error)
    };
    let cases = [
        (
            policy(waypoint::Rule::default()),
            WaypointPolicyError::EmptyRule(rule()),
        ),
        (
            policy(waypoint::Rule {
                from: vec![waypoint::Source::default()],
                ..Default::default()
            }),
            WaypointPolicyError::EmptyRule(rule()),
        ),
        (
            policy(waypoint::Rule {
                paths: vec![suffix("/x")],
                ..Default::default()
            }),
            WaypointPolicyError::Match {
                rule: rule(),
                field: "paths",
            },
        ),
        (
            policy(waypoint::Rule {
                from: vec![waypoint::Source {
                    principals: vec![security::StringMatch::default()],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            WaypointPolicyError::Match {
                rule: rule(),
                field: "principals",
            },
        ),
        path("//orders"),
        path("/a/../b"),
        path("/a%20b"),
        path("orders"),
        (
            waypoint::Policy {
                timeout: Some(prost_types::Duration::default()),
                ..policy(waypoint::Rule::default())
            },
            WaypointPolicyError::EmptyRule(rule()),
        ),
        (
            waypoint::Policy {
                timeout: Some(prost_types::Duration::default()),
                authorization: Vec::new(),
                ..policy(waypoint::Rule::default())
            },
            WaypointPolicyError::Duration("timeout"),
        ),
        (
            waypoint::Policy {
                retry: Some(waypoint::Retry {
                    status_codes: vec![200],
                    ..Default::default()
                }),
                authorization: Vec::new(),
                ..policy(waypoint::Rule::default())
            },
            WaypointPolicyError::StatusCode(200),
        ),
    ];
    for (from, error) in cases {
        assert_eq!(WaypointPolicy::try_from(from), Err(error));
    }
    let mut unknown = policy(waypoint::Rule::default());
    unknown.authorization[0].action = 7;
    assert_eq!(
        WaypointPolicy::try_from(unknown),
        Err(WaypointPolicyError::Action {
            rule: rule(),
            value: 7
        })
    );
}

#[test]
fn what_is_not_understood_closes() {
    let of = |action: i32, audit| {
        let mut from = policy(waypoint::Rule {
            audit,
            paths: vec![exact("//")],
            ..Default::default()
        });
        from.authorization[0].action = action;
        assert!(WaypointPolicy::try_from(from.clone()).is_err());
        closed(&from)
    };
    for action in [security::Action::Deny.into(), security::Action::Allow.into(), 7] {
        assert!(!allowed(&of(action, false)), "action {action}");
        assert!(allowed(&of(action, true)), "audit, action {action}");
    }
    // A policy that has no rules closes nothing.
    let timeout = waypoint::Policy {
        timeout: Some(prost_types::Duration::default()),
        authorization: Vec::new(),
        ..policy(waypoint::Rule::default())
    };
    assert!(allowed(&closed(&timeout)));
}
