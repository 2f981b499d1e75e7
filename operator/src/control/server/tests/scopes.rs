//! A rule for all of a namespace becomes one for some of its pods, and the other way round: at no moment is it in force
//! nowhere.

use std::collections::BTreeMap;

use ambit_crds::{AmbientNamespace, Mesh, WaypointPolicy};
use ambit_policy::{Connection, Policies, Scope, Target};
use ambit_wire::names::{
    TYPE_AUTHORIZATION, TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_SERVICE, TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD,
};
use ambit_wire::security::Authorization;
use ambit_wire::workload::{Address, Workload, address};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::control::testing::Cluster;
use crate::index::{
    AmbientRecord, Config, Key, MeshRecord, PodRecord, PolicyRecord, Registered, ServiceRecord, SharedIndex,
    SliceRecord,
};

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn key(name: &str) -> Key {
    Key::new("shop", name)
}

/// A pod `a` in an enrolled namespace `shop`, with a Service `web` that a waypoint is bound to.
fn shop() -> SharedIndex {
    let service = |name: &str, ip: &str, target: u16| -> Service {
        object(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80, "targetPort": target}]},
        }))
    };
    let web = service("web", "10.96.0.1", 8080);
    let waypoint = service("waypoint", "10.96.9.9", 15008);
    let registered = Registered {
        service_account: Some("account".to_owned()),
        service: Some("waypoint".to_owned()),
        deployment: None,
        bound: true,
    };
    let a: Pod = object(json!({
        "metadata": {
            "name": "a", "namespace": "shop", "uid": "u-a", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "a"}, "annotations": {"ambient.istio.io/redirection": "enabled"},
        },
        "spec": {"nodeName": "one", "serviceAccountName": "cart", "containers": [{"name": "c"}]},
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }));
    let slice: EndpointSlice = object(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "a"}}],
    }));
    let policy: WaypointPolicy = object(json!({
        "metadata": {"name": "late", "namespace": "shop"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "web"}], "timeouts": {"request": "1s"}},
    }));
    let mesh: Mesh = object(json!({"metadata": {"name": "default"}, "spec": {}}));
    let shared = SharedIndex::new(Config::default());
    shared.change(|index| {
        index.set_mesh(Some(MeshRecord::of(&mesh)));
        index.set_namespace("shop", Some(true));
        index.set_service(&key("web"), ServiceRecord::of(&web));
        index.set_service(&key("waypoint"), ServiceRecord::of(&waypoint));
        index.set_register("shop", BTreeMap::from([("waypoint".to_owned(), registered)]));
        index.set_pod(&key("a"), PodRecord::of(&a));
        index.set_slice(&key("web-1"), SliceRecord::of(&slice));
        index.set_policy(&key("late"), Some(PolicyRecord::of(&policy)));
    });
    shared
}

/// Nobody may connect to port 80; of all pods, or of those that are selected.
fn rule(shared: &SharedIndex, selector: Option<Value>) {
    let mut rule = json!({"name": "closed", "action": "Deny", "ports": [80]});
    if let Some(labels) = selector {
        rule["podSelector"] = json!({ "matchLabels": labels });
    }
    let ambient: AmbientNamespace = object(json!({
        "metadata": {"name": "ambient", "namespace": "shop"}, "spec": {"authorization": [rule]},
    }));
    shared.change(|index| index.set_ambient("shop", Some(AmbientRecord::of(&ambient))));
}

/// What a proxy holds.
#[derive(Default)]
struct Held {
    policies: Policies,
    workloads: BTreeMap<String, Workload>,
}

impl Held {
    fn apply(&mut self, batch: Batch) {
        let kind = batch.type_url.as_str();
        for resource in batch.added {
            let bytes = resource.bytes.as_slice();
            let workload = match kind {
                TYPE_AUTHORIZATION => {
                    let authorization = Authorization::decode(bytes).unwrap();
                    self.policies.insert(authorization.try_into().unwrap());
                    continue;
                }
                TYPE_WORKLOAD => Workload::decode(bytes).unwrap(),
                TYPE_ADDRESS => match Address::decode(bytes).unwrap().r#type {
                    Some(address::Type::Workload(workload)) => workload,
                    _ => continue,
                },
                _ => continue,
            };
            self.workloads.insert(resource.name, workload);
        }
        for name in batch.removed.iter().filter(|_| kind == TYPE_AUTHORIZATION) {
            self.policies.remove(name);
        }
    }

    /// What is decided on a connection to `a`, once it is known.
    fn decision(&self) -> Option<String> {
        let a = self.workloads.get("Kubernetes//Pod/shop/a")?;
        let connection = Connection {
            principal: Some("cluster.local/ns/shop/sa/cart"),
            source: "10.0.0.9".parse().unwrap(),
            destination: "10.0.0.1:80".parse().unwrap(),
        };
        let target = Target {
            namespace: "shop",
            policies: &a.authorization_policies,
        };
        Some(self.policies.evaluate(&connection, target).reason.to_string())
    }

    /// Nothing but one rule is left, and whoever it selects names it.
    fn is_settled(&self, scope: Scope) -> bool {
        let mut rules = self.policies.iter().filter(|p| p.name.namespace == "shop");
        let (first, second) = (rules.next(), rules.next());
        let a = self.workloads.get("Kubernetes//Pod/shop/a");
        let named = a.map(|a| a.authorization_policies.len());
        second.is_none()
            && first.is_some_and(|rule| rule.scope == scope)
            && named == Some(usize::from(scope == Scope::WorkloadSelector))
    }
}

#[tokio::test]
async fn rule_stays_in_force_when_its_selector_changes() {
    let (cluster, shared) = (Arc::new(Cluster::default()), Arc::new(shop()));
    shared.set_ready();
    rule(&shared, None);
    let running = Running::serving(&cluster, Arc::clone(&shared) as _).await;
    let ztunnel = cluster.ztunnel("one");
    let waypoint = cluster.token_of(PodInfo {
        waypoint: Some("waypoint".to_owned()),
        service_account_uid: Some("waypoint-account".to_owned()),
        enrolled: false,
        ..pod("shop", "waypoint-0", "waypoint", "one")
    });
    let of_waypoint = [
        TYPE_AUTHORIZATION,
        TYPE_WAYPOINT_POLICY,
        TYPE_WAYPOINT_SETTINGS,
        TYPE_WORKLOAD,
        TYPE_WAYPOINT_SERVICE,
    ];
    for (token, types) in [
        (&ztunnel, &[TYPE_AUTHORIZATION, TYPE_ADDRESS][..]),
        (&waypoint, &of_waypoint),
    ] {
        let mut proxy = Subscriber::start(&running, token, types);
        let mut held = Held::default();
        for (selector, scope) in [
            (None, Scope::Namespace),
            (Some(json!({"app": "a"})), Scope::WorkloadSelector),
            (None, Scope::Namespace),
        ] {
            rule(&shared, selector);
            while !held.is_settled(scope) {
                let batch = proxy.batches.recv().await.unwrap();
                held.apply(batch);
                // People are told the rule's name, whichever it is in force under.
                if let Some(decision) = held.decision() {
                    assert_eq!(decision, "denied by shop/closed", "{scope:?}");
                }
            }
        }
    }
}
