use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount};
use kube::core::PartialObjectMeta;

use super::deletion::UNINSTALLING;
use serde_json::Value;

use super::*;
use crate::index::{Config, Key, Registered};
use crate::reconcile::testing::{Server, settings};
use crate::reconcile::watch::{Watched, see, unsee};

const MESH: &str = "/apis/ambit.dev/v1alpha1/meshes/default";
const HOME: &str = "/api/v1/namespaces/ambit-system";
const NODE: &str = "/api/v1/nodes/n1";
const AGENT_POD: &str = "/api/v1/namespaces/ambit-system/pods/ambit-agent-x";
const ROOT: &str = "/api/v1/namespaces/ambit-system/configmaps/ambit-data-plane";
/// It has the labels of a waypoint's, and the operator has not made it.
const FORGED: &str = "/apis/apps/v1/namespaces/shop/deployments/theirs";
const WAYPOINT: &str = "/apis/apps/v1/namespaces/shop/deployments/edge";
const WAYPOINT_ROOT: &str = "/api/v1/namespaces/shop/configmaps/ambit-ca-root";

struct World {
    server: Server,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
    reconciler: MeshReconciler,
}

impl World {
    /// A cluster of Kubernetes 1.`minor` with a Mesh.
    fn new(minor: &str) -> Self {
        let server = Server::default();
        let info = json!({
            "major": "1", "minor": minor, "gitVersion": "", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        });
        server.put("/version", info);
        server.put(
            MESH,
            json!({
                "apiVersion": "ambit.dev/v1alpha1", "kind": "Mesh",
                "metadata": {"name": "default", "uid": "u", "generation": 1}, "spec": {},
            }),
        );
        Self::on(server)
    }

    /// An operator that starts on what there is.
    fn on(server: Server) -> Self {
        let index = Arc::new(SharedIndex::new(Config {
            system_namespace: "ambit-system".into(),
            ..Config::default()
        }));
        let objects = Arc::new(Objects::default());
        let reconciler = MeshReconciler::new(
            server.client(),
            settings(),
            Arc::clone(&index),
            Arc::clone(&objects),
            Events::new(server.client(), "op"),
        );
        let world = Self {
            server,
            index,
            objects,
            reconciler,
        };
        world.watch();
        world
    }

    /// The watches hear of what the server has.
    fn watch(&self) {
        self.see::<Mesh>("", MESH, self.server.get(MESH));
        for name in [dataplane::AGENT, dataplane::ZTUNNEL] {
            let path = daemon_set(name);
            self.see::<DaemonSet>("ambit-system", &path, self.server.labelled(&path));
        }
        for (namespace, path) in [("ambit-system", ROOT), ("shop", WAYPOINT_ROOT)] {
            self.see::<PartialObjectMeta<ConfigMap>>(namespace, path, self.server.get(path));
        }
        for name in [dataplane::AGENT, dataplane::ZTUNNEL_ACCOUNT] {
            let path = format!("/api/v1/namespaces/ambit-system/serviceaccounts/{name}");
            self.see::<PartialObjectMeta<ServiceAccount>>("ambit-system", &path, self.server.labelled(&path));
        }
        for path in [WAYPOINT, FORGED] {
            self.see::<Deployment>("shop", path, self.server.labelled(path));
        }
        self.see::<Namespace>("", HOME, self.server.get(HOME));
        self.see::<Node>("", NODE, self.server.get(NODE));
        self.see::<Pod>("ambit-system", AGENT_POD, self.server.get(AGENT_POD));
    }

    fn see<K: Watched>(&self, namespace: &str, path: &str, object: Option<Value>) {
        match object {
            Some(object) => {
                let object: K = serde_json::from_value(object).unwrap();
                see(object, &self.index, &self.objects);
            }
            None => {
                let name = path.rsplit('/').next().unwrap();
                unsee::<K>(Key::new(namespace, name), &self.index, &self.objects);
            }
        }
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.server.get(path).unwrap();
        change(&mut object);
        self.server.put(path, object);
        self.watch();
    }

    /// Somebody deletes the Mesh; `how` is the finalizer that this puts on it.
    fn delete(&self, how: &str) {
        self.change(MESH, |mesh| {
            mesh["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            mesh["metadata"]["finalizers"] = json!(["ambit.dev/unenroll", how]);
        });
    }

    fn message(&self) -> String {
        let status = self.server.get(MESH).unwrap()["status"].clone();
        status["conditions"][0]["message"].as_str().unwrap().to_owned()
    }

    /// A pass, and the watches hear of it; what was written.
    async fn pass(&mut self) -> Vec<String> {
        self.reconciler.reconcile().await.unwrap();
        self.watch();
        self.server
            .writes()
            .into_iter()
            .map(|w| format!("{} {}", w.method, w.path))
            .collect()
    }

    /// (reason of Ready, of Degraded)
    fn reasons(&self) -> (String, String) {
        let status = self.server.get(MESH).unwrap()["status"].clone();
        let reason = |n: usize| {
            status["conditions"][n]["reason"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        (reason(0), reason(2))
    }
}

fn daemon_set(name: &str) -> String {
    format!("/apis/apps/v1/namespaces/ambit-system/daemonsets/{name}")
}

/// The data plane as the spec says on one node, in generation 2 of its DaemonSets.
fn rolled_out(world: &World) {
    for name in [dataplane::AGENT, dataplane::ZTUNNEL] {
        let mut set = world.server.get(&daemon_set(name)).unwrap();
        set["metadata"]["generation"] = json!(2);
        set["status"] = json!({
            "observedGeneration": 2, "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0,
            "updatedNumberScheduled": 1, "numberAvailable": 1, "numberReady": 1,
        });
        world.server.put(&daemon_set(name), set);
    }
    world.watch();
}

/// A node that is Ready, and its agent, which runs.
fn node_with_agent(world: &World, finished: bool) {
    let annotations = if finished {
        json!({"ambit.dev/uninstalled": "true"})
    } else {
        json!({})
    };
    let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    world
        .server
        .put(NODE, json!({"metadata": {"name": "n1"}, "status": ready}));
    let labels = json!({"app.kubernetes.io/name": "ambit-agent", "app.kubernetes.io/part-of": "ambit"});
    let pod = json!({
        "metadata": {
            "name": "ambit-agent-x", "namespace": "ambit-system", "uid": "x", "labels": labels, "annotations": annotations,
        },
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"containerStatuses": [{
            "name": "agent", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}},
        }]},
    });
    world.server.put(AGENT_POD, pod);
    world.watch();
}

/// A waypoint that an operator has made, in a namespace of users.
fn waypoint(world: &World) {
    let labels =
        json!({"app.kubernetes.io/managed-by": "ambit-operator", "app.kubernetes.io/part-of": "ambit"});
    for (path, name) in [
        (WAYPOINT, "edge"),
        (FORGED, "theirs"),
        (WAYPOINT_ROOT, "ambit-ca-root"),
    ] {
        let metadata = json!({"name": name, "namespace": "shop", "uid": name, "labels": labels});
        world.server.put(path, json!({"metadata": metadata}));
    }
    let entry = Registered {
        deployment: Some("edge".to_owned()),
        ..Registered::default()
    };
    world
        .objects
        .set_register("shop", &BTreeMap::from([("edge".to_owned(), entry)]));
    world.watch();
}

#[test]
fn versions_of_managed_clusters_are_read() {
    assert_eq!(number("30+"), 30);
    assert_eq!(number("1"), 1);
}

#[tokio::test]
async fn old_kubernetes_gets_nothing() {
    let mut world = World::new("29+");
    assert_eq!(world.pass().await, [format!("PATCH {MESH}/status")]);
    assert_eq!(
        world.reasons(),
        ("KubernetesTooOld".to_owned(), "KubernetesTooOld".to_owned())
    );
    let mesh = world.server.get(MESH).unwrap();
    let message = mesh["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("1.29") && message.contains("1.30"), "{message}");
    assert_eq!(mesh["metadata"].get("finalizers"), None);
    assert_eq!(world.pass().await, [] as [String; 0]);
}

#[tokio::test]
async fn mesh_rolls_out_once_and_drift_is_corrected() {
    let mut world = World::new("34");
    let writes = world.pass().await;
    let applied = writes.iter().filter(|w| w.contains("ambit-system")).count();
    assert_eq!(applied, 5, "{writes:?}");
    assert_eq!(world.reasons().0, "RollingOut");
    assert_eq!(
        world.server.get(MESH).unwrap()["metadata"]["finalizers"],
        json!(["ambit.dev/unenroll"])
    );
    world.pass().await;
    assert_eq!(world.pass().await, [] as [String; 0]);

    rolled_out(&world);
    let writes = world.pass().await;
    let sets = writes.iter().filter(|w| w.contains("/daemonsets/")).count();
    assert_eq!(sets, 2, "somebody's change: applied again: {writes:?}");
    world.pass().await;
    assert_eq!(world.reasons(), ("Ready".to_owned(), "AsExpected".to_owned()));
    assert_eq!(world.server.get(MESH).unwrap()["status"]["nodes"], "1/1");
}

#[tokio::test]
async fn lost_label_of_a_daemon_set_is_restored() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    for restarted in [false, true] {
        let set = daemon_set(dataplane::ZTUNNEL);
        world.server.unlabel(&set);
        if restarted {
            world = World::on(world.server.clone());
        }
        world.watch();
        let writes = world.pass().await;
        assert!(writes.contains(&format!("PATCH {set}")), "{writes:?}");
        assert_eq!(world.reasons().0, "RollingOut");
        assert!(world.server.labelled(&set).is_some());
        world.pass().await;
        assert_eq!(world.pass().await, [] as [String; 0]);
    }
}

#[tokio::test]
async fn restarted_operator_writes_nothing() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    world.server.writes();
    let mut restarted = World::on(world.server.clone());
    assert_eq!(restarted.pass().await, [] as [String; 0]);
}

/// Somebody who looks after a namespace is Captured sees all its pods, and none after they are released.
#[tokio::test(start_paused = true)]
async fn last_pod_of_a_capture_is_counted_at_once() {
    let mut world = World::new("34");
    world.pass().await;
    rolled_out(&world);
    world.pass().await;
    let enrol = |world: &World, labels: Value| {
        let namespace = json!({"metadata": {"name": "shop", "labels": labels}});
        world.see::<Namespace>("", "shop", Some(namespace));
    };
    let pods = |world: &World, names: std::ops::Range<u32>, annotations: &Value| {
        for n in names {
            let pod = json!({
                "metadata": {
                    "name": format!("p{n}"), "namespace": "shop", "uid": format!("u{n}"), "annotations": annotations,
                },
                "spec": {"nodeName": "n1", "serviceAccountName": "cart", "containers": []},
            });
            world.see::<Pod>("shop", "p", Some(pod));
        }
    };
    let captured = |world: &World| world.server.get(MESH).unwrap()["status"]["pods"]["captured"].clone();
    let marked = json!({"ambient.istio.io/redirection": "enabled"});
    enrol(&world, json!({"istio.io/dataplane-mode": "ambient"}));
    pods(&world, 0..4, &json!({}));
    world.pass().await;
    assert_eq!(captured(&world), 0);
    pods(&world, 0..1, &marked);
    assert_eq!(world.pass().await, [] as [String; 0], "more are to come");
    pods(&world, 1..4, &marked);
    world.pass().await;
    assert_eq!(captured(&world), 4);
    enrol(&world, json!({}));
    world.pass().await;
    assert_eq!(captured(&world), 4, "none is released yet");
    pods(&world, 0..4, &json!({}));
    world.pass().await;
    assert_eq!(captured(&world), 0);
}

/// Foreground, background and orphaning differ in the finalizer that the API server adds, and in what the garbage
/// collector does at once.
#[tokio::test]
async fn deletion_releases_first() {
    for how in ["foregroundDeletion", "orphan", "example.com/other"] {
        let mut world = World::new("34");
        world.pass().await;
        world.pass().await;
        node_with_agent(&world, false);
        waypoint(&world);
        world.delete(how);
        // Had it an owner, it would go now.
        world.server.collect("u");
        world.watch();
        world.pass().await;
        assert_eq!(world.reasons().0, UNINSTALLING);
        assert!(world.message().contains("n1: the agent has not finished"));
        for name in [dataplane::AGENT, dataplane::ZTUNNEL] {
            assert!(world.server.get(&daemon_set(name)).is_some(), "{how}: {name}");
        }

        node_with_agent(&world, true);
        let writes = world.pass().await;
        for path in [
            &daemon_set(dataplane::AGENT),
            &daemon_set(dataplane::ZTUNNEL),
            ROOT,
            WAYPOINT,
            WAYPOINT_ROOT,
        ] {
            assert!(world.server.get(path).is_none(), "{how}: {path}");
        }
        assert!(
            world.server.get(FORGED).is_some(),
            "it only says that it is the operator's"
        );
        assert_eq!(
            writes.last().unwrap(),
            &format!("PATCH {MESH}"),
            "the Mesh goes last"
        );
        assert_eq!(
            world.server.get(MESH).unwrap()["metadata"]["finalizers"],
            json!([how])
        );
        // Whatever holds it still, it is not touched any more.
        assert_eq!(world.pass().await, [] as [String; 0]);
    }
}

/// Nodes and pods are watched.
#[tokio::test]
async fn passes_during_deletion_list_nothing() {
    let mut world = World::new("34");
    world.pass().await;
    node_with_agent(&world, false);
    world.delete("orphan");
    world.pass().await;
    world.server.reads();
    for _ in 0..3 {
        world.pass().await;
        assert_eq!(world.reasons().0, UNINSTALLING);
    }
    let mut reads = world.server.reads();
    reads.retain(|path| path.ends_with("/nodes") || path.ends_with("/pods"));
    assert_eq!(reads, [] as [String; 0]);
}

/// Nothing is rolled out before the finalizer is on, and somebody else's stays.
#[tokio::test]
async fn late_finalizer_is_restored() {
    let mut world = World::new("34");
    let mut changed = world.server.get(MESH).unwrap();
    changed["metadata"]["finalizers"] = json!(["example.com/other"]);
    world.server.put(MESH, changed);
    // The watch has yet to hear of it.
    assert!(world.reconciler.reconcile().await.is_err());
    assert!(world.server.get(&daemon_set(dataplane::AGENT)).is_none());
    world.watch();
    world.pass().await;
    assert_eq!(
        world.server.get(MESH).unwrap()["metadata"]["finalizers"],
        json!(["example.com/other", "ambit.dev/unenroll"])
    );
}

#[tokio::test]
async fn deletion_restores_agents() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    node_with_agent(&world, false);
    world.delete("foregroundDeletion");
    world.pass().await;
    world.server.remove(&daemon_set(dataplane::AGENT));
    world.watch();
    let writes = world.pass().await;
    assert!(
        writes.contains(&format!("PATCH {}", daemon_set(dataplane::AGENT))),
        "{writes:?}"
    );
}

#[tokio::test]
async fn deletion_waits_for_a_dead_node_by_name() {
    let mut world = World::new("34");
    world.pass().await;
    node_with_agent(&world, false);
    world.change(NODE, |node| {
        node["status"]["conditions"][0]["status"] = json!("Unknown");
    });
    world.delete("example.com/other");
    world.pass().await;
    assert_eq!(world.reasons().0, UNINSTALLING);
    assert!(world.message().contains("n1 (not Ready)"), "{}", world.message());
    world.server.remove(NODE);
    world.watch();
    world.pass().await;
    assert!(world.server.get(&daemon_set(dataplane::AGENT)).is_none());
}

/// As when somebody takes the finalizer off, while an operator runs or while none does.
#[tokio::test]
async fn data_plane_without_a_mesh_is_removed_in_order() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    node_with_agent(&world, false);
    world.server.remove(MESH);
    let mut world = World::on(world.server);
    node_with_agent(&world, false);
    assert_eq!(world.pass().await, [] as [String; 0]);
    node_with_agent(&world, true);
    world.pass().await;
    assert!(world.server.get(&daemon_set(dataplane::AGENT)).is_none());
}

#[tokio::test]
async fn owner_references_of_older_versions_are_removed() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    let set = daemon_set(dataplane::AGENT);
    world.change(&set, |object| {
        object["metadata"]["ownerReferences"] = json!([{"kind": "Mesh", "uid": "u"}]);
        object["metadata"]["annotations"]["ambit.dev/applied-hash"] = json!("of an older version");
        object["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"]["f:ownerReferences"] = json!({});
    });
    let mut upgraded = World::on(world.server);
    upgraded.pass().await;
    let object = upgraded.server.get(&set).unwrap();
    assert_eq!(object["metadata"].get("ownerReferences"), None);
}

#[tokio::test]
async fn deleted_namespace_of_the_data_plane_releases_pods() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    node_with_agent(&world, false);
    let home = json!({"metadata": {"name": "ambit-system", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    world.server.put(HOME, home);
    world.watch();
    assert!(
        world.index.read(|index| index.active_mesh().is_none()),
        "agents are told to release all"
    );
    assert_eq!(world.pass().await, [format!("PATCH {MESH}/status")]);
    assert_eq!(
        world.reasons(),
        (
            "NamespaceTerminating".to_owned(),
            "NamespaceTerminating".to_owned()
        )
    );
}

#[tokio::test]
async fn impossible_resources_are_named_and_not_applied() {
    let mut world = World::new("34");
    world.change(MESH, |mesh| {
        mesh["spec"]["waypoint"] = json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}});
    });
    assert_eq!(world.pass().await, [format!("PATCH {MESH}/status")]);
    assert_eq!(world.reasons().0, "SpecInvalid");
    assert_eq!(
        world.message(),
        "spec.waypoint.resources: requests.cpu 2 is above limits.cpu 1"
    );
}

/// The DaemonSet itself misses nothing there.
#[tokio::test]
async fn captured_pods_without_ztunnel_are_a_warning() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    node_with_agent(&world, false);
    rolled_out(&world);
    let pod = json!({
        "metadata": {
            "name": "p", "namespace": "shop", "uid": "p",
            "annotations": {ambit_crds::labels::CAPTURE_MARK: ambit_crds::labels::CAPTURED},
        },
        "spec": {"nodeName": "n1", "containers": []},
    });
    world.see::<Pod>("shop", "p", Some(pod));
    world.pass().await;
    let warnings = |world: &World| world.server.get(MESH).unwrap()["status"]["warnings"].clone();
    let warning = warnings(&world)[0].as_str().unwrap().to_owned();
    assert!(
        warning.contains("placement excludes nodes") && warning.ends_with("n1"),
        "{warning}"
    );
    let labels = json!({"app.kubernetes.io/name": "ztunnel", "app.kubernetes.io/part-of": "ambit"});
    let ztunnel = json!({
        "metadata": {"name": "ztunnel-x", "namespace": "ambit-system", "uid": "z", "labels": labels},
        "spec": {"nodeName": "n1", "containers": []},
    });
    world.see::<Pod>("ambit-system", "ztunnel-x", Some(ztunnel));
    world.pass().await;
    assert_eq!(warnings(&world), Value::Null);
}
