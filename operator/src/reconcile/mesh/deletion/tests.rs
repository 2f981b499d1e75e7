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

/// (runs, has finished)
fn agent(node: &str, runs: bool, done: bool) -> Pod {
    let annotations = if done {
        json!({"ambit.dev/uninstalled": "true"})
    } else {
        json!({})
    };
    let state = if runs {
        json!({"running": {}})
    } else {
        json!({"waiting": {"reason": "ErrImagePull"}})
    };
    object(json!({
        "metadata": {"name": format!("ambit-agent-{node}"), "annotations": annotations},
        "spec": {"nodeName": node, "containers": []},
        "status": {"containerStatuses": [{
            "name": "agent", "ready": runs, "restartCount": 0, "image": "i", "imageID": "", "state": state,
        }]},
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

/// Two live nodes and a dead one; on all, agents have done their work, unless `installed` says otherwise.
fn left(pods: &[Pod], installed: &[&str], deployed: bool, index: &Index) -> Remains {
    let nodes = [node("n1", "True"), node("n2", "True"), node("dead", "Unknown")];
    let installed = installed.iter().map(|n| (*n).to_owned()).collect();
    remains(
        &nodes,
        &Agents {
            pods,
            installed: &installed,
            deployed,
        },
        index,
    )
}

const ALL: &[&str] = &["n1", "n2", "dead"];

#[test]
fn waits_for_the_work_of_agents_on_live_nodes() {
    let quiet = marked_on("");
    let working = [
        agent("n1", true, false),
        agent("n2", true, true),
        agent("dead", true, false),
    ];
    let found = left(&working, ALL, true, &quiet);
    assert_eq!(found.nodes, ["n1: the agent has not finished"]);
    assert_eq!(found.given_up, ["dead"]);
    assert_eq!(
        left(&working, ALL, true, &marked_on("n1")).nodes,
        ["n1: 1 pods to release"]
    );
    let finished = [agent("n1", true, true), agent("n2", true, true)];
    assert_eq!(left(&finished, &["dead"], true, &quiet).nodes, [] as [String; 0]);
    // It says that it has finished, but a mark could not be taken off yet.
    assert_eq!(
        left(&finished, &[], true, &marked_on("n2")).nodes,
        ["n2: 1 pods to release"]
    );
}

#[test]
fn an_agent_that_never_ran_is_not_waited_for_and_one_that_did_is() {
    let quiet = marked_on("");
    let broken = [agent("n1", false, false), agent("n2", false, false)];
    assert_eq!(left(&broken, &[], true, &quiet).nodes, [] as [String; 0]);
    assert_eq!(
        left(&broken, &["n2"], true, &quiet).nodes,
        ["n2: the agent does not run"]
    );
    // One that has just begun may be at work, though it has not said so yet.
    let starting = [agent("n1", true, false)];
    assert_eq!(
        left(&starting, &[], true, &quiet).nodes,
        ["n1: the agent has not finished"]
    );
}

#[test]
fn nobody_is_waited_for_who_cannot_come() {
    let found = left(&[], &["n1"], false, &marked_on("n1"));
    assert_eq!(
        (found.nodes.len(), found.given_up.as_slice()),
        (0, &["n1".to_owned()][..])
    );
    assert_eq!(
        left(&[], &["n1"], true, &marked_on("")).nodes,
        ["n1: the agent does not run"]
    );
    // Nodes that are no more are not asked about.
    assert_eq!(
        left(&[], &["gone"], true, &marked_on("")),
        Remains {
            nodes: vec![],
            given_up: vec![]
        }
    );
}
