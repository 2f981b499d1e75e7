use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::index::{Config, Key, PodRecord};

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// (runs, has finished)
fn agent(node: &str, runs: bool, done: bool) -> Arc<OwnPod> {
    Arc::new(OwnPod {
        component: dataplane::AGENT.to_owned(),
        node: node.to_owned(),
        running: runs,
        uninstalled: done,
        ..OwnPod::default()
    })
}

/// An index with a pod that carries the mark, on `node`.
fn marked_on(node: &str) -> Index {
    let mut index = Index::new(Config::default());
    let pod: Pod = object(json!({
        "metadata": {
            "name": "p", "namespace": "shop", "uid": "u",
            "annotations": {"ambient.istio.io/redirection": "enabled"},
        },
        "spec": {"nodeName": node, "containers": []},
    }));
    index.set_pod(&Key::new("shop", "p"), PodRecord::of(&pod));
    index
}

/// Two live nodes and a dead one; on all, agents have done their work, unless `installed` says otherwise.
fn left(pods: &[Arc<OwnPod>], installed: &[&str], index: &Index) -> Vec<String> {
    let nodes = [("n1", true), ("n2", true), ("dead", false)];
    remains(
        &Agents {
            nodes: &nodes.map(|(node, ready)| (node.to_owned(), ready)).into(),
            pods,
            installed: &installed.iter().map(|n| (*n).to_owned()).collect(),
        },
        index,
    )
}

const ALL: &[&str] = &["n1", "n2", "dead"];

#[test]
fn waits_for_agents_on_every_node() {
    let quiet = marked_on("");
    let working = [
        agent("n1", true, false),
        agent("n2", true, true),
        agent("dead", true, false),
    ];
    assert_eq!(
        left(&working, ALL, &quiet),
        [
            "dead (not Ready): the agent has not finished",
            "n1: the agent has not finished"
        ]
    );
    assert_eq!(left(&working, &[], &marked_on("n1"))[1], "n1: 1 pods to release");
    let finished = [agent("n1", true, true), agent("n2", true, true)];
    assert_eq!(
        left(&finished, &["dead"], &quiet),
        ["dead (not Ready): the agent is not running"]
    );
    // It says that it has finished, but a mark could not be taken off yet.
    assert_eq!(left(&finished, &[], &marked_on("n2")), ["n2: 1 pods to release"]);
}

#[test]
fn only_agents_that_ran_are_waited_for() {
    let quiet = marked_on("");
    let broken = [agent("n1", false, false), agent("n2", false, false)];
    assert_eq!(left(&broken, &[], &quiet), [] as [String; 0]);
    assert_eq!(left(&broken, &["n2"], &quiet), ["n2: the agent is not running"]);
    // One that has just begun may be at work, though it has not said so yet.
    let starting = [agent("n1", true, false)];
    assert_eq!(left(&starting, &[], &quiet), ["n1: the agent has not finished"]);
}

#[test]
fn nodes_are_waited_for_until_they_are_deleted() {
    assert_eq!(
        left(&[], &["n1"], &marked_on("")),
        ["n1: the agent is not running"]
    );
    assert_eq!(
        left(&[], &["dead"], &marked_on("dead")),
        ["dead (not Ready): 1 pods to release"]
    );
    assert_eq!(left(&[], &["deleted"], &marked_on("deleted")), [] as [String; 0]);
}
