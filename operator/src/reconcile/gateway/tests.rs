//! GatewayClasses and XMeshes, with an API server in memory.

use ambit_crds::Mesh;
use serde_json::{Value, json};

use super::*;
use crate::gateway::{CONTROLLER, FEATURES, GatewayClass, XMesh};
use crate::index::Config;
use crate::reconcile::testing::Server;
use crate::reconcile::watch::{Watched, see, unsee};

const CLASS: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/ambit-waypoint";
const XMESH: &str = "/apis/gateway.networking.x-k8s.io/v1alpha1/xmeshes/ambit";

struct World {
    server: Server,
    index: SharedIndex,
    objects: Arc<Objects>,
    reconciler: ClassReconciler,
}

impl World {
    fn new() -> Self {
        let (server, objects) = (Server::default(), Arc::new(Objects::default()));
        Self {
            index: SharedIndex::new(Config::default()),
            reconciler: ClassReconciler::new(server.client(), Arc::clone(&objects)),
            server,
            objects,
        }
    }

    /// The watch of a kind hears of an object.
    fn of<K: Watched>(&self, path: &str) {
        match self.server.get(path) {
            Some(object) => see::<K>(
                serde_json::from_value(object).unwrap(),
                &self.index,
                &self.objects,
            ),
            None => {
                let name = path.rsplit('/').next().unwrap();
                unsee::<K>(Key::new("", name), &self.index, &self.objects);
            }
        }
    }

    fn mesh(&self, ready: &str) {
        let condition = json!({
            "type": "Ready", "status": ready, "reason": "Reason", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let mesh = json!({
            "metadata": {"name": "default", "uid": "m", "generation": 1}, "spec": {}, "status": {"conditions": [condition]},
        });
        see::<Mesh>(serde_json::from_value(mesh).unwrap(), &self.index, &self.objects);
    }

    /// Both kinds are there.
    fn install(&self) {
        GatewayClass::available(true, &self.objects);
        XMesh::available(true, &self.objects);
    }

    /// Passes until nothing is written; what was written.
    async fn settle(&self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            self.reconciler.reconcile().await.unwrap();
            let writes = self.server.writes();
            if writes.is_empty() {
                return all;
            }
            all.extend(writes.into_iter().map(|w| format!("{} {}", w.method, w.path)));
            self.of::<GatewayClass>(CLASS);
            self.of::<XMesh>(XMESH);
        }
    }

    fn condition(&self, path: &str, kind: &str) -> Value {
        let object = self.server.get(path).unwrap();
        let conditions = object["status"]["conditions"].as_array().unwrap();
        conditions.iter().find(|c| c["type"] == kind).unwrap().clone()
    }
}

#[tokio::test]
async fn class_and_mesh_come_with_their_kinds_and_go_with_the_mesh() {
    let world = World::new();
    world.mesh("True");
    assert_eq!(
        world.settle().await,
        [""; 0],
        "the cluster does not have the kinds"
    );

    world.install();
    world.settle().await;
    for path in [CLASS, XMESH] {
        let object = world.server.get(path).unwrap();
        assert_eq!(object["spec"]["controllerName"], CONTROLLER);
        assert_eq!(world.condition(path, "Accepted")["status"], "True");
        let features = object["status"]["supportedFeatures"].as_array().unwrap().iter();
        let features: Vec<_> = features.map(|f| f["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(features, FEATURES);
        assert!(features.is_sorted());
    }
    assert_eq!(world.condition(XMESH, "Ready")["status"], "True");
    world.mesh("False");
    world.settle().await;
    assert_eq!(world.condition(XMESH, "Ready")["status"], "False");

    // The kind goes, and comes without its objects.
    world.server.remove(CLASS);
    GatewayClass::available(false, &world.objects);
    assert_eq!(world.settle().await, [""; 0]);
    GatewayClass::available(true, &world.objects);
    assert_eq!(world.settle().await[0], format!("PATCH {CLASS}"));

    unsee::<Mesh>(Key::new("", "default"), &world.index, &world.objects);
    world.settle().await;
    assert_eq!((world.server.get(CLASS), world.server.get(XMESH)), (None, None));
}

#[tokio::test]
async fn objects_of_others_are_left_alone() {
    let world = World::new();
    world.mesh("True");
    let object = |kind: &str, name: &str, spec: Value| json!({"kind": kind, "metadata": {"name": name, "generation": 1}, "spec": spec});
    // Both have the name that the operator would use.
    let foreign = json!({"controllerName": "other.example/mesh"});
    world
        .server
        .put(CLASS, object("GatewayClass", "ambit-waypoint", foreign.clone()));
    world.server.put(XMESH, object("XMesh", "ambit", foreign));
    world.of::<GatewayClass>(CLASS);
    world.of::<XMesh>(XMESH);
    assert_eq!(world.settle().await, [""; 0]);
    unsee::<Mesh>(Key::new("", "default"), &world.index, &world.objects);
    assert_eq!(world.settle().await, [""; 0]);
}

#[tokio::test]
async fn parameters_are_refused() {
    let world = World::new();
    world.mesh("True");
    let spec = json!({"controllerName": CONTROLLER, "parametersRef": {"group": "", "kind": "ConfigMap", "name": "c"}});
    world.server.put(
        CLASS,
        json!({"metadata": {"name": "ambit-waypoint", "generation": 2}, "spec": spec}),
    );
    world.of::<GatewayClass>(CLASS);
    world.settle().await;
    let accepted = world.condition(CLASS, "Accepted");
    assert_eq!(
        (&accepted["status"], &accepted["reason"]),
        (&json!("False"), &json!("InvalidParameters"))
    );
    assert_eq!(accepted["observedGeneration"], 2);
}
