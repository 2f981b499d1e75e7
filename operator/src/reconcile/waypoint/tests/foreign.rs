//! Objects that others have made.

use super::*;

#[tokio::test(start_paused = true)]
async fn foreign_objects_are_not_changed() {
    let world = World::new();
    let theirs = json!({"metadata": {"name": "waypoint", "namespace": "shop"}, "spec": {"replicas": 9}});
    world.server.put(DEPLOYMENT, theirs);
    let writes = world.settle().await;
    assert!(!writes.contains(&format!("PATCH {DEPLOYMENT}")), "{writes:?}");
    assert_eq!(world.replicas(), 9);
    let policy = world.server.get(POLICY).unwrap();
    let condition = &policy["status"]["ancestors"][0]["conditions"][1];
    assert_eq!(condition["status"], "False");
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.contains("Deployment shop/waypoint does not belong to Ambit"),
        "{message}"
    );
}

fn forged(name: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": "forged", "generation": 1,
            "labels": {
                "ambit.dev/waypoint": name, "app.kubernetes.io/managed-by": "ambit-operator",
                "app.kubernetes.io/part-of": "ambit",
            },
        },
        "spec": {"clusterIP": "10.96.6.6", "selector": {"app": "evil"}, "ports": [{"port": 15008}]},
    })
}

/// Nobody asked for the waypoint: the Service stays, people are told once, and nothing is recorded.
#[tokio::test(start_paused = true)]
async fn forged_service_is_an_event() {
    let world = World::new();
    let path = SERVICE.replace("services/waypoint", "services/payments");
    world.server.put(&path, forged("payments"));
    world.of::<Service>(&path);
    world.settle().await;
    let events = world.server.events("forged");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].0, "Forged");
    assert!(world.server.get(&path).is_some());
    assert_eq!(world.registered("payments"), None);
    assert!(!world.index.read(|index| index.has_waypoint("shop", "payments")));
}

#[tokio::test(start_paused = true)]
async fn forged_objects_that_block_a_waypoint_are_replaced() {
    for path in [SERVICE, ACCOUNT, DEPLOYMENT] {
        let world = World::new();
        world.server.put(path, forged("waypoint"));
        world.watch();
        world.settle().await;
        assert_eq!(world.server.events("forged")[0].0, "Forged", "{path}");
        let object = world.server.get(path).unwrap();
        assert_ne!(object["metadata"]["uid"], "forged", "{path}");
        let entry = world.registered("waypoint").unwrap();
        for (path, uid) in [
            (SERVICE, entry.service),
            (ACCOUNT, entry.service_account),
            (DEPLOYMENT, entry.deployment),
        ] {
            let there = &world.server.get(path).unwrap()["metadata"]["uid"];
            assert_eq!(there.as_str(), uid.as_deref(), "{path}");
        }
        assert!(world.reconciler.troubles("shop").is_empty());
    }
}

/// What an operator left that was killed before it could record it.
#[tokio::test(start_paused = true)]
async fn unregistered_objects_are_created_anew() {
    let world = World::new();
    world.settle().await;
    let before = world.registered("waypoint").unwrap();
    world.server.remove(REGISTER);
    let next = World::on(world.server.clone());
    next.settle().await;
    let after = next.registered("waypoint").unwrap();
    assert_ne!(after.service_account, before.service_account);
    assert!(next.reconciler.troubles("shop").is_empty());
    assert_eq!(World::on(next.server.clone()).pass().await, NOTHING);
}
