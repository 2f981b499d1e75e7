use hyper::Method;

use super::*;
use crate::index::{Config, Key};
use crate::reconcile::testing::Server;
use crate::reconcile::{ImageSettings, Live};

const MESH: &str = "/apis/ambit.dev/v1alpha1/meshes/default";

struct World {
    server: Server,
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
        let settings = Settings {
            namespace: "ambit-system".into(),
            identity: "op".into(),
            images: ImageSettings {
                registry: "r".into(),
                tag: "t".into(),
                pull_policy: "Never".into(),
            },
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            log_format: "text".into(),
            root_certificate: "PEM".into(),
        };
        let objects = Arc::new(Objects::default());
        let reconciler = MeshReconciler::new(
            server.client(),
            settings,
            Arc::new(SharedIndex::new(Config::default())),
            Arc::clone(&objects),
            Events::new(server.client(), "op"),
        );
        let world = Self {
            server,
            objects,
            reconciler,
        };
        world.watch();
        world
    }

    /// The watches hear of what the server has.
    fn watch(&self) {
        let mesh = self.server.get(MESH).map(|m| serde_json::from_value(m).unwrap());
        self.objects.set_mesh(mesh);
        for name in [dataplane::AGENT, dataplane::ZTUNNEL] {
            let set = self
                .server
                .labelled(&daemon_set(name))
                .map(|s| serde_json::from_value(s).unwrap());
            self.objects.set_daemon_set(&Key::new("ambit-system", name), set);
        }
        for (kind, plural, name) in [
            ("ServiceAccount", "serviceaccounts", dataplane::AGENT),
            ("ServiceAccount", "serviceaccounts", dataplane::ZTUNNEL_ACCOUNT),
            ("ConfigMap", "configmaps", dataplane::ROOT_CONFIG_MAP),
        ] {
            let object = self
                .server
                .get(&format!("/api/v1/namespaces/ambit-system/{plural}/{name}"));
            let live = object.map(|o| Live::of(&serde_json::from_value(o["metadata"].clone()).unwrap()));
            self.objects.set_live(kind, &Key::new("ambit-system", name), live);
        }
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

/// A node that is Ready, and its agent, which runs.
fn node_with_agent(server: &Server, finished: bool) {
    let annotations = if finished {
        json!({"ambit.dev/uninstalled": "true"})
    } else {
        json!({})
    };
    server.put(
        "/api/v1/nodes/n1",
        json!({
            "metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }),
    );
    server.put("/api/v1/namespaces/ambit-system/pods/ambit-agent-x", json!({
        "metadata": {"name": "ambit-agent-x", "annotations": annotations},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"containerStatuses": [{
            "name": "agent", "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}},
        }]},
    }));
}

#[test]
fn versions_of_managed_clusters_are_read() {
    assert_eq!(number("30+"), 30);
    assert_eq!(number("1"), 1);
}

#[tokio::test]
async fn a_kubernetes_that_is_too_old_is_told_so_and_gets_nothing() {
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
async fn a_mesh_rolls_out_once_and_what_was_changed_by_hand_is_put_right() {
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
    let writes = world.pass().await;
    let sets = writes.iter().filter(|w| w.contains("/daemonsets/")).count();
    assert_eq!(sets, 2, "somebody's change: applied again: {writes:?}");
    world.pass().await;
    assert_eq!(world.reasons(), ("Ready".to_owned(), "AsExpected".to_owned()));
    assert_eq!(world.server.get(MESH).unwrap()["status"]["nodes"], "1/1");
}

#[tokio::test]
async fn a_daemon_set_that_has_lost_its_label_is_put_right() {
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
async fn an_operator_that_restarts_writes_nothing() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    world.server.writes();
    let mut restarted = World::on(world.server.clone());
    assert_eq!(restarted.pass().await, [] as [String; 0]);
}

#[tokio::test]
async fn a_deleted_mesh_waits_for_its_agents_and_then_lets_go() {
    let mut world = World::new("34");
    world.pass().await;
    world.pass().await;
    node_with_agent(&world.server, false);
    let mut mesh = world.server.get(MESH).unwrap();
    mesh["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    world.server.put(MESH, mesh);
    world.watch();
    world.pass().await;
    assert_eq!(world.reasons().0, UNINSTALLING);
    assert_eq!(
        world.server.get(MESH).unwrap()["metadata"]["finalizers"],
        json!(["ambit.dev/unenroll"])
    );

    node_with_agent(&world.server, true);
    world.reconciler.reconcile().await.unwrap();
    let writes = world.server.writes();
    let last = writes.last().unwrap();
    assert_eq!((&last.method, last.path.as_str()), (&Method::PATCH, MESH));
    assert_eq!(last.body["metadata"]["finalizers"], json!([]));
}
