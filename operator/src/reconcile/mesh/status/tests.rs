use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// (metadata.generation, observedGeneration, updated, available)
fn set(generation: i64, observed: i64, updated: i32, available: i32) -> DaemonSet {
    object(json!({
        "metadata": {"generation": generation},
        "spec": {"selector": {}, "template": {}},
        "status": {
            "observedGeneration": observed, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
            "numberMisscheduled": 0, "updatedNumberScheduled": updated, "numberAvailable": available, "numberReady": available,
        },
    }))
}

#[test]
fn rollout_is_done_when_all_nodes_are_updated() {
    for (set, done) in [
        (set(2, 2, 2, 2), true),
        (set(2, 1, 2, 2), false),
        (set(2, 2, 1, 2), false),
        (set(2, 2, 2, 1), false),
    ] {
        assert_eq!(Rollout::of(Some(&set), None, Vec::new()).done, done, "{set:?}");
    }
    assert!(!Rollout::of(None, None, Vec::new()).done, "not applied yet");
    assert!(
        !Rollout::of(Some(&set(2, 2, 2, 2)), Some(3), Vec::new()).done,
        "the watch has yet to hear of what was applied"
    );
    assert_eq!(
        Rollout::of(Some(&set(2, 1, 2, 2)), None, Vec::new()).updated,
        0,
        "counts of an older generation say nothing of this one"
    );
}

fn summary(finding: &Finding) -> (&str, bool, bool, bool) {
    (
        finding.reason,
        finding.is_ready(),
        finding.progressing,
        finding.degraded,
    )
}

/// As in a namespace whose Pod Security level is `baseline`: no pod shows why.
#[test]
fn pods_that_are_not_created_have_a_remedy() {
    let done = Rollout::of(Some(&set(1, 1, 2, 2)), None, Vec::new());
    let mut refused = set(1, 1, 0, 0);
    refused.status.as_mut().unwrap().current_number_scheduled = 0;
    let refused = Rollout::of(Some(&refused), None, Vec::new());
    let finding = finding(&refused, &done, &[], &MeshSummary::default());
    assert_eq!(finding.reason, "RollingOut");
    let words = [
        "2 pods of ambit-agent have yet to be created",
        "enforce=privileged",
    ];
    assert!(
        words.iter().all(|word| finding.message.contains(word)),
        "{}",
        finding.message
    );
}

#[test]
fn mesh_conditions() {
    let done = Rollout::of(Some(&set(1, 1, 2, 2)), None, Vec::new());
    let half = Rollout::of(Some(&set(1, 1, 2, 1)), None, Vec::new());
    let quiet = MeshSummary::default();
    let failing = MeshSummary {
        failed: 2,
        failing_namespaces: vec!["shop".to_owned()],
        ..MeshSummary::default()
    };
    let trouble = ["ztunnel-x on n1: ImagePullBackOff: not found".to_owned()];

    assert_eq!(
        summary(&finding(&done, &done, &[], &quiet)),
        ("Ready", true, false, false)
    );
    assert_eq!(
        summary(&finding(&done, &half, &[], &quiet)),
        ("RollingOut", false, true, false)
    );
    let failed = finding(&done, &half, &trouble, &quiet);
    assert_eq!(summary(&failed), ("PodsFailing", false, false, true));
    assert!(
        failed.message.starts_with("ztunnel-x on n1: ImagePullBackOff"),
        "{}",
        failed.message
    );
    let degraded = finding(&done, &done, &[], &failing);
    assert_eq!(summary(&degraded), ("CaptureFailed", true, false, false));
    assert!(
        degraded.message.contains("2 pods") && degraded.message.contains("shop"),
        "{}",
        degraded.message
    );
}

#[test]
fn unready_nodes_are_excluded_and_named() {
    let away = || vec!["n2".to_owned()];
    let one = Rollout::of(Some(&set(1, 1, 1, 1)), None, away());
    assert!(one.done);
    let quiet = MeshSummary::default();
    let found = finding(&one, &one, &[], &quiet);
    assert_eq!(summary(&found), ("Ready", true, false, false));
    assert!(
        found
            .message
            .ends_with("The operator does not wait for 1 nodes that are not Ready: n2"),
        "{}",
        found.message
    );
    let none = Rollout::of(
        Some(&set(1, 1, 0, 0)),
        None,
        vec!["n1".to_owned(), "n2".to_owned()],
    );
    assert!(!none.done, "a mesh without any node is not ready");
}

#[test]
fn long_lists_end_with_a_count() {
    let all: Vec<_> = ["a", "b", "c", "d", "e"].map(str::to_owned).into();
    assert_eq!(named(&all), "a; b; c; and 2 more");
    assert_eq!(named(&all[..2]), "a; b");
}
