use ambit_crds::{AmbientNamespaceSpec, Mode};

use super::*;
use crate::index::PodFailure;

fn enrolled() -> NamespaceSummary {
    NamespaceSummary {
        exists: true,
        asks: true,
        enrolled: true,
        mesh: true,
        ..Default::default()
    }
}

fn failure(pod: &str) -> PodFailure {
    PodFailure {
        pod: pod.to_owned(),
        reason: "PortInUse".to_owned(),
        message: "15008 is taken".to_owned(),
    }
}

fn rule_summary(pods: usize, excluded: usize) -> RuleSummary {
    RuleSummary {
        name: "r".to_owned(),
        mode: Mode::Enforce,
        pods,
        excluded,
        invalid: None,
        warnings: Vec::new(),
    }
}

/// As after the label is removed: "not captured" is not all, while a proxy still runs there.
#[test]
fn namespace_that_left_is_not_ready_while_a_waypoint_drains() {
    let left = NamespaceSummary {
        exists: true,
        mesh: true,
        ..Default::default()
    };
    let waypoint = WaypointStatus {
        name: "waypoint".to_owned(),
        replicas: "1/2".to_owned(),
        desired: 2,
        ready: 1,
        services: 0,
    };
    let found = finding(&left, &[waypoint], &BTreeMap::new());
    assert_eq!((found.reason, found.progressing), ("Releasing", true));
    assert!(found.message.ends_with("removed: waypoint"), "{}", found.message);
    let found = finding(&left, &[], &BTreeMap::new());
    assert_eq!((found.reason, found.is_ready()), ("NotEnrolled", true));
}

#[test]
fn namespace_conditions() {
    let out = NamespaceSummary {
        asks: false,
        enrolled: false,
        ..enrolled()
    };
    // (summary, reason, ready, progressing, degraded)
    let cases = [
        (enrolled(), "Enrolled", true, false, false),
        (
            NamespaceSummary {
                captured: 2,
                ..enrolled()
            },
            "Captured",
            true,
            false,
            false,
        ),
        (
            NamespaceSummary {
                captured: 1,
                pending: 1,
                ..enrolled()
            },
            "Capturing",
            false,
            true,
            false,
        ),
        (
            NamespaceSummary {
                captured: 1,
                failures: vec![failure("a")],
                ..enrolled()
            },
            "CaptureFailed",
            false,
            false,
            true,
        ),
        (
            NamespaceSummary {
                captured: 1,
                releasing: 1,
                ..enrolled()
            },
            "Releasing",
            false,
            true,
            false,
        ),
        (
            NamespaceSummary {
                captured: 1,
                rules: vec![rule_summary(1, 1)],
                ..enrolled()
            },
            "RulesNotEnforced",
            false,
            false,
            true,
        ),
        (
            NamespaceSummary {
                captured: 1,
                rules: vec![RuleSummary {
                    invalid: Some("x".to_owned()),
                    ..rule_summary(1, 0)
                }],
                ..enrolled()
            },
            "RuleInvalid",
            false,
            false,
            true,
        ),
        (out.clone(), "NotEnrolled", true, false, false),
        (
            NamespaceSummary {
                releasing: 3,
                ..out.clone()
            },
            "Releasing",
            false,
            true,
            false,
        ),
        (
            NamespaceSummary {
                rules: vec![rule_summary(0, 0)],
                ..out.clone()
            },
            "RulesNotEnforced",
            false,
            false,
            true,
        ),
        (
            NamespaceSummary {
                asks: true,
                exempt: true,
                ..out.clone()
            },
            "NeverEnrolled",
            false,
            false,
            true,
        ),
        (
            NamespaceSummary {
                asks: true,
                mesh: false,
                ..out
            },
            "NoMesh",
            false,
            false,
            true,
        ),
    ];
    for (summary, reason, ready, progressing, degraded) in cases {
        let found = finding(&summary, &[], &BTreeMap::new());
        let got = (found.reason, found.is_ready(), found.progressing, found.degraded);
        assert_eq!(got, (reason, ready, progressing, degraded), "{summary:?}");
    }
}

#[test]
fn failures_are_listed_up_to_a_limit_and_counted_beyond() {
    let failures: Vec<_> = (0..25).map(|n| failure(&format!("p{n:02}"))).collect();
    let summary = NamespaceSummary {
        total: 25,
        failures,
        ..enrolled()
    };
    let object = AmbientNamespace::new("ambient", AmbientNamespaceSpec::default());
    let found = finding(&summary, &[], &BTreeMap::new());
    let status = status(&object, &summary, Vec::new(), &found);
    assert_eq!((status.failures.len(), status.failures_omitted), (20, Some(5)));
    assert_eq!(status.pods.unwrap().failed, 25);
    assert!(
        found.message.contains("p00: PortInUse: 15008 is taken"),
        "{}",
        found.message
    );
}

#[test]
fn rule_status_names_its_enforcer() {
    let object = AmbientNamespace::new("ambient", AmbientNamespaceSpec::default());
    let told = |summary: NamespaceSummary| {
        let status = status(
            &object,
            &summary,
            Vec::new(),
            &finding(&summary, &[], &BTreeMap::new()),
        );
        (
            status.rules[0].enforced_by.clone(),
            status.rules[0].pods,
            status.mtls_mode.unwrap(),
        )
    };
    let protects = NamespaceSummary {
        rules: vec![rule_summary(2, 0)],
        mtls: MtlsMode::Strict,
        ..enrolled()
    };
    assert_eq!(
        told(protects.clone()),
        ("ztunnel".to_owned(), 2, "Strict".to_owned())
    );
    let nobody = NamespaceSummary {
        rules: vec![rule_summary(0, 0)],
        ..enrolled()
    };
    assert_eq!(told(nobody), ("nothing".to_owned(), 0, "Permissive".to_owned()));
    let outside = NamespaceSummary {
        enrolled: false,
        ..protects
    };
    assert_eq!(told(outside), ("nothing".to_owned(), 2, "Disabled".to_owned()));
}

#[test]
fn failing_waypoint_is_reported_and_waypoints_are_listed() {
    let summary = NamespaceSummary {
        captured: 2,
        ..enrolled()
    };
    let troubles = [("waypoint".to_owned(), "FailedCreate: exceeded quota".to_owned())].into();
    let found = finding(&summary, &[], &troubles);
    assert!(found.degraded && !found.is_ready());
    assert_eq!(found.reason, "WaypointFailing");
    assert_eq!(found.message, "waypoint waypoint: FailedCreate: exceeded quota");

    let object = AmbientNamespace::new("ambient", AmbientNamespaceSpec::default());
    let waypoints = vec![WaypointStatus {
        name: "waypoint".into(),
        replicas: "0/1".into(),
        ..WaypointStatus::default()
    }];
    let status = status(&object, &summary, waypoints.clone(), &found);
    assert_eq!(status.waypoints, waypoints);
}

#[test]
fn rule_that_cannot_match_is_a_warning() {
    let warning = "port 80 is a port of Service s".to_owned();
    let summary = NamespaceSummary {
        captured: 1,
        rules: vec![RuleSummary {
            warnings: vec![warning.clone()],
            ..rule_summary(1, 0)
        }],
        ..enrolled()
    };
    let found = finding(&summary, &[], &BTreeMap::new());
    assert!(found.is_ready() && !found.degraded && found.message.contains(&warning));
    let object = AmbientNamespace::new("ambient", AmbientNamespaceSpec::default());
    let status = status(&object, &summary, Vec::new(), &found);
    assert_eq!(status.rules[0].warnings, [warning]);
}

/// A namespace writes no more into its status than fits.
#[test]
fn warnings_about_rules_are_bounded() {
    let rule = RuleSummary {
        warnings: vec!["a warning".to_owned(); 8],
        ..rule_summary(1, 0)
    };
    let summary = NamespaceSummary {
        captured: 1,
        rules: vec![rule; 64],
        ..enrolled()
    };
    let found = finding(&summary, &[], &BTreeMap::new());
    let object = AmbientNamespace::new("ambient", AmbientNamespaceSpec::default());
    let status = status(&object, &summary, Vec::new(), &found);
    let listed: Vec<_> = status.rules.iter().map(|r| r.warnings.len()).collect();
    assert_eq!(listed.len(), 64);
    assert_eq!(listed[..5], [8, 8, 8, 8, 0]);
    assert_eq!(listed.iter().sum::<usize>(), WARNINGS);
}
