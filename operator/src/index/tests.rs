//! The index, from objects as the API server gives them to messages as the data plane gets them.

mod captures;
mod enrollment;
mod leaving;
mod rules;
mod services;
mod shared;
mod waypoints;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};

use ambit_crds::{AmbientNamespace, Mesh};
use ambit_wire::workload::{Address, Service, Workload, address};
use ambit_wire::{agent, security};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

/// An index and everything it has given out.
struct World {
    index: Index,
    addresses: BTreeMap<String, Address>,
    /// Authorizations of all nodes.
    authorizations: BTreeMap<String, security::Authorization>,
    /// Names of those that each node has.
    on_nodes: BTreeMap<String, BTreeSet<String>>,
    captures: BTreeMap<(String, String), agent::PodCapture>,
    enrolled: BTreeMap<String, agent::EnrolledNamespace>,
    node_config: agent::NodeConfig,
    /// What each waypoint is sent.
    waypoints: BTreeMap<Key, WaypointResources>,
    /// Waypoints that the last step sent anything.
    told: Vec<Key>,
    timers: Vec<Timer>,
    /// Names that the last step gave out or took back.
    last: Vec<String>,
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn apply<T: Message + Default>(
    kept: &mut BTreeMap<String, T>,
    changes: BTreeMap<String, Option<Vec<u8>>>,
    last: &mut Vec<String>,
) {
    for (name, bytes) in changes {
        last.push(name.clone());
        match bytes {
            Some(bytes) => kept.insert(name, T::decode(bytes.as_slice()).unwrap()),
            None => kept.remove(&name),
        };
    }
}

impl World {
    fn empty() -> Self {
        let mut world = Self {
            index: Index::new(Config::default()),
            addresses: BTreeMap::new(),
            authorizations: BTreeMap::new(),
            on_nodes: BTreeMap::new(),
            captures: BTreeMap::new(),
            enrolled: BTreeMap::new(),
            node_config: agent::NodeConfig::default(),
            waypoints: BTreeMap::new(),
            told: Vec::new(),
            timers: Vec::new(),
            last: Vec::new(),
        };
        world.flush();
        world
    }

    /// With a Mesh, and a namespace `shop` that is enrolled by label.
    fn enrolled() -> Self {
        let mut world = Self::empty();
        world.mesh(json!({}));
        world.namespace("shop", Some("ambient"));
        world
    }

    fn flush(&mut self) {
        let update = self.index.flush();
        self.last.clear();
        apply(&mut self.addresses, update.addresses, &mut self.last);
        apply(&mut self.authorizations, update.everywhere, &mut self.last);
        for (node, part) in update.authorizations {
            let on_node = self.on_nodes.entry(node).or_default();
            for (name, message) in part {
                match message {
                    Some(message) => {
                        on_node.insert(name.clone());
                        let message = security::Authorization::decode(message).unwrap();
                        self.authorizations.insert(name.clone(), message);
                    }
                    None => _ = on_node.remove(&name),
                }
                self.last.push(name);
            }
        }
        self.authorizations.retain(|name, one| {
            one.namespace == "ambit-system" || self.on_nodes.values().any(|on_node| on_node.contains(name))
        });
        apply(&mut self.enrolled, update.enrolled, &mut self.last);
        for (node, pods) in update.captures {
            for (uid, bytes) in pods {
                let key = (node.clone(), uid);
                match bytes {
                    Some(bytes) => self
                        .captures
                        .insert(key, agent::PodCapture::decode(bytes.as_slice()).unwrap()),
                    None => self.captures.remove(&key),
                };
            }
        }
        self.timers.extend(update.timers);
        self.told = update.waypoints.keys().cloned().collect();
        for (key, resources) in update.waypoints {
            match resources {
                Some(resources) => self.waypoints.insert(key, resources),
                None => self.waypoints.remove(&key),
            };
        }
        if let Some(config) = update.node_config {
            self.node_config = agent::NodeConfig::decode(config.as_slice()).unwrap();
        }
    }

    /// Lets everything that changes by itself change.
    fn settle(&mut self) {
        while !self.timers.is_empty() {
            self.expire(|_| true);
        }
    }

    /// Lets the time pass after which nodes hear of pods that leave.
    fn leave(&mut self) {
        self.expire(|timer| timer.after.as_secs() <= 1);
    }

    fn expire(&mut self, which: impl Fn(&Timer) -> bool) {
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.timers).into_iter().partition(which);
        self.timers = later;
        for timer in now {
            self.index.expire(&timer);
        }
        self.flush();
    }

    fn mesh(&mut self, spec: Value) {
        let mesh: Mesh = object(json!({"metadata": {"name": "default"}, "spec": spec}));
        self.index.set_mesh(Some(MeshRecord::of(&mesh)));
        self.flush();
    }

    fn namespace(&mut self, name: &str, mode: Option<&str>) {
        let labels = mode.map_or(json!({}), |m| json!({"istio.io/dataplane-mode": m}));
        let namespace: Namespace = object(json!({"metadata": {"name": name, "labels": labels}}));
        self.index
            .set_namespace(name, Some(super::enrollment::labelled(&namespace)));
        self.flush();
    }

    fn ambient(&mut self, namespace: &str, spec: Value) {
        self.ambient_object(json!({
            "metadata": {"name": "ambient", "namespace": namespace, "managedFields": [{"manager": "kubectl"}]},
            "spec": spec,
        }));
    }

    fn ambient_object(&mut self, value: Value) {
        let ambient: AmbientNamespace = object(value);
        let namespace = ambient.metadata.namespace.clone().unwrap();
        self.index
            .set_ambient(&namespace, Some(AmbientRecord::of(&ambient)));
        self.flush();
    }

    fn pod(&mut self, value: &Value) {
        let pod: Pod = object(value.clone());
        let key = Key::new(
            pod.metadata.namespace.clone().unwrap(),
            pod.metadata.name.clone().unwrap(),
        );
        self.index.set_pod(&key, PodRecord::of(&pod));
        self.flush();
    }

    fn delete_pod(&mut self, namespace: &str, name: &str) {
        self.index.set_pod(&Key::new(namespace, name), None);
        self.flush();
    }

    fn service(&mut self, value: Value) {
        let service: k8s_openapi::api::core::v1::Service = object(value);
        let key = Key::new(
            service.metadata.namespace.clone().unwrap(),
            service.metadata.name.clone().unwrap(),
        );
        self.index.set_service(&key, ServiceRecord::of(&service));
        self.flush();
    }

    fn slice(&mut self, value: Value) {
        let slice: k8s_openapi::api::discovery::v1::EndpointSlice = object(value);
        let key = Key::new(
            slice.metadata.namespace.clone().unwrap(),
            slice.metadata.name.clone().unwrap(),
        );
        self.index.set_slice(&key, SliceRecord::of(&slice));
        self.flush();
    }

    fn workload(&self, name: &str) -> Option<&Workload> {
        match self
            .addresses
            .get(&format!("Kubernetes//Pod/shop/{name}"))?
            .r#type
            .as_ref()?
        {
            address::Type::Workload(workload) => Some(workload),
            address::Type::Service(_) => None,
        }
    }

    fn vip(&self, name: &str) -> Option<&Service> {
        match self
            .addresses
            .get(&format!("shop/{name}.shop.svc.cluster.local"))?
            .r#type
            .as_ref()?
        {
            address::Type::Service(service) => Some(service),
            address::Type::Workload(_) => None,
        }
    }

    fn capture(&self, uid: &str) -> Option<&agent::PodCapture> {
        self.captures.values().find(|c| c.uid == uid)
    }
}

/// A ready pod of namespace `shop` on node `n1`, with UID `u-<name>`.
fn pod(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("u-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": name}, "annotations": {},
        },
        "spec": {"nodeName": "n1", "serviceAccountName": "cart", "containers": [{"name": "c"}]},
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// `pod`, with `value` at the JSON pointer `path`.
fn with(mut pod: Value, path: &str, value: Value) -> Value {
    let (parent, last) = path.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[last.replace("~1", "/")] = value;
    pod
}

fn marked(pod: Value) -> Value {
    with(
        pod,
        "/metadata/annotations/ambient.istio.io~1redirection",
        json!("enabled"),
    )
}
