use std::sync::Arc;

use super::*;
use crate::control::{Directory, Sources};
use tokio_util::sync::CancellationToken;

/// What a Mesh, a namespace `shop` with a Service `web` and a policy for it come to; the waypoint is bound or not.
fn filled(shared: &SharedIndex, bound: bool) {
    let mut world = World::shop();
    world.policy("orders", orders());
    world.waypoint("shop", "waypoint", bound);
    shared.change(|index| *index = restarted(&world.index));
}

/// An index that has been given the same, and has given nothing out yet.
fn restarted(index: &Index) -> Index {
    let mut fresh = Index::new(Config::default());
    fresh.set_mesh(index.mesh.clone());
    fresh.set_namespace("shop", Some(true));
    for (key, record) in &index.services {
        fresh.set_service(key, Some(record.clone()));
    }
    for (key, record) in &index.pods {
        fresh.set_pod(key, Some(record.clone()));
    }
    for (key, record) in &index.policies {
        fresh.set_policy(key, Some(record.clone()));
    }
    fresh.set_register("shop", register_of(index));
    for (key, record) in &index.replica_sets {
        fresh.set_replica_set(key, Some(record.clone()));
    }
    let slice = index.endpoints.get(&Key::new("shop", "web-1")).cloned();
    fresh.set_slice(&Key::new("shop", "web-1"), slice);
    fresh
}

fn register_of(index: &Index) -> BTreeMap<String, Registered> {
    let register = index.registered_in("shop");
    register
        .map(|(key, entry)| (key.name.clone(), entry.clone()))
        .collect()
}

#[test]
fn a_waypoint_has_collections_of_its_own() {
    let shared = SharedIndex::new(Config::default());
    filled(&shared, true);
    assert!(
        shared.waypoint("shop", "waypoint").is_none(),
        "nothing has been read"
    );
    shared.set_ready();
    let told = shared.waypoint("shop", "waypoint").unwrap();
    for (collection, count) in [
        (&told.settings, 1),
        (&told.services, 1),
        (&told.policies, 1),
        (&told.workloads, 1),
        (&told.authorizations, 0),
    ] {
        assert!(collection.is_ready());
        assert_eq!(collection.len(), count);
    }
    assert!(shared.waypoint("shop", "other").is_none() && shared.waypoint("other", "waypoint").is_none());
    // What changes reaches them.
    shared.change(|index| index.set_pod(&Key::new("shop", "a"), None));
    assert!(told.workloads.is_empty());
    // What has nothing to do with them does not.
    let before = told.services.latest();
    shared.change(|index| index.set_namespace("bank", Some(true)));
    assert_eq!(told.services.latest(), before);
    // It goes, and its collections with it; the next one of its name has the same for whoever reads on.
    shared.change(|index| {
        index.set_policy(&Key::new("shop", "orders"), None);
        index.set_service(&Key::new("shop", "waypoint"), None);
        index.set_register("shop", BTreeMap::new());
    });
    assert!(shared.waypoint("shop", "waypoint").is_none());
    assert!(told.services.is_empty() && told.settings.is_empty());
    shared.change(|index| {
        let policy = object(json!({"metadata": {"name": "orders", "namespace": "shop"}, "spec": orders()}));
        index.set_policy(&Key::new("shop", "orders"), Some(PolicyRecord::of(&policy)));
    });
    assert!(Arc::ptr_eq(
        &told.services,
        &shared.waypoint("shop", "waypoint").unwrap().services
    ));
    assert_eq!(told.services.len(), 1);
}

#[test]
fn which_pods_are_replicas_of_a_waypoint() {
    let shared = SharedIndex::new(Config::default());
    filled(&shared, true);
    shared.set_ready();
    let labelled = |name: &str, account: &str, waypoint: &str| {
        let pod = with(pod(name, "10.0.0.9"), "/spec/serviceAccountName", json!(account));
        let pod = with(pod, "/metadata/labels/ambit.dev~1waypoint", json!(waypoint));
        let set = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "waypoint-1", "uid": "set-waypoint", "controller": true}]);
        with(pod, "/metadata/ownerReferences", set)
    };
    let bare = with(
        labelled("r", "waypoint", "waypoint"),
        "/metadata/ownerReferences",
        json!([]),
    );
    for (value, expected) in [
        (labelled("r", "waypoint", "waypoint"), Some("waypoint")),
        (bare, None),
        (labelled("r", "cart", "waypoint"), None),
        (labelled("r", "other", "other"), None),
        (pod("r", "10.0.0.9"), None),
    ] {
        shared.change(|index| index.set_pod(&Key::new("shop", "r"), PodRecord::of(&object(value))));
        let info = Directory::pod(&shared, "u-r").unwrap();
        assert_eq!(info.waypoint.as_deref(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_by_itself_does_so_in_its_time() {
    let shared = Arc::new(SharedIndex::new(Config::default()));
    filled(&shared, false);
    shared.set_ready();
    let stop = CancellationToken::new();
    let clock = tokio::spawn({
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        async move { shared.run_timers(&stop).await }
    });
    let told = shared.waypoint("shop", "waypoint").unwrap();
    let guard = "shop/ambit-guard-web";
    let mut world = World::shop();
    world.waypoint("shop", "waypoint", true);
    let register = register_of(&world.index);
    shared.change(|index| index.set_register("shop", register));
    assert!(shared.authorizations("n1").get(guard).is_some());
    // Time passes while nothing else is to be done. One that leaves a waypoint that goes on.
    let mut services = told.services.subscribe();
    shared.change(|index| index.set_namespace("shop", Some(true)));
    let api = json!({
        "metadata": {"name": "api", "namespace": "shop", "labels": {"istio.io/use-waypoint": "waypoint"}},
        "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 80}]},
    });
    let api_key = Key::new("shop", "api");
    let record = |value: Value| ServiceRecord::of(&object(value));
    shared.change(|index| index.set_service(&api_key, record(api.clone())));
    assert_eq!(told.services.len(), 2);
    shared.change(|index| {
        index.set_service(&api_key, record(with(api.clone(), "/metadata/labels", json!({}))))
    });
    assert_eq!(told.services.len(), 2);
    while told.services.len() == 2 {
        services.changed().await.unwrap();
    }
    stop.cancel();
    clock.await.unwrap();
}
