//! Services that use a waypoint of another namespace.

use super::gateways::at_gateway;
use super::guards::CLIENT_ID;
use super::*;

/// Lenders, of which one comes before the borrower `shop` in every list, and one after it.
const LENDERS: [&str; 2] = ["infra", "zone"];

const ALL: &str = "All";

fn labels(namespace: &str) -> Value {
    json!({"istio.io/use-waypoint": "edge", "istio.io/use-waypoint-namespace": namespace})
}

fn address(lender: &str) -> String {
    format!("{lender}/edge.{lender}.svc.cluster.local")
}

fn principal(lender: &str) -> String {
    format!("cluster.local/ns/{lender}/sa/edge")
}

impl World {
    /// `shop` with a policy for `web`, and a Gateway `edge` in `lender` that admits Services `from`.
    fn lending(lender: &str, from: &str) -> Self {
        let mut world = Self::shop();
        world.policy("orders", orders());
        world.waypoint("shop", "waypoint", true);
        world.namespace(lender, Some("ambient"));
        world.lend(lender, json!({"from": from}));
        world.waypoint(lender, "edge", true);
        world.settle();
        world
    }

    fn lend(&mut self, lender: &str, namespaces: Value) {
        let allowed = json!({"namespaces": namespaces});
        self.gateway(
            "edge",
            &[
                ("/metadata/namespace", json!(lender)),
                ("/spec/listeners/0/allowedRoutes", allowed),
            ],
        );
    }

    fn sent_to(&self, lender: &str) -> &WaypointResources {
        &self.waypoints[&Key::new(lender, "edge")]
    }

    fn served_by(&self, lender: &str) -> Vec<String> {
        let served = services(self.sent_to(lender)).into_iter();
        served.map(|s| format!("{}/{}", s.namespace, s.name)).collect()
    }

    /// The message about what the Service's labels ask for in vain.
    fn finding(&self) -> Option<String> {
        let findings = self.index.namespace_summary("shop").services;
        assert!(findings.len() < 2);
        findings
            .into_iter()
            .next()
            .map(|f| format!("{}: {}", f.field, f.message))
    }
}

#[test]
fn a_service_uses_a_waypoint_of_a_namespace_whose_gateway_admits_it() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        assert_eq!(world.bound("web"), Some(address(lender)));
        assert_eq!(world.finding(), None);
        // It is sent what it has to enforce, and the pods.
        assert_eq!(world.served_by(lender), ["shop/web"]);
        let web = services(world.sent_to(lender)).remove(0);
        assert_eq!(web.authorization, ["shop/orders"]);
        assert!(world.sent_to(lender).policies.contains_key("shop/orders"));
        assert!(
            world
                .sent_to(lender)
                .workloads
                .contains_key("Kubernetes//Pod/shop/a")
        );
        // And is let in, alone.
        world.taken_down("waypoint");
        assert!(world.admits("a", 8080, Some(&principal(lender))));
        assert!(!world.admits("a", 8080, Some(CLIENT_ID)));
        assert!(!world.admits("a", 8080, Some("cluster.local/ns/shop/sa/waypoint")));
        // Statuses on both sides tell.
        assert_eq!(world.target("orders").waypoint, Some(Key::new(lender, "edge")));
        assert_eq!(world.target("orders").guarded_pods, Some(1));
        let message = world.target("orders").programmed.message;
        assert!(
            message.starts_with(&format!("waypoint {lender}/edge enforces it")),
            "{message}"
        );
        let lent = world.index.waypoints_in(lender);
        assert_eq!((lent.len(), lent[0].services, lent[0].bound), (1, 1, true));
        assert!(world.summary("waypoint").is_none());
        // What its pods are is sent on.
        world.pod(&marked(pod("b", "10.0.0.2")));
        world.endpoints("shop", "web", &["a", "b"]);
        assert!(
            world
                .sent_to(lender)
                .workloads
                .contains_key("Kubernetes//Pod/shop/b")
        );
        assert!(!world.admits("b", 8080, Some(CLIENT_ID)));
    }
}

#[test]
fn without_consent_the_own_waypoint_enforces_what_there_is() {
    for lender in LENDERS {
        let mut world = World::lending(lender, "Same");
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
        assert_eq!(world.served_by(lender), [""; 0]);
        assert!(!world.admits("a", 8080, Some(&principal(lender))));
        assert_eq!(
            world.finding().unwrap(),
            format!(
                "metadata.labels[istio.io/use-waypoint-namespace]: the Service may not use waypoint {lender}/edge: \
                 allowedRoutes of the Gateway does not select the namespace; it uses waypoint shop/waypoint, since a \
                 policy or a route is for it"
            )
        );
        assert_eq!(world.reasons("orders"), ("Accepted", "Programmed"));
        // Where nothing is to be enforced, there is no waypoint.
        world.delete_policy("orders");
        world.settle();
        assert_eq!(world.bound("web"), None);
        assert!(world.finding().unwrap().ends_with("; it uses no waypoint"));
        world.policy("orders", orders());

        // Consent comes, goes, and is for the labels of a namespace.
        world.lend(lender, json!({"from": ALL}));
        world.settle();
        assert_eq!(
            (world.bound("web"), world.finding()),
            (Some(address(lender)), None)
        );
        let selector = json!({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}});
        world.lend(lender, selector);
        world.settle();
        assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
        assert_eq!(world.served_by(lender), [""; 0]);
        world.namespace_labels("shop", json!({"team": "a"}));
        world.settle();
        assert_eq!(world.bound("web"), Some(address(lender)));
        world.namespace_labels("shop", json!({}));
        world.settle();
        assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));

        // It would not be there.
        world.lend(lender, json!({"from": ALL}));
        world.settle();
        assert_eq!(world.bound("web"), Some(address(lender)));
        world.namespace(lender, None);
        world.settle();
        assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
        assert!(
            world
                .finding()
                .unwrap()
                .contains("its namespace is not in the mesh")
        );

        // No Gateway, no consent: a waypoint that a label brought about is its own namespace's.
        let key = Key::new(lender, "edge");
        world.index.set_gateway(&key, None);
        world.namespace_labels(lender, use_waypoint("edge"));
        world.settle();
        assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
        let finding = world.finding().unwrap();
        assert!(
            finding.contains("has no Gateway of that name that declares a waypoint"),
            "{finding}"
        );
    }
}

#[test]
fn it_is_bound_once_the_other_namespaces_waypoint_has_been_ready() {
    for lender in LENDERS {
        let mut world = World::shop();
        world.policy("orders", orders());
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.lend(lender, json!({"from": ALL}));
        world.namespace(lender, Some("ambient"));
        assert_eq!(world.reasons("orders"), ("Accepted", "WaypointNotReady"));
        assert_eq!(world.bound("web"), None);
        // It has its configuration before anything is sent its way.
        assert_eq!(world.served_by(lender), ["shop/web"]);
        world.waypoint(lender, "edge", false);
        assert_eq!(world.bound("web"), None);
        world.waypoint(lender, "edge", true);
        assert_eq!(world.bound("web"), Some(address(lender)));
        assert_eq!(world.reasons("orders"), ("Accepted", "Programmed"));
        // Nothing of the borrower makes a waypoint there, or keeps it.
        world.index.set_gateway(&Key::new(lender, "edge"), None);
        world.flush();
        assert!(!world.index.waypoints_in(lender)[0].desired);
    }
}

#[test]
fn policies_for_the_gateway_hold_for_services_of_other_namespaces() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        let policy = with(at_gateway("edge"), "/timeouts", json!({"request": "3s"}));
        let object = |spec: &Value| json!({"metadata": {"name": "all", "namespace": lender}, "spec": spec});
        world.policy_object(object(&policy));
        world.settle();
        let web = services(world.sent_to(lender)).remove(0);
        // A request has to pass both: what the lender allows, the borrower may not.
        assert_eq!(web.authorization, ["shop/orders"]);
        assert_eq!(web.others.len(), 1);
        assert_eq!(web.others[0].policies, [format!("{lender}/all")]);
        assert_eq!(web.timeout, format!("{lender}/all"));
        let message = world.target("orders").programmed.message;
        assert!(
            message.contains(&format!("requests also have to pass {lender}/all")),
            "{message}"
        );
        world.policy("slow", with(everywhere(), "/timeouts", json!({"request": "9s"})));
        let web = services(world.sent_to(lender)).remove(0);
        assert_eq!(web.timeout, "shop/slow");
        world.delete_policy("slow");
        assert!(
            world
                .sent_to(lender)
                .policies
                .contains_key(&format!("{lender}/all"))
        );
        let summary = world.index.policy_summary(&Key::new(lender, "all")).unwrap();
        let target = &summary.targets[0];
        let message = &target.programmed.message;
        assert!(
            message.contains("it also applies to Service shop/web of other namespaces"),
            "{message}"
        );
        assert_eq!(target.guarded_pods, Some(1));
        // They guard by themselves.
        world.delete_policy("orders");
        world.settle();
        assert_eq!(world.bound("web"), Some(address(lender)));
        assert!(
            !world.admits("a", 8080, Some(CLIENT_ID)) && world.admits("a", 8080, Some(&principal(lender)))
        );
        world.index.set_policy(&Key::new(lender, "all"), None);
        world.flush();
        assert!(world.admits("a", 8080, Some(CLIENT_ID)));
    }
}

#[test]
fn rules_of_the_namespace_let_the_other_namespaces_waypoint_through() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.delete_policy("orders");
        world.ambient(
            "shop",
            json!({"authorization": [{"name": "clients", "action": "Allow", "from": [{"principals": [CLIENT_ID]}]}]}),
        );
        world.settle();
        assert!(!world.admits("a", 8080, Some(&principal(lender))));
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        assert!(world.admits("a", 8080, Some(&principal(lender))));
        assert!(world.admits("a", 8080, Some(CLIENT_ID)));
        assert!(!world.admits("a", 8080, Some("cluster.local/ns/shop/sa/other")));
        // It asks them for its own callers.
        assert!(
            world
                .sent_to(lender)
                .authorizations
                .keys()
                .any(|name| name.starts_with("shop/"))
        );
    }
}

#[test]
fn what_has_left_is_served_on_for_a_while() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        let admits = |world: &World| world.admits("a", 8080, Some(&principal(lender)));
        assert!(admits(&world));
        world.web_service("shop", "web", "10.96.0.1", json!({}));
        assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
        assert_eq!(world.served_by(lender), ["shop/web"]);
        assert!(admits(&world));
        world.settle();
        assert_eq!(world.served_by(lender), [""; 0]);
        assert!(!admits(&world));

        // Taken down by its own namespace while it is in use: it drains, with what it has.
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        world.index.set_gateway(&Key::new(lender, "edge"), None);
        world.flush();
        world.settle();
        assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
        assert_eq!(world.served_by(lender), ["shop/web"]);
        assert!(admits(&world));
        world.index.set_service(&Key::new(lender, "edge"), None);
        world.register(lender, "edge", None);
        assert!(!world.waypoints.contains_key(&Key::new(lender, "edge")));
        assert!(!admits(&world));
    }
}

#[test]
fn a_namespace_uses_it_for_all_of_its_services_and_for_no_pod() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.web_service("shop", "api", "10.96.0.2", json!({}));
        let mut all = labels(lender);
        all["istio.io/waypoint-for"] = json!("all");
        world.namespace_labels("shop", all);
        world.policy("all", everywhere());
        world.settle();
        assert_eq!(world.served_by(lender), ["shop/api", "shop/web"]);
        assert_eq!(world.bound("api"), Some(address(lender)));
        assert_eq!(world.target("all").waypoint, Some(Key::new(lender, "edge")));
        assert_eq!(world.workload("a").unwrap().waypoint, None);
        assert!(!world.summary("waypoint").unwrap().desired);
    }
}

/// Services of the mesh at an address of a captured pod, by hand: `x` of `namespace` at that of `shop/a`.
fn by_hand(world: &mut World, namespace: &str, labels: Value) {
    world.web_service(namespace, "x", "10.96.0.66", labels);
    world.slice(json!({
        "metadata": {"name": "x-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "x"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}],
    }));
}

#[test]
fn nobody_leads_requests_past_policies_through_a_waypoint_that_is_shared() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        let reached = |world: &World, namespace: &str| {
            let service = format!("{namespace}/x.{namespace}.svc.cluster.local");
            let workloads = world.sent_to(lender).workloads.values();
            let workloads = workloads.map(|bytes| Workload::decode(bytes.as_slice()).unwrap());
            let of_service: Vec<_> = workloads.filter(|w| w.services.contains_key(&service)).collect();
            assert_eq!(of_service.len(), 1);
            of_service[0].namespace == "shop" && of_service[0].service_account == "cart"
        };
        // By another borrower, and by whoever writes Services beside the waypoint.
        world.namespace("evil", Some("ambient"));
        by_hand(&mut world, "evil", labels(lender));
        assert!(!reached(&world, "evil"));
        by_hand(&mut world, lender, use_waypoint("edge"));
        assert!(!reached(&world, lender));
        // The namespace's own such Services have the rules of the pods (see sharing), and reach them.
        by_hand(&mut world, "shop", labels(lender));
        assert!(reached(&world, "shop"));
    }
}

#[test]
fn what_has_policies_stays_closed_when_the_lender_withdraws_its_waypoint() {
    let withdraw: [fn(&mut World, &str); 3] = [
        |world, lender| world.lend(lender, json!({"from": "Same"})),
        |world, lender| {
            world.index.set_gateway(&Key::new(lender, "edge"), None);
            world.flush();
        },
        |world, lender| world.namespace(lender, None),
    ];
    for (lender, withdraw) in LENDERS.into_iter().flat_map(|l| withdraw.map(|w| (l, w))) {
        let mut world = World::lending(lender, ALL);
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        world.taken_down("waypoint");
        assert!(world.summary("waypoint").is_none());
        withdraw(&mut world, lender);
        // Its own waypoint is not there yet.
        assert_eq!(world.bound("web").as_deref(), Some(WAYPOINT));
        assert!(!world.admits("a", 8080, Some(CLIENT_ID)));
        assert_eq!(world.reasons("orders"), ("Accepted", "WaypointNotReady"));
        assert!(world.summary("waypoint").unwrap().desired);
        world.waypoint("shop", "waypoint", true);
        world.settle();
        assert_eq!(world.reasons("orders"), ("Accepted", "Programmed"));
        assert!(world.admits("a", 8080, Some("cluster.local/ns/shop/sa/waypoint")));
        assert!(!world.admits("a", 8080, Some(CLIENT_ID)));
    }
}

#[test]
fn a_namespace_that_leaves_the_mesh_leaves_the_waypoint() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        world.namespace("shop", None);
        assert_eq!(world.bound("web"), None);
        world.settle();
        assert_eq!(world.served_by(lender), [""; 0]);
        world.namespace("shop", Some("ambient"));
        assert_eq!(world.bound("web"), Some(address(lender)));
    }
}

#[test]
fn it_asks_the_rules_that_it_is_exempt_from_as_long_as_it_is() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.delete_policy("orders");
        world.ambient(
            "shop",
            json!({"authorization": [{"name": "clients", "action": "Allow", "from": [{"principals": [CLIENT_ID]}]}]}),
        );
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        world.settle();
        world.web_service("shop", "web", "10.96.0.1", json!({}));
        let asks = |world: &World| {
            let mut sent = world.sent_to(lender).authorizations.keys();
            sent.any(|name| name.starts_with("shop/"))
        };
        let exempt = |world: &World| world.admits("a", 8080, Some(&principal(lender)));
        assert_eq!((asks(&world), exempt(&world)), (true, true));
        while !world.timers.is_empty() {
            world.expire(|timer| timer.after.as_secs() <= 30);
            assert_eq!(asks(&world), exempt(&world));
            world.expire(|_| true);
            assert_eq!(asks(&world), exempt(&world));
        }
        assert_eq!((asks(&world), exempt(&world)), (false, false));
    }
}

#[test]
fn backends_elsewhere_follow_the_policies_of_a_gateway() {
    for lender in LENDERS {
        let mut world = World::lending(lender, ALL);
        world.web_service("shop", "web", "10.96.0.1", labels(lender));
        // A route of another namespace sends requests to it, through a waypoint of its own.
        world.namespace("front", Some("ambient"));
        world.web_service("front", "front", "10.96.0.7", json!({}));
        world.waypoint("front", "waypoint", true);
        let grant = json!({
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "front"}],
            "to": [{"group": "", "kind": "Service"}],
        });
        let grant = serde_json::from_value(grant).unwrap();
        world.index.set_grant(&Key::new("shop", "to-web"), Some(grant));
        let backend = json!({"namespace": "shop", "name": "web", "port": 80});
        world.route(
            "front",
            "r",
            json!({
                "parentRefs": [{"group": "", "kind": "Service", "name": "front"}],
                "rules": [{"backendRefs": [backend]}],
            }),
        );
        let policy = at_gateway("edge");
        let object = json!({"metadata": {"name": "all", "namespace": lender}, "spec": policy});
        world.policy_object(object);
        world.settle();
        let names = |world: &World| world.waypoints[&Key::new("front", "waypoint")].policies.clone();
        assert!(
            names(&world).contains_key(&format!("{lender}/all")),
            "{:?}",
            names(&world).keys()
        );
        world.index.set_policy(&Key::new(lender, "all"), None);
        world.flush();
        assert!(!names(&world).contains_key(&format!("{lender}/all")));
    }
}
