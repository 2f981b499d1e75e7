use serde_json::json;

use super::*;
use crate::index::{Config, Key, PodRecord};
use crate::reconcile::testing::Server;

const POD: &str = "/api/v1/namespaces/shop/pods/a";

fn report(state: CaptureState) -> PodReport {
    PodReport {
        state: state.into(),
        reason: "NoZtunnel".into(),
        message: "none is ready".into(),
        ..Default::default()
    }
}

#[test]
fn reports_change_the_record() {
    let captured = Record {
        marked: true,
        failure: None,
    };
    let failed = Record {
        marked: false,
        failure: Some("NoZtunnel: none is ready".to_owned()),
    };
    let plain = Record {
        marked: false,
        failure: None,
    };
    for (before, state, after) in [
        (&plain, CaptureState::Captured, Some(&captured)),
        (&failed, CaptureState::Captured, Some(&captured)),
        (&plain, CaptureState::Failed, Some(&failed)),
        (&captured, CaptureState::Failed, Some(&failed)),
        (&captured, CaptureState::Pending, None),
        (&captured, CaptureState::Releasing, Some(&plain)),
        (&failed, CaptureState::Releasing, Some(&failed)),
        (&failed, CaptureState::Released, Some(&plain)),
    ] {
        assert_eq!(
            before.after(&report(state)).as_ref(),
            after,
            "{before:?} {state:?}"
        );
    }
}

#[test]
fn text_is_clipped_at_a_character() {
    assert_eq!(clipped("aéb", 2), "a");
    assert_eq!(clipped("ab", 9), "ab");
}

/// A pod on the server, which the index has read.
fn pod(server: &Server, index: &SharedIndex) -> PodInfo {
    server.put(
        POD,
        json!({
            "metadata": {"name": "a", "namespace": "shop", "uid": "u-a", "annotations": {}},
            "spec": {"nodeName": "n1", "containers": []},
        }),
    );
    learn(server, index);
    PodInfo {
        uid: "u-a".into(),
        namespace: "shop".into(),
        name: "a".into(),
        service_account: "default".into(),
        node: "n1".into(),
        host_network: false,
        enrolled: true,
        waypoint: None,
        service_account_uid: None,
    }
}

/// The index hears of what the server has.
fn learn(server: &Server, index: &SharedIndex) {
    let pod: Pod = serde_json::from_value(server.get(POD).unwrap()).unwrap();
    index.change(|index| index.set_pod(&Key::new("shop", "a"), PodRecord::of(&pod)));
}

fn recorder(server: &Server) -> (Recorder, Arc<SharedIndex>) {
    let index = Arc::new(SharedIndex::new(Config::default()));
    (
        Recorder::new(server.client(), Arc::clone(&index), "ambit-system", "op"),
        index,
    )
}

fn annotations(server: &Server) -> serde_json::Value {
    server.get(POD).unwrap()["metadata"]["annotations"].clone()
}

#[tokio::test]
async fn capture_is_written_once() {
    let server = Server::default();
    let (recorder, index) = recorder(&server);
    let pod = pod(&server, &index);
    recorder
        .record_pod(&pod, &report(CaptureState::Failed))
        .await
        .unwrap();
    assert_eq!(
        annotations(&server),
        json!({"ambit.dev/capture-failure": "NoZtunnel: none is ready"})
    );
    recorder
        .record_pod(&pod, &report(CaptureState::Captured))
        .await
        .unwrap();
    assert_eq!(
        annotations(&server),
        json!({"ambient.istio.io/redirection": "enabled"})
    );
    learn(&server, &index);
    server.writes();
    recorder
        .record_pod(&pod, &report(CaptureState::Captured))
        .await
        .unwrap();
    recorder
        .record_pod(&pod, &report(CaptureState::Pending))
        .await
        .unwrap();
    assert_eq!(server.writes(), []);
}

#[tokio::test]
async fn release_is_written_before_the_index_has_the_capture() {
    let server = Server::default();
    let (recorder, index) = recorder(&server);
    let pod = pod(&server, &index);
    recorder
        .record_pod(&pod, &report(CaptureState::Captured))
        .await
        .unwrap();
    recorder
        .record_pod(&pod, &report(CaptureState::Released))
        .await
        .unwrap();
    assert_eq!(annotations(&server), json!({}));
}

#[tokio::test]
async fn other_pod_of_the_same_name_is_not_changed() {
    let server = Server::default();
    let (recorder, index) = recorder(&server);
    let pod = pod(&server, &index);
    server.put(
        POD,
        json!({"metadata": {"name": "a", "namespace": "shop", "uid": "u-2", "annotations": {}}}),
    );
    recorder
        .record_pod(&pod, &report(CaptureState::Captured))
        .await
        .unwrap();
    assert_eq!(annotations(&server), json!({}));
}

#[tokio::test]
async fn node_is_recorded_until_it_is_restored() {
    let server = Server::default();
    let (recorder, _) = recorder(&server);
    let path = "/api/v1/namespaces/ambit-system/pods/ambit-agent-x";
    server.put(
        path,
        json!({"metadata": {"name": "ambit-agent-x", "namespace": "ambit-system", "uid": "u-x"}}),
    );
    let agent = AgentPod {
        namespace: "ambit-system".into(),
        name: "ambit-agent-x".into(),
        uid: "u-x".into(),
        node: "n1".into(),
    };
    let nodes = InstalledNodes::new(server.client(), "ambit-system");
    recorder.record_node(&agent, NodeState::Installed).await.unwrap();
    assert_eq!(nodes.list().await.unwrap(), ["n1".to_owned()].into());
    // It is asked for, then made, then written to: the right to do so goes by its name, which has to be in the request.
    let writes = server.writes();
    assert!(writes.len() == 3 && writes.iter().all(|w| w.path.ends_with("/configmaps/ambit-nodes")));
    // As when the agent connects anew.
    recorder.record_node(&agent, NodeState::Installed).await.unwrap();
    assert_eq!(server.writes(), []);
    recorder
        .record_node(&agent, NodeState::Uninstalled)
        .await
        .unwrap();
    assert!(nodes.list().await.unwrap().is_empty());
    assert_eq!(
        server.get(path).unwrap()["metadata"]["annotations"],
        json!({"ambit.dev/uninstalled": "true"})
    );
    assert_eq!(server.writes().len(), 2);
    recorder
        .record_node(&agent, NodeState::Uninstalled)
        .await
        .unwrap();
    assert_eq!(server.writes(), []);
    // Another agent is there, and does its work.
    recorder.record_node(&agent, NodeState::Installed).await.unwrap();
    assert_eq!(server.get(path).unwrap()["metadata"]["annotations"], json!({}));
}

/// A pod may lose its rules again and again: that is one Event and not one a second.
#[tokio::test]
async fn restored_rules_are_an_event_on_the_pod() {
    let server = Server::default();
    let (recorder, index) = recorder(&server);
    let pod = pod(&server, &index);
    let text = |times: u32| {
        format!(
            "something in the pod removed its table: restored, {times} times \
         since the capture"
        )
    };
    for times in 1..4 {
        let report = PodReport {
            reason: "RulesRestored".into(),
            message: text(times),
            ..report(CaptureState::Captured)
        };
        recorder.record_pod(&pod, &report).await.unwrap();
    }
    let events = server.events("u-a");
    let restored: Vec<_> = events
        .iter()
        .filter(|(reason, _)| reason == "RulesRestored")
        .collect();
    assert_eq!(restored, [&("RulesRestored".to_owned(), text(1))]);
    assert_eq!(
        annotations(&server),
        json!({"ambient.istio.io/redirection": "enabled"}),
        "it stays captured"
    );
}
