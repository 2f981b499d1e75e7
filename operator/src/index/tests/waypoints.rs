//! Waypoints: who is bound to which, what they are sent, and what policies' statuses say.

mod budget;
mod connection_routes;
mod foreign;
mod forged;
mod gateways;
mod guards;
mod policies;
mod routes;
mod scope;
mod scoped;
mod shared;
mod sharing;
mod transitions;

use ambit_crds::WaypointPolicy;
use ambit_wire::waypoint as wire;
use ambit_wire::workload::{GatewayAddress, gateway_address::Destination};

use super::*;

impl World {
    /// `enrolled`, with a Service `web` in front of a captured pod `a`.
    fn shop() -> Self {
        let mut world = Self::enrolled();
        world.web_service("shop", "web", "10.96.0.1", json!({}));
        world.pod(&marked(pod("a", "10.0.0.1")));
        world.endpoints("shop", "web", &["a"]);
        world
    }

    /// `shop`, with a policy for `web` that a waypoint enforces.
    fn protected() -> Self {
        let mut world = Self::shop();
        world.policy("orders", orders());
        world.waypoint("shop", "waypoint", true);
        world.settle();
        world
    }

    fn web_service(&mut self, namespace: &str, name: &str, ip: &str, labels: Value) {
        let mut service = json!({
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}]},
        });
        if ip == "None" {
            service["spec"]["clusterIPs"] = json!(["None"]);
        }
        self.service(service);
    }

    fn endpoints(&mut self, namespace: &str, service: &str, pods: &[&str]) {
        let endpoint =
            |pod: &&str| json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": pod}});
        self.slice(json!({
            "metadata": {"name": format!("{service}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
        }));
    }

    fn policy(&mut self, name: &str, spec: Value) {
        self.policy_object(json!({"metadata": {"name": name}, "spec": spec}));
    }

    fn policy_object(&mut self, mut value: Value) {
        let namespace = value["metadata"]["namespace"]
            .as_str()
            .unwrap_or("shop")
            .to_owned();
        value["metadata"]["namespace"] = json!(namespace);
        let policy: WaypointPolicy = object(value);
        let key = Key::new(namespace, policy.metadata.name.clone().unwrap());
        self.index.set_policy(&key, Some(PolicyRecord::of(&policy)));
        self.flush();
    }

    fn delete_policy(&mut self, name: &str) {
        self.index.set_policy(&Key::new("shop", name), None);
        self.flush();
    }

    /// The waypoint's Service, as the operator writes it and records it.
    fn waypoint(&mut self, namespace: &str, name: &str, bound: bool) {
        let entry = Registered {
            service_account: Some(format!("account-{name}")),
            service: Some(format!("service-{name}")),
            deployment: Some(format!("deployment-{name}")),
            bound,
        };
        self.register(namespace, name, Some(entry));
        let set = ReplicaSetRecord {
            uid: format!("set-{name}"),
            deployment: format!("deployment-{name}"),
        };
        let key = Key::new(namespace, format!("{name}-1"));
        self.index.set_replica_set(&key, Some(set));
        self.like_a_waypoint(namespace, name, &format!("service-{name}"));
    }

    fn register(&mut self, namespace: &str, name: &str, entry: Option<Registered>) {
        let entries = self.index.registered_in(namespace);
        let mut entries: BTreeMap<String, Registered> = entries
            .map(|(key, entry)| (key.name.clone(), entry.clone()))
            .collect();
        match entry {
            Some(entry) => entries.insert(name.to_owned(), entry),
            None => entries.remove(name),
        };
        self.index.set_register(namespace, entries);
        self.flush();
    }

    /// A Service that looks like a waypoint's.
    fn like_a_waypoint(&mut self, namespace: &str, name: &str, uid: &str) {
        self.service(json!({
            "metadata": {
                "name": name, "namespace": namespace, "uid": uid,
                "labels": {
                    "ambit.dev/waypoint": name, "app.kubernetes.io/managed-by": "ambit-operator",
                    "app.kubernetes.io/part-of": "ambit",
                },
                "annotations": {"ambit.dev/bound": "true", "ambit.dev/applied-hash": "0"},
                "managedFields": [{"manager": "ambit-operator", "operation": "Apply"}],
            },
            "spec": {"clusterIP": "10.96.9.9", "ports": [{"name": "hbone", "port": 15008}]},
        }));
    }

    /// The operator has taken the waypoint down.
    fn taken_down(&mut self, name: &str) {
        self.delete_service(name);
        self.register("shop", name, None);
    }

    fn delete_service(&mut self, name: &str) {
        self.index.set_service(&Key::new("shop", name), None);
        self.flush();
    }

    fn namespace_labels(&mut self, name: &str, labels: Value) {
        let mut labels = labels;
        labels["istio.io/dataplane-mode"] = json!("ambient");
        let namespace: Namespace = object(json!({"metadata": {"name": name, "labels": labels}}));
        self.index.apply_namespace(name, &namespace);
        self.flush();
    }

    /// The waypoint that ztunnels send connections to a Service of `shop` to.
    fn bound(&self, service: &str) -> Option<String> {
        self.vip(service).unwrap().waypoint.as_ref().map(host)
    }

    fn sent(&self, waypoint: &str) -> &WaypointResources {
        &self.waypoints[&Key::new("shop", waypoint)]
    }

    fn services_of(&self, waypoint: &str) -> Vec<wire::Service> {
        services(self.sent(waypoint))
    }

    fn served(&self, waypoint: &str) -> Vec<String> {
        self.services_of(waypoint).into_iter().map(|s| s.name).collect()
    }

    fn summary(&self, waypoint: &str) -> Option<WaypointSummary> {
        let all = self.index.waypoints_in("shop");
        all.into_iter().find(|w| w.name == waypoint)
    }

    /// Reasons of Accepted and Programmed at the policy's first target.
    fn reasons(&self, policy: &str) -> (&'static str, &'static str) {
        let target = self.target(policy);
        (target.accepted.reason.as_str(), target.programmed.reason.as_str())
    }

    fn target(&self, policy: &str) -> TargetSummary {
        let summary = self.index.policy_summary(&Key::new("shop", policy)).unwrap();
        summary.targets[0].clone()
    }
}

fn services(sent: &WaypointResources) -> Vec<wire::Service> {
    let services = sent.services.values();
    services
        .map(|b| wire::Service::decode(b.as_slice()).unwrap())
        .collect()
}

fn host(gateway: &GatewayAddress) -> String {
    assert_eq!(gateway.hbone_mtls_port, 15008);
    match gateway.destination.clone().unwrap() {
        Destination::Hostname(name) => format!("{}/{}", name.namespace, name.hostname),
        Destination::Address(_) => panic!("an address"),
    }
}

/// A policy for Service `web`.
fn orders() -> Value {
    json!({
        "targetRefs": [{"kind": "Service", "name": "web"}],
        "authorization": [{"name": "readers", "action": "Allow", "methods": ["GET"]}],
    })
}

/// The same for the namespace.
fn everywhere() -> Value {
    with(
        orders(),
        "/targetRefs",
        json!([{"kind": "Namespace", "name": "shop"}]),
    )
}

fn use_waypoint(name: &str) -> Value {
    json!({"istio.io/use-waypoint": name})
}

const WAYPOINT: &str = "shop/waypoint.shop.svc.cluster.local";

#[test]
fn a_policy_brings_a_waypoint_about_and_binds_once_it_has_been_ready() {
    let mut world = World::shop();
    assert!(world.index.waypoints_in("shop").is_empty());
    world.policy("orders", orders());
    let summary = world.summary("waypoint").unwrap();
    assert!(summary.desired && !summary.service && !summary.bound);
    assert_eq!(world.index.waypoint_namespaces(), ["shop"]);
    assert_eq!(world.bound("web"), None);
    assert_eq!(world.reasons("orders"), ("Accepted", "WaypointNotReady"));
    // It has its configuration before anything is sent its way.
    assert_eq!(world.served("waypoint"), ["web"]);
    world.waypoint("shop", "waypoint", false);
    assert_eq!(world.bound("web"), None);
    world.waypoint("shop", "waypoint", true);
    assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
    world.settle();
    assert_eq!(world.reasons("orders"), ("Accepted", "Programmed"));
    assert_eq!(
        world.target("orders").waypoint,
        Some(Key::new("shop", "waypoint"))
    );
    // The waypoint's own Service is reached directly.
    assert_eq!(world.bound("waypoint"), None);
}

#[test]
fn a_binding_stays_whatever_becomes_of_the_waypoint() {
    let mut world = World::protected();
    world.delete_service("waypoint");
    assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
    let summary = world.summary("waypoint").unwrap();
    assert!(summary.bound && !summary.service);
    // An operator that starts when no replica is left.
    let mut world = World::shop();
    world.waypoint("shop", "waypoint", true);
    world.policy("orders", orders());
    assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
}

#[test]
fn labels_bind_without_a_policy() {
    let mut world = World::shop();
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("edge"));
    assert!(world.summary("edge").unwrap().desired);
    world.waypoint("shop", "edge", true);
    assert_eq!(
        world.bound("web").as_deref(),
        Some("shop/edge.shop.svc.cluster.local")
    );
    // The namespace's label is for Services that have none.
    world.web_service("shop", "api", "10.96.0.2", json!({}));
    world.namespace_labels("shop", use_waypoint("all"));
    world.waypoint("shop", "all", true);
    assert_eq!(
        world.bound("api").as_deref(),
        Some("shop/all.shop.svc.cluster.local")
    );
    assert_eq!(
        world.bound("web").as_deref(),
        Some("shop/edge.shop.svc.cluster.local")
    );
    // A policy goes where the label says.
    world.policy("orders", orders());
    world.settle();
    assert_eq!(world.target("orders").waypoint, Some(Key::new("shop", "edge")));
    assert!(world.summary("waypoint").is_none());
    // The labels go, and so do the bindings.
    world.delete_policy("orders");
    world.namespace_labels("shop", json!({}));
    world.web_service("shop", "web", "10.96.0.1", json!({}));
    world.settle();
    assert_eq!((world.bound("web"), world.bound("api")), (None, None));
    assert!(!world.summary("edge").unwrap().desired);
}

#[test]
fn a_policy_for_the_namespace_binds_all_of_its_services() {
    let mut world = World::shop();
    world.web_service("shop", "api", "10.96.0.2", json!({}));
    world.web_service("shop", "db", "None", json!({}));
    world.web_service("shop", "old", "10.96.0.3", use_waypoint("none"));
    world.policy("all", everywhere());
    world.waypoint("shop", "waypoint", true);
    world.settle();
    assert_eq!(world.served("waypoint"), ["api", "web"]);
    assert!(world.bound("api").is_some() && world.bound("web").is_some());
    assert!(world.bound("db").is_none() && world.bound("old").is_none());
    let programmed = world.target("all").programmed;
    assert!(programmed.status);
    assert!(
        programmed
            .message
            .contains("not for db (headless), old (label istio.io/use-waypoint: none on the Service)"),
        "{}",
        programmed.message
    );
    // One that comes later.
    world.web_service("shop", "new", "10.96.0.4", json!({}));
    assert!(world.bound("new").is_some());
    assert_eq!(world.reasons("all"), ("Accepted", "Programmed"));
}

#[test]
fn a_label_keeps_the_waypoint_away() {
    let mut world = World::protected();
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("none"));
    world.settle();
    assert_eq!(world.bound("web"), None);
    assert_eq!(world.reasons("orders"), ("Accepted", "OptedOut"));
    assert_eq!(world.target("orders").guarded_pods, Some(0));
    for (namespace, reason) in [
        (json!({"istio.io/use-waypoint": "none"}), "OptedOut"),
        (json!({"istio.io/waypoint-for": "none"}), "OptedOut"),
        (json!({"istio.io/waypoint-for": "workload"}), "OptedOut"),
        (json!({"istio.io/waypoint-for": "all"}), "Programmed"),
        (json!({}), "Programmed"),
    ] {
        let mut world = World::protected();
        world.namespace_labels("shop", namespace.clone());
        world.settle();
        assert_eq!(world.reasons("orders").1, reason, "{namespace}");
        assert_eq!(
            world.bound("web").is_some(),
            reason == "Programmed",
            "{namespace}"
        );
    }
}

#[test]
fn pods_are_bound_where_waypoints_are_for_them() {
    let mut world = World::shop();
    world.pod(&marked(with(
        pod("b", "10.0.0.2"),
        "/metadata/labels/istio.io~1use-waypoint",
        json!("none"),
    )));
    world.pod(&pod("c", "10.0.0.3"));
    world.policy("all", everywhere());
    world.waypoint("shop", "waypoint", true);
    world.settle();
    let of_pod = |world: &World, name: &str| world.workload(name).unwrap().waypoint.as_ref().map(host);
    assert_eq!(of_pod(&world, "a"), None);
    world.namespace_labels("shop", json!({"istio.io/waypoint-for": "all"}));
    assert_eq!(of_pod(&world, "a").as_deref(), Some(WAYPOINT));
    assert_eq!(of_pod(&world, "b"), None);
    assert_eq!(of_pod(&world, "c").as_deref(), Some(WAYPOINT));
    // All ports are closed to others, as the namespace has rules.
    assert!(
        world
            .workload("a")
            .unwrap()
            .authorization_policies
            .contains(&"shop/ambit-guard:waypoint".to_owned())
    );
    let settings = wire::Settings::decode(world.sent("waypoint").settings["waypoint"].as_slice()).unwrap();
    assert_eq!(settings.workload_authorization, ["shop/all"]);
    assert_eq!(world.sent("waypoint").workloads.len(), 2);
    // Behind rules of a Service's own a direct call would have to pass these too.
    world.policy("orders", orders());
    assert_eq!(of_pod(&world, "a"), None);
    assert_eq!(of_pod(&world, "c").as_deref(), Some(WAYPOINT));
}

#[test]
fn where_no_waypoint_can_be() {
    let mut world = World::shop();
    world.web_service("shop", "web", "None", json!({}));
    world.policy("orders", orders());
    assert_eq!(world.reasons("orders"), ("Accepted", "NoVirtualAddress"));
    assert!(world.index.waypoints_in("shop").is_empty());

    let mut world = World::protected();
    world.namespace("shop", None);
    assert_eq!(world.reasons("orders"), ("Accepted", "NamespaceNotEnrolled"));
    let advice = |world: &World| world.target("orders").programmed.message;
    assert!(
        advice(&world).contains("label it istio.io/dataplane-mode=ambient"),
        "{}",
        advice(&world)
    );
    world.ambient("shop", json!({"enrollment": "None"}));
    assert!(advice(&world).contains("enrollment: None"), "{}", advice(&world));
    assert!(!world.summary("waypoint").unwrap().desired);
    world.settle();
    assert_eq!(world.bound("web"), None);
    world.index.set_mesh(None);
    world.flush();
    assert_eq!(world.reasons("orders"), ("Accepted", "NoMesh"));

    // A Service of somebody else's has the name.
    let mut world = World::shop();
    world.web_service("shop", "waypoint", "10.96.0.7", json!({}));
    world.policy("orders", orders());
    let obstacle = world.summary("waypoint").unwrap().obstacle.unwrap();
    assert!(obstacle.contains("does not belong to Ambit"), "{obstacle}");
    let target = world.target("orders");
    assert!(target.programmed.message.contains(&obstacle));
    world.web_service("shop", "web", "10.96.0.1", use_waypoint("My_Waypoint"));
    let obstacle = world.summary("My_Waypoint").unwrap().obstacle.unwrap();
    assert!(obstacle.contains("no Service can have this name"), "{obstacle}");
}

#[test]
fn how_waypoints_scale() {
    let mut world = World::shop();
    world.policy("orders", orders());
    let scaling = |world: &World| world.summary("waypoint").unwrap().scaling;
    assert_eq!(scaling(&world), ScalingSettings::default());
    world.mesh(
        json!({"waypoint": {"scaling": {"minReplicas": 2, "maxReplicas": 3, "scaleDownWindow": "1m"}}}),
    );
    world.ambient(
        "shop",
        json!({"waypoint": {"minReplicas": 4, "targetInFlight": 7, "scaleUpWindow": "2s"}}),
    );
    let expected = ScalingSettings {
        min: 4,
        // Not below the minimum, wherever that comes from.
        max: 4,
        target: 7,
        up: std::time::Duration::from_secs(2),
        down: std::time::Duration::from_secs(60),
    };
    assert_eq!(scaling(&world), expected);
}
