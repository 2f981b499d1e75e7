//! Waypoints that Gateways declare: their objects, and who owns them.

use super::*;
use crate::reconcile::gateway::GatewayReconciler;

impl World {
    /// A Gateway with the waypoint's name, and the AmbientNamespace.
    fn declare(&self, infrastructure: Value) {
        self.server.put(
            AMBIENT,
            json!({
                "apiVersion": "ambit.dev/v1alpha1", "kind": "AmbientNamespace", "spec": {},
                "metadata": {"name": "ambient", "namespace": "shop", "uid": "a", "generation": 1},
            }),
        );
        self.server.put(
            GATEWAY,
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
                "metadata": {"name": "waypoint", "namespace": "shop", "uid": "g", "generation": 1},
                "spec": {
                    "gatewayClassName": "ambit-waypoint", "infrastructure": infrastructure,
                    "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
                },
            }),
        );
        self.watch();
    }

    /// UIDs of the owners of an object.
    fn owners(&self, path: &str) -> Vec<String> {
        let object = self.server.get(path).unwrap();
        let owners = object["metadata"]["ownerReferences"].as_array().cloned();
        let owners = owners.unwrap_or_default().into_iter();
        owners.map(|o| o["uid"].as_str().unwrap().to_owned()).collect()
    }

    /// A pass over the status of the Gateway; returns its condition Programmed.
    async fn gateway_programmed(&self) -> (String, String) {
        let (index, objects) = (Arc::clone(&self.index), Arc::clone(&self.objects));
        let reconciler = GatewayReconciler::new(self.server.client(), index, objects);
        let troubles = self.reconciler.troubles("shop");
        reconciler.reconcile("shop", &troubles).await.unwrap();
        self.watch();
        let status = self.server.get(GATEWAY).unwrap()["status"].clone();
        let programmed = &status["conditions"][1];
        assert_eq!(programmed["type"], "Programmed");
        let text = |field: &str| programmed[field].as_str().unwrap().to_owned();
        (text("status"), text("message"))
    }
}

#[tokio::test(start_paused = true)]
async fn gateway_adopts_a_waypoint_and_restarts_nothing() {
    let world = World::new();
    world.settle().await;
    world.replica();
    world.settle().await;
    let before = world.server.get(DEPLOYMENT).unwrap();
    assert!(world.bound() && world.owners(DEPLOYMENT).is_empty());

    world.declare(json!({}));
    world.settle().await;
    let after = world.server.get(DEPLOYMENT).unwrap();
    for path in [ACCOUNT, SERVICE, DEPLOYMENT] {
        assert_eq!(world.owners(path), ["g", "a"], "{path}");
    }
    assert_eq!(world.owners(ROOT), NOTHING, "others may need it");
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(world.pass().await, NOTHING);
}

/// `kubectl delete --cascade=foreground`, which is Argo CD's default.
#[tokio::test(start_paused = true)]
async fn waypoint_that_is_needed_outlives_its_gateway() {
    let world = World::new();
    world.declare(json!({}));
    world.settle().await;
    world.replica();
    world.settle().await;
    let uid = world.server.get(DEPLOYMENT).unwrap()["metadata"]["uid"].clone();

    world.server.collect("g");
    world.server.remove(GATEWAY);
    world.watch();
    world.settle().await;
    assert!(world.bound());
    for path in [ACCOUNT, SERVICE, DEPLOYMENT] {
        assert_eq!(world.owners(path), NOTHING, "{path}");
    }
    assert_eq!(world.server.get(DEPLOYMENT).unwrap()["metadata"]["uid"], uid);
}

#[tokio::test(start_paused = true)]
async fn waypoint_that_nothing_needs_drains_with_its_gateway() {
    let world = World::new();
    world.server.remove(POLICY);
    world.declare(json!({}));
    world.settle().await;
    world.replica();
    world.settle().await;
    assert!(world.bound(), "it stands though nothing uses it");

    world.server.collect("g");
    world.server.remove(GATEWAY);
    world.watch();
    world.pass().await;
    assert!(!world.bound());
    assert!(world.server.get(DEPLOYMENT).is_some(), "callers are told first");
    tokio::time::sleep(LEAVE).await;
    world.pass().await;
    assert!(world.server.get(DEPLOYMENT).is_none() && world.server.get(SERVICE).is_some());
    world.server.remove(POD);
    world.watch();
    world.settle().await;
    for path in [ACCOUNT, SERVICE] {
        assert!(world.server.get(path).is_none(), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn labels_of_the_gateway_are_on_all_objects_and_replace_none_of_the_meshs() {
    let world = World::new();
    world.declare(json!({
        "labels": {"team": "a", "ambit.dev/register": "x", "istio.io/dataplane-mode": "ambient", "app.kubernetes.io/name": "x"},
        "annotations": {"note": "b", "ambient.istio.io/redirection": "enabled", "prometheus.io/port": "1"},
    }));
    world.settle().await;
    let deployment = world.server.get(DEPLOYMENT).unwrap();
    let template = &deployment["spec"]["template"];
    for object in [
        &deployment,
        template,
        &world.server.get(SERVICE).unwrap(),
        &world.server.get(ACCOUNT).unwrap(),
    ] {
        let (labels, annotations) = (&object["metadata"]["labels"], &object["metadata"]["annotations"]);
        assert_eq!(
            (&labels["team"], &annotations["note"]),
            (&json!("a"), &json!("b"))
        );
        assert_eq!(labels["app.kubernetes.io/name"], "ambit-waypoint");
        for reserved in [
            &labels["ambit.dev/register"],
            &annotations["ambient.istio.io/redirection"],
        ] {
            assert!(reserved.is_null(), "{object}");
        }
    }
    assert_eq!(template["metadata"]["labels"]["istio.io/dataplane-mode"], "none");
    assert_eq!(template["metadata"]["annotations"]["prometheus.io/port"], "15020");
}

#[tokio::test(start_paused = true)]
async fn status_of_the_gateway_follows_the_replicas() {
    let world = World::new();
    world.declare(json!({}));
    world.settle().await;
    world.change(SERVICE, |s| s["spec"]["clusterIPs"] = json!(["10.96.0.77"]));
    let failing = json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"});
    world.change(DEPLOYMENT, |d| d["status"]["conditions"] = json!([failing]));
    let (programmed, message) = world.gateway_programmed().await;
    assert_eq!(programmed, "False");
    assert!(message.contains("exceeded quota"), "{message}");

    world.replica();
    world.settle().await;
    assert_eq!(world.gateway_programmed().await.0, "True");
    let status = world.server.get(GATEWAY).unwrap()["status"].clone();
    assert_eq!(
        status["addresses"],
        json!([{"type": "IPAddress", "value": "10.96.0.77"}])
    );
    let listener = &status["listeners"][0];
    assert_eq!(
        (&listener["name"], &listener["attachedRoutes"]),
        (&json!("mesh"), &json!(0))
    );
    assert_eq!(listener["supportedKinds"][0]["kind"], "HTTPRoute");
    let all = status["conditions"].as_array().unwrap().iter();
    let all: Vec<_> = all.chain(listener["conditions"].as_array().unwrap()).collect();
    assert!(all.iter().all(|c| c["observedGeneration"] == 1), "{all:?}");

    // A condition of another controller stays its own; nothing is written twice.
    world.change(GATEWAY, |g| {
        let conditions = g["status"]["conditions"].as_array_mut().unwrap();
        conditions.push(json!({
            "type": "Other", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }));
    });
    world.server.writes();
    world.gateway_programmed().await;
    assert_eq!(world.server.writes(), []);
}
