use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::index::{Config, Key, PodRecord};

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node(name: &str, ready: &str) -> Node {
    object(json!({
        "metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
}

fn agent(node: &str, done: bool) -> Pod {
    let annotations = if done {
        json!({"ambit.dev/uninstalled": "true"})
    } else {
        json!({})
    };
    object(json!({
        "metadata": {"name": format!("ambit-agent-{node}"), "annotations": annotations},
        "spec": {"nodeName": node, "containers": []},
    }))
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

#[test]
fn waits_for_marks_and_agents_of_live_nodes_only() {
    let nodes = [node("n1", "True"), node("n2", "True"), node("dead", "Unknown")];
    let left = |agents: &[Pod], index: &Index| remains(&nodes, agents, index).nodes;
    let both = [agent("n1", true), agent("n2", true), agent("dead", false)];

    assert_eq!(left(&both, &marked_on("")), [] as [String; 0]);
    assert_eq!(
        left(&both, &marked_on("dead")),
        [] as [String; 0],
        "nobody there to clear up"
    );
    assert_eq!(left(&both, &marked_on("n1")), ["n1: 1 pods to release"]);
    assert_eq!(
        left(&[agent("n1", true), agent("n2", false)], &marked_on("")),
        ["n2: the agent has not finished"]
    );
    // No agent on n2: nobody could report, so it is not waited for.
    assert_eq!(left(&[agent("n1", true)], &marked_on("n2")), [] as [String; 0]);
    assert_eq!(remains(&nodes, &both, &marked_on("")).all, 2);
}
