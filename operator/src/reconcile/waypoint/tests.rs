//! Passes over a namespace, with an API server in memory and the real index; the watches hear of what is written after
//! each pass.

mod declared;
mod foreign;
mod leading;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use prometheus::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::index::Config;
use crate::reconcile::testing::{Server, settings};
use crate::reconcile::watch::{Watched, see, unsee};

const MESH: &str = "/apis/ambit.dev/v1alpha1/meshes/default";
const SERVICE: &str = "/api/v1/namespaces/shop/services/waypoint";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/waypoint";
const ACCOUNT: &str = "/api/v1/namespaces/shop/serviceaccounts/waypoint";
const BUDGET: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/waypoint";
const ROOT: &str = "/api/v1/namespaces/shop/configmaps/ambit-ca-root";
const AMBIENT: &str = "/apis/ambit.dev/v1alpha1/namespaces/shop/ambientnamespaces/ambient";
const POLICY: &str = "/apis/ambit.dev/v1alpha1/namespaces/shop/waypointpolicies/orders";
const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/waypoint";
const REGISTER: &str = "/api/v1/namespaces/ambit-system/configmaps/ambit-waypoints.shop";
const SET: &str = "/apis/apps/v1/namespaces/shop/replicasets/waypoint-1";
const POD: &str = "/api/v1/namespaces/shop/pods/waypoint-0";

struct World {
    server: Server,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
    loads: Arc<LoadTable>,
    reconciler: WaypointReconciler,
    _timers: DropGuard,
}

impl World {
    /// An enrolled namespace with a Service and a policy for it.
    fn new() -> Self {
        let server = Server::default();
        server.put(
            MESH,
            json!({
                "apiVersion": "ambit.dev/v1alpha1", "kind": "Mesh",
                "metadata": {"name": "default", "uid": "m", "generation": 1}, "spec": {},
            }),
        );
        server.put(
            "/api/v1/namespaces/shop",
            json!({"metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}}),
        );
        server.put(
            "/api/v1/namespaces/shop/services/server",
            json!({
                "metadata": {"name": "server", "namespace": "shop"},
                "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [{"port": 80}]},
            }),
        );
        server.put(
            POLICY,
            json!({
                "apiVersion": "ambit.dev/v1alpha1", "kind": "WaypointPolicy",
                "metadata": {"name": "orders", "namespace": "shop", "uid": "p", "generation": 1},
                "spec": {"targetRefs": [{"kind": "Service", "name": "server"}], "timeouts": {"request": "5s"}},
            }),
        );
        Self::on(server)
    }

    /// An operator that starts on what there is.
    fn on(server: Server) -> Self {
        let index = Arc::new(SharedIndex::new(Config::default()));
        let objects = Arc::new(Objects::default());
        let stop = CancellationToken::new();
        let (clock, stopped) = (Arc::clone(&index), stop.clone());
        tokio::spawn(async move { clock.run_timers(&stopped).await });
        let loads = Arc::new(LoadTable::new(&Registry::new()).unwrap());
        let reconciler = WaypointReconciler::new(
            server.client(),
            settings(),
            Arc::clone(&index),
            Arc::clone(&objects),
            Events::new(server.client(), "op"),
            Arc::clone(&loads),
        );
        let world = Self {
            server,
            index,
            objects,
            loads,
            reconciler,
            _timers: stop.drop_guard(),
        };
        world.watch();
        world.index.set_ready();
        world
    }

    /// The watches hear of what the server has.
    fn watch(&self) {
        self.of::<Mesh>(MESH);
        self.of::<Namespace>("/api/v1/namespaces/shop");
        self.of::<Service>("/api/v1/namespaces/shop/services/server");
        self.of::<Service>(SERVICE);
        self.of::<ambit_crds::AmbientNamespace>(AMBIENT);
        self.of::<ambit_crds::WaypointPolicy>(POLICY);
        self.of::<crate::gateway::Gateway>(GATEWAY);
        self.of::<Pod>(POD);
        self.of::<PartialObjectMeta<ConfigMap>>(ROOT);
        self.of::<ConfigMap>(REGISTER);
        self.of::<ReplicaSet>(SET);
        self.of::<PartialObjectMeta<ServiceAccount>>(ACCOUNT);
        // By label.
        self.see::<Deployment>(DEPLOYMENT, self.server.labelled(DEPLOYMENT));
        self.see::<PartialObjectMeta<PodDisruptionBudget>>(BUDGET, self.server.labelled(BUDGET));
    }

    fn of<K: Watched + DeserializeOwned>(&self, path: &str) {
        self.see::<K>(path, self.server.get(path));
    }

    fn see<K: Watched + DeserializeOwned>(&self, path: &str, object: Option<Value>) {
        match object {
            Some(object) => {
                let object: K = serde_json::from_value(object).unwrap();
                see(object, &self.index, &self.objects);
            }
            None => {
                let name = path.rsplit('/').next().unwrap();
                let mut parts = path
                    .split("/namespaces/")
                    .skip(1)
                    .filter_map(|p| p.split_once('/'));
                let namespace = parts.next().map_or("", |(namespace, _)| namespace);
                unsee::<K>(Key::new(namespace, name), &self.index, &self.objects);
            }
        }
    }

    /// A pass, and the watches hear of it; what was written.
    async fn pass(&self) -> Vec<String> {
        self.reconciler.reconcile("shop").await.unwrap();
        self.watch();
        let writes = self.server.writes().into_iter();
        writes.map(|w| format!("{} {}", w.method, w.path)).collect()
    }

    /// Passes until nothing is written any more, and nothing is to come of itself within a moment; all that was
    /// written.
    async fn settle(&self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let writes = self.pass().await;
            if !writes.is_empty() {
                all.extend(writes);
                continue;
            }
            // Bindings take this long to be known everywhere. The clock is the test's.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let late = self.pass().await;
            if late.is_empty() {
                return all;
            }
            all.extend(late);
        }
    }

    /// Until `done`, with the watches hearing of what happens meanwhile.
    async fn until(&self, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            loop {
                self.watch();
                if done(self) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        // By the test's clock.
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "{:?}", self.server.writes());
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.server.get(path).unwrap();
        change(&mut object);
        self.server.put(path, object);
        self.watch();
    }

    /// A replica that runs and is ready.
    fn replica(&self) {
        let deployment = self.server.get(DEPLOYMENT).unwrap();
        let owner = |kind: &str, name: &str, uid: &Value| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true}]);
        let owners = owner("Deployment", "waypoint", &deployment["metadata"]["uid"]);
        self.server.put(
            SET,
            json!({"metadata": {"name": "waypoint-1", "namespace": "shop", "uid": "rs", "ownerReferences": owners}}),
        );
        self.server.put(
            POD,
            json!({
                "metadata": {
                    "name": "waypoint-0", "namespace": "shop", "uid": "w0",
                    "ownerReferences": owner("ReplicaSet", "waypoint-1", &json!("rs")),
                    "labels": {"ambit.dev/waypoint": "waypoint", "istio.io/dataplane-mode": "none"},
                },
                "spec": {"nodeName": "n1", "serviceAccountName": "waypoint", "containers": []},
                "status": {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}], "conditions": [{"type": "Ready", "status": "True"}]},
            }),
        );
        self.watch();
    }

    fn bound(&self) -> bool {
        self.registered("waypoint").is_some_and(|entry| entry.bound)
    }

    fn registered(&self, name: &str) -> Option<Registered> {
        let register = self.server.get(REGISTER)?;
        serde_json::from_str(register["data"][name].as_str()?).unwrap()
    }

    fn programmed(&self) -> (String, String) {
        let policy = self.server.get(POLICY).unwrap();
        let ancestor = &policy["status"]["ancestors"][0];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&ancestor["conditions"][1]["reason"]),
            text(&ancestor["replicas"]),
        )
    }

    /// Reasons and notes of the Events about the AmbientNamespace, each once.
    fn events(&self) -> BTreeSet<(String, String)> {
        self.server.events("a").into_iter().collect()
    }

    fn replicas(&self) -> Value {
        self.server.get(DEPLOYMENT).unwrap()["spec"]["replicas"].clone()
    }
}

const NOTHING: [&str; 0] = [];

#[tokio::test(start_paused = true)]
async fn policy_creates_a_waypoint_and_binds_when_ready() {
    let world = World::new();
    let writes = world.settle().await;
    for path in [ROOT, ACCOUNT, SERVICE, DEPLOYMENT] {
        let applied = writes.iter().filter(|w| **w == format!("PATCH {path}")).count();
        assert_eq!(applied, 1, "{path}: {writes:?}");
    }
    assert_eq!(
        world.server.get(BUDGET),
        None,
        "one replica has no disruption budget"
    );
    assert!(!world.bound());
    assert_eq!(world.programmed().0, "WaypointNotReady");

    world.replica();
    world.settle().await;
    assert!(world.bound());
    assert_eq!(world.programmed(), ("Programmed".to_owned(), "1/1".to_owned()));

    // No replica left: closed, not open.
    world.server.remove(POD);
    world.watch();
    world.settle().await;
    assert!(world.bound());
    assert_eq!(world.programmed(), ("Programmed".to_owned(), "0/1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn restarted_operator_writes_nothing() {
    let world = World::new();
    world.settle().await;
    world.replica();
    world.settle().await;
    world.change(DEPLOYMENT, |d| d["spec"]["replicas"] = json!(3));
    // What was applied then says so.
    world.server.remove(DEPLOYMENT);
    world.watch();
    world.settle().await;

    let restarted = World::on(world.server.clone());
    assert_eq!(restarted.pass().await, NOTHING);
    assert_eq!(restarted.pass().await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn drift_without_leader_is_corrected_once() {
    let world = World::new();
    world.settle().await;
    world.replica();
    world.settle().await;
    drop(world.reconciler);
    world
        .server
        .edit(DEPLOYMENT, json!({"spec": {"replicas": 0}}), &["/spec/replicas"]);
    let selector = json!({"spec": {"selector": {"app": "elsewhere"}}});
    world.server.edit(SERVICE, selector, &["/spec/selector"]);

    let begun = World::on(world.server.clone());
    let writes = begun.pass().await;
    let objects: Vec<_> = writes.iter().filter(|w| !w.contains("/status")).collect();
    assert_eq!(
        objects,
        [&format!("PATCH {SERVICE}"), &format!("PATCH {DEPLOYMENT}")]
    );
    assert_eq!(begun.replicas(), 1);
    let more = begun.settle().await;
    assert!(more.iter().all(|w| w.contains("/status")), "{more:?}");
    assert_eq!(World::on(begun.server.clone()).pass().await, NOTHING);
}

#[tokio::test(start_paused = true)]
async fn terminating_namespace_is_not_changed() {
    let world = World::new();
    world.server.leave("shop");
    let writes = world.pass().await;
    let tried: Vec<_> = writes.iter().filter(|w| !w.contains("/status")).collect();
    assert_eq!(tried, [&format!("PATCH {ROOT}")], "the first refusal is enough");
    assert!(world.reconciler.troubles("shop").is_empty());
}

#[tokio::test(start_paused = true)]
async fn recreated_namespace_starts_from_nothing() {
    let world = World::new();
    world.settle().await;
    let (namespace, policy) = ("/api/v1/namespaces/shop", world.server.get(POLICY).unwrap());
    let before = world.server.get(namespace).unwrap();
    for path in [namespace, POLICY, DEPLOYMENT, SERVICE, ACCOUNT, ROOT] {
        world.server.remove(path);
    }
    world.watch();
    assert_eq!(world.settle().await, NOTHING);
    tokio::time::advance(LEAVE).await;
    world.reconciler.tick();
    world.settle().await;
    assert!(world.reconciler.applied.is_empty() && world.server.get(REGISTER).is_none());

    world.server.put(namespace, before);
    world.server.put(POLICY, policy);
    let theirs =
        json!({"metadata": {"name": "waypoint", "namespace": "shop"}, "spec": {"selector": {"app": "edge"}}});
    world.server.put(SERVICE, theirs);
    world.watch();
    let writes = world.settle().await;
    assert!(!writes.contains(&format!("PATCH {SERVICE}")), "{writes:?}");
    assert!(world.reconciler.troubles("shop")["waypoint"].contains("not belong to Ambit"));
}

#[tokio::test(start_paused = true)]
async fn drift_is_corrected() {
    let world = World::new();
    world.settle().await;
    world.change(DEPLOYMENT, |d| {
        d["spec"]["replicas"] = json!(7);
        d["metadata"]["generation"] = json!(2);
    });
    assert_eq!(world.settle().await, [format!("PATCH {DEPLOYMENT}")]);
    assert_eq!(world.replicas(), 1);
    let before = world.registered("waypoint").unwrap();
    world.server.remove(SERVICE);
    world.watch();
    assert!(world.settle().await.contains(&format!("PATCH {SERVICE}")));
    assert!(world.server.get(SERVICE).is_some());
    assert_ne!(world.registered("waypoint").unwrap().service, before.service);
}

#[tokio::test(start_paused = true)]
async fn lost_label_is_restored() {
    for restarted in [false, true] {
        let mut world = World::new();
        world.settle().await;
        world.replica();
        world.settle().await;
        for path in [ROOT, ACCOUNT, SERVICE, DEPLOYMENT] {
            world.server.unlabel(path);
            if restarted {
                world = World::on(world.server.clone());
            }
            world.watch();
            let mut writes = world.settle().await;
            writes.retain(|w| !w.contains("/status"));
            assert_eq!(writes, [format!("PATCH {path}")], "{restarted}");
            assert!(world.server.labelled(path).is_some());
            assert!(world.reconciler.troubles("shop").is_empty() && world.bound());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn draining_object_without_label_is_deleted() {
    for theirs in [false, true] {
        let world = World::new();
        world.settle().await;
        world.replica();
        world.settle().await;
        world.server.remove(POLICY);
        world.watch();
        world.settle().await;
        if theirs {
            world.server.remove(DEPLOYMENT);
            let object = json!({"metadata": {"name": "waypoint", "namespace": "shop"}});
            world.server.put(DEPLOYMENT, object);
        } else {
            world.server.unlabel(DEPLOYMENT);
        }
        world.watch();
        tokio::time::advance(LEAVE).await;
        world.reconciler.tick();
        world.settle().await;
        assert_eq!(world.server.get(DEPLOYMENT).is_some(), theirs);
        world.server.remove(POD);
        world.watch();
        world.settle().await;
        assert_eq!(world.server.get(DEPLOYMENT).is_some(), theirs);
        assert_eq!(world.server.get(SERVICE), None);
        assert!(world.reconciler.applied.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn restart_keeps_replicas() {
    let world = World::new();
    world.change(MESH, |mesh| {
        mesh["spec"]["waypoint"] =
            json!({"scaling": {"targetInFlight": 10, "maxReplicas": 4, "scaleDownWindow": "0s"}});
    });
    world.settle().await;
    world.replica();
    world.settle().await;
    let stream = world.loads.stream("shop", "waypoint", "w0");
    let report = |world: &World, in_flight: u64| {
        stream.report(&ambit_wire::waypoint::Load {
            in_flight_milli: in_flight * 1000,
            ..Default::default()
        });
        world.reconciler.tick()
    };
    assert!(report(&world, 5).is_empty(), "nothing is to be done");
    assert_eq!(report(&world, 25), ["shop".to_owned()].into());
    let writes = world.settle().await;
    assert!(writes.contains(&format!("PATCH {BUDGET}")), "{writes:?}");
    assert_eq!(world.replicas(), 3);
    assert_eq!(world.programmed().1, "1/3");

    let restarted = World::on(world.server.clone());
    assert_eq!(restarted.pass().await, NOTHING);
    assert!(
        restarted.reconciler.tick().is_empty(),
        "no report has come yet: none is removed"
    );
    assert_eq!(restarted.pass().await, NOTHING);

    report(&world, 0);
    let writes = world.settle().await;
    assert!(writes.contains(&format!("DELETE {BUDGET}")), "{writes:?}");
    assert_eq!(world.replicas(), 1);
}

#[tokio::test(start_paused = true)]
async fn scaling_publishes_events() {
    let world = World::new();
    world.server.put(
        AMBIENT,
        json!({
            "apiVersion": "ambit.dev/v1alpha1", "kind": "AmbientNamespace",
            "metadata": {"name": "ambient", "namespace": "shop", "uid": "a", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"waypoint": {"targetInFlight": 10, "maxReplicas": 4, "scaleDownWindow": "0s"}},
        }),
    );
    world.watch();
    world.settle().await;
    world.replica();
    world.settle().await;
    let stream = world.loads.stream("shop", "waypoint", "w0");
    let report = async |in_flight: u64| {
        stream.report(&ambit_wire::waypoint::Load {
            in_flight_milli: in_flight * 1000,
            ..Default::default()
        });
        world.reconciler.tick();
        world.settle().await;
    };
    report(5).await;
    assert!(world.events().is_empty(), "nothing was scaled");

    let event = |reason: &str, note: &str| {
        let limits = "target 10 per replica, minimum 1, maximum";
        (
            reason.to_owned(),
            format!("waypoint: {note} requests in flight, {limits}"),
        )
    };
    let (up, up_note) = event("ScaledUp", "1 → 4 replicas: 40");
    let up = (up, format!("{up_note} 4"));
    report(40).await;
    assert_eq!(world.events(), [up.clone()].into());
    report(40).await;
    assert_eq!(world.events().len(), 1, "told twice");

    // New limits change it, too; and whoever leads next has nothing to tell.
    world.change(AMBIENT, |object| {
        object["spec"]["waypoint"]["maxReplicas"] = json!(3)
    });
    world.settle().await;
    let (down, down_note) = event("ScaledDown", "4 → 3 replicas: 40");
    let down = (down, format!("{down_note} 3"));
    assert_eq!(world.events(), [up.clone(), down.clone()].into());
    report(0).await;
    let (again, again_note) = event("ScaledDown", "3 → 1 replicas: 0");
    assert_eq!(
        world.events(),
        [up, down, (again, format!("{again_note} 3"))].into()
    );
    let next = World::on(world.server.clone());
    next.settle().await;
    assert_eq!(next.events().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn undesired_waypoint_drains_before_deletion() {
    let world = World::new();
    world.settle().await;
    world.replica();
    world.settle().await;
    world.server.remove(POLICY);
    world.watch();
    assert_eq!(world.settle().await, [format!("PUT {REGISTER}")]);
    assert!(!world.bound(), "should it be desired again, it begins anew");
    assert!(world.server.get(DEPLOYMENT).is_some());
    assert!(world.reconciler.tick().is_empty());

    tokio::time::advance(LEAVE).await;
    assert_eq!(world.reconciler.tick(), ["shop".to_owned()].into());
    assert_eq!(world.settle().await, [format!("DELETE {DEPLOYMENT}")]);
    assert!(
        world.server.get(SERVICE).is_some() && world.server.get(ACCOUNT).is_some(),
        "a replica is still draining"
    );
    world.server.remove(POD);
    world.watch();
    let writes = world.settle().await;
    let gone = [DEPLOYMENT, SERVICE, ACCOUNT, REGISTER, ROOT];
    assert_eq!(writes, gone.map(|path| format!("DELETE {path}")));
    assert!(world.reconciler.tick().is_empty() && world.reconciler.namespaces().is_empty());
}

#[tokio::test(start_paused = true)]
async fn waypoint_desired_again_stays() {
    let world = World::new();
    world.settle().await;
    world.replica();
    world.settle().await;
    let policy = world.server.get(POLICY).unwrap();
    world.server.remove(POLICY);
    world.watch();
    world.settle().await;
    world.server.put(POLICY, policy);
    world.watch();
    world.settle().await;
    assert!(world.bound());
    tokio::time::advance(LEAVE * 2).await;
    world.reconciler.tick();
    assert_eq!(world.settle().await, NOTHING);
    assert!(world.server.get(DEPLOYMENT).is_some());
}

#[tokio::test(start_paused = true)]
async fn deleted_mesh_deletes_waypoints() {
    let world = World::new();
    world.settle().await;
    world.replica();
    world.settle().await;
    world.change(MESH, |mesh| {
        mesh["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    world.settle().await;
    assert!(!world.bound());
    assert_eq!(world.programmed().0, "NoMesh");
    tokio::time::advance(LEAVE).await;
    world.settle().await;
    assert_eq!(world.server.get(DEPLOYMENT), None);
}

#[tokio::test(start_paused = true)]
async fn namespace_outside_the_mesh_gets_no_waypoint() {
    let world = World::new();
    world.change("/api/v1/namespaces/shop", |n| n["metadata"]["labels"] = json!({}));
    assert_eq!(world.settle().await, [format!("PATCH {POLICY}/status")]);
    assert_eq!(world.programmed().0, "NamespaceNotEnrolled");
}
