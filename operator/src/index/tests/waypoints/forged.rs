//! Nothing follows from labels, annotations, names and owners that a namespace's users can write.

use super::*;

const ACCOUNT: &str = "cluster.local/ns/shop/sa/payments";

fn allow() -> Value {
    json!({"authorization": [{"name": "r", "action": "Allow", "from": [{"principals": [CLIENT_ID]}]}]})
}

const CLIENT_ID: &str = "cluster.local/ns/shop/sa/client";

/// A pod that looks like a replica of waypoint `payments`.
fn attacker() -> Value {
    let pod = with(
        pod("evil", "10.0.0.66"),
        "/spec/serviceAccountName",
        json!("payments"),
    );
    let pod = with(pod, "/metadata/labels", json!({"ambit.dev/waypoint": "payments"}));
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "payments-1", "uid": "set", "controller": true}]);
    with(pod, "/metadata/ownerReferences", owner)
}

impl World {
    /// Who rule `r` lets through, as text.
    fn admitted(&self) -> String {
        format!("{:?}", self.authorizations["shop/r"])
    }

    /// A ReplicaSet that looks like a waypoint's, of a Deployment that is not the operator's.
    fn forged_set(&mut self) {
        let set = ReplicaSetRecord {
            uid: "set".to_owned(),
            deployment: "theirs".to_owned(),
        };
        self.index
            .set_replica_set(&Key::new("shop", "payments-1"), Some(set));
        self.flush();
    }
}

#[test]
fn forged_service_makes_no_waypoint() {
    for enrolled in [false, true] {
        let mut world = World::enrolled();
        world.namespace("shop", enrolled.then_some("ambient"));
        world.like_a_waypoint("shop", "payments", "forged");
        world.forged_set();
        world.pod(&attacker());
        assert!(!world.index.has_waypoint("shop", "payments"));
        assert!(world.index.waypoints_in("shop").is_empty() && world.waypoints.is_empty());
        let (key, pod) = world.index.pod("u-evil").unwrap();
        assert_eq!(world.index.replica_of(key, pod), None);
        let impostors = world.index.impostors_in("shop");
        assert_eq!(impostors.len(), 1);
        assert_eq!((&*impostors[0].name, &*impostors[0].uid), ("payments", "forged"));
    }
}

#[test]
fn forged_service_is_not_exempt_from_rules() {
    let mut world = World::shop();
    world.ambient("shop", allow());
    let before = world.admitted();
    world.like_a_waypoint("shop", "payments", "forged");
    assert_eq!(world.admitted(), before);
    // Asked for too: its ServiceAccount may be somebody's.
    world.web_service("shop", "api", "10.96.0.2", use_waypoint("payments"));
    assert!(world.summary("payments").unwrap().desired);
    assert_eq!(world.admitted(), before);
    // The operator could apply the Service, and not the ServiceAccount.
    let entry = Registered {
        service: Some("forged".to_owned()),
        ..Registered::default()
    };
    world.register("shop", "payments", Some(entry));
    assert_eq!(world.admitted(), before);
    world.taken_down("payments");
    world.waypoint("shop", "payments", false);
    assert!(world.admitted().contains(ACCOUNT));
}

#[test]
fn forged_service_is_not_admitted_by_guards() {
    let mut world = World::protected();
    world.web_service("shop", "api", "10.96.0.2", use_waypoint("payments"));
    world.endpoints("shop", "api", &["a"]);
    world.like_a_waypoint("shop", "payments", "forged");
    world.settle();
    let guard = format!("{:?}", world.authorizations["shop/ambit-guard-web"]);
    assert!(
        guard.contains("sa/waypoint") && !guard.contains(ACCOUNT),
        "{guard}"
    );
    assert_eq!(world.bound("api"), None);
}

#[test]
fn forged_service_in_place_of_a_waypoints_gets_no_traffic() {
    let mut world = World::protected();
    assert!(world.vip("waypoint").is_some());
    world.delete_service("waypoint");
    world.like_a_waypoint("shop", "waypoint", "forged");
    // Its hostname leads nowhere: closed.
    assert!(world.vip("waypoint").is_none());
    assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
    assert_eq!(world.index.impostors_in("shop").len(), 1);
    assert_eq!(
        world.summary("waypoint").unwrap().obstacle,
        None,
        "it is replaced"
    );
    world.waypoint("shop", "waypoint", true);
    assert!(world.vip("waypoint").is_some());
    assert!(world.index.impostors_in("shop").is_empty());
}

#[test]
fn annotations_neither_bind_nor_unbind() {
    let mut world = World::protected();
    world.service(json!({
        "metadata": {"name": "waypoint", "namespace": "shop", "uid": "service-waypoint"},
        "spec": {"clusterIP": "10.96.9.9", "ports": [{"name": "hbone", "port": 15008}]},
    }));
    assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
    assert!(world.index.has_waypoint("shop", "waypoint"));
    world.waypoint("shop", "waypoint", false);
    world.settle();
    assert_eq!(world.bound("web"), None);
}
