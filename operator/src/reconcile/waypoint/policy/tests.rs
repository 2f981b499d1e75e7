use ambit_crds::{TargetKind, TargetRef, WaypointPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::index::{Key, PolicyReason};

fn service(name: &str) -> TargetRef {
    TargetRef {
        kind: TargetKind::Service,
        name: name.into(),
        ..TargetRef::default()
    }
}

fn verdict(status: bool, reason: PolicyReason) -> PolicyVerdict {
    PolicyVerdict {
        status,
        reason,
        message: format!("because {}", reason.as_str()),
    }
}

fn target(name: &str, programmed: bool, reason: PolicyReason) -> TargetSummary {
    TargetSummary {
        target: service(name),
        accepted: verdict(true, PolicyReason::Accepted),
        programmed: verdict(programmed, reason),
        waypoint: programmed.then(|| Key::new("shop", "waypoint")),
        guarded_pods: programmed.then_some(3),
    }
}

fn policy() -> WaypointPolicy {
    let mut policy = WaypointPolicy::new("orders", WaypointPolicySpec::default());
    policy.metadata.namespace = Some("shop".into());
    policy.metadata.generation = Some(2);
    policy
}

fn summary(targets: Vec<TargetSummary>) -> PolicySummary {
    PolicySummary {
        generation: 2,
        targets,
        in_force: None,
    }
}

fn fleets(ready: usize, trouble: Option<&str>) -> BTreeMap<String, Fleet> {
    let fleet = Fleet {
        ready,
        desired: 3,
        trouble: trouble.map(str::to_owned),
    };
    [("waypoint".to_owned(), fleet)].into()
}

#[test]
fn each_target_has_conditions_and_enforcer() {
    let summary = summary(vec![
        target("server", true, PolicyReason::Programmed),
        target("headless", false, PolicyReason::NoVirtualAddress),
    ]);
    let status = status(&policy(), &summary, &fleets(2, None));
    let [server, headless] = status.ancestors.as_slice() else {
        panic!("{status:?}");
    };
    assert_eq!(
        (
            server.enforced_by.as_deref(),
            server.replicas.as_deref(),
            server.guarded_pods
        ),
        (Some("shop/waypoint"), Some("2/3"), Some(3))
    );
    assert_eq!(server.controller_name, "ambit.dev/operator");
    // The policy as a whole is as its worst target.
    let whole: Vec<_> = status
        .conditions
        .iter()
        .map(|c| (&*c.type_, &*c.status, &*c.reason))
        .collect();
    assert_eq!(
        whole,
        [
            ("Accepted", "True", "Accepted"),
            ("Programmed", "False", "NoVirtualAddress"),
            ("Ready", "False", "NoVirtualAddress"),
            ("Stalled", "True", "NoVirtualAddress")
        ]
    );
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(status.targets.as_deref(), Some("1/2"));
    assert_eq!((&headless.enforced_by, &headless.replicas), (&None, &None));
    let said: Vec<_> = headless
        .conditions
        .iter()
        .map(|c| {
            (
                c.type_.as_str(),
                c.status.as_str(),
                c.reason.as_str(),
                c.observed_generation,
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("Accepted", "True", "Accepted", Some(2)),
            ("Programmed", "False", "NoVirtualAddress", Some(2))
        ]
    );
}

#[test]
fn unchanged_status_is_equal() {
    let mut policy = policy();
    let before = summary(vec![target("server", false, PolicyReason::WaypointNotReady)]);
    let mut old = status(&policy, &before, &fleets(0, None));
    for condition in &mut old.ancestors[0].conditions {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    policy.status = Some(old.clone());
    assert_eq!(status(&policy, &before, &fleets(0, None)), old);

    let now = summary(vec![target("server", true, PolicyReason::Programmed)]);
    let new = status(&policy, &now, &fleets(1, None));
    let kept: Vec<_> = new.ancestors[0]
        .conditions
        .iter()
        .map(|c| c.last_transition_time.0 == Timestamp::UNIX_EPOCH)
        .collect();
    assert_eq!(kept, [true, false]);
}

#[test]
fn failing_waypoint_is_reported() {
    let waiting = target("server", false, PolicyReason::WaypointNotReady);
    let trouble = "FailedCreate: exceeded quota";
    let status_of = |target, ready| {
        let status = status(&policy(), &summary(vec![target]), &fleets(ready, Some(trouble)));
        status.ancestors[0].conditions[1].message.clone()
    };
    assert!(status_of(waiting, 0).ends_with("waypoint waypoint: FailedCreate: exceeded quota"));
    let enforced = || target("server", true, PolicyReason::Programmed);
    assert!(status_of(enforced(), 0).contains("no replica is ready: connections are refused"));
    assert_eq!(status_of(enforced(), 1), "because Programmed");
}

#[test]
fn degraded_policy_is_a_warning_event() {
    let outcome = |targets| Outcome::of(&status(&policy(), &summary(targets), &fleets(1, None)));
    let good = outcome(vec![target("server", true, PolicyReason::Programmed)]);
    let starting = outcome(vec![target("server", false, PolicyReason::WaypointNotReady)]);
    let half = outcome(vec![
        target("server", true, PolicyReason::Programmed),
        target("other", false, PolicyReason::NoVirtualAddress),
    ]);
    assert_eq!(half.reason, "NoVirtualAddress");
    let refused = TargetSummary {
        accepted: verdict(false, PolicyReason::TargetNotFound),
        ..target("gone", false, PolicyReason::TargetNotFound)
    };
    assert_eq!(outcome(vec![refused]).reason, "TargetNotFound");
    assert!(!good.warns(Some(&starting)) && !starting.warns(None));
    assert!(starting.warns(Some(&good)), "what was enforced is not any more");
    assert!(half.warns(None));
}
