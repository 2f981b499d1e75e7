//! The objects of a cluster of a size, as the API server gives them to the watches.

use std::net::Ipv4Addr;

use ambit_crds::{AmbientNamespace, Mesh, WaypointPolicy, labels};
use ambit_operator::index::{Key, Registered};
use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use serde_json::json;

/// Kubernetes puts so many endpoints into one slice.
const PER_SLICE: usize = 100;
/// Services of one namespace.
const SERVICES_OF_ONE: usize = 28;
/// One namespace in so many has a waypoint, policies and rules.
const WAYPOINTS: usize = 10;
/// The largest Service: a pod on every node, as of a DaemonSet.
const LARGEST: usize = 5_000;

/// A cluster. Pods are numbered: first those of the largest Service, then those of the others, Service by Service.
pub(crate) struct Cluster {
    pub(crate) pods: usize,
    pub(crate) services: usize,
    pub(crate) nodes: usize,
    /// Pods of the largest Service, which is number 0.
    pub(crate) largest: usize,
    template: Pod,
    endpoint: Endpoint,
    slice: EndpointSlice,
}

/// What changes of a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodState {
    pub(crate) ready: bool,
    pub(crate) version: u32,
}

impl Cluster {
    /// A cluster with so many pods.
    pub(crate) fn new(pods: usize) -> Result<Self> {
        let template = json!({
            "metadata": {
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app": "", "version": "", "pod-template-hash": "6d5f8c9b7d", "team": "payments", "tier": "backend"},
                "annotations": {"ambient.istio.io/redirection": "enabled"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "", "controller": true,
                    "uid": "0a1b2c3d-0000-4000-8000-000000000000"}],
            },
            "spec": {
                "serviceAccountName": "",
                "containers": [{
                    "name": "app", "image": "registry.example/app:1",
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8081}},
                }],
            },
            "status": {
                "phase": "Running", "startTime": "2026-01-01T00:00:01Z",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        let slice = json!({
            "metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": [],
        });
        Ok(Self {
            pods,
            services: (pods / 14).max(2),
            nodes: (pods / 40).max(1),
            largest: LARGEST.min(pods / 2),
            template: serde_json::from_value(template)?,
            endpoint: serde_json::from_value(json!({
                "addresses": [], "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod"}, "nodeName": "",
            }))?,
            slice: serde_json::from_value(slice)?,
        })
    }

    /// Namespaces: that of the largest Service, which is number 0, and the others.
    pub(crate) fn namespaces(&self) -> usize {
        1 + (self.services - 1).div_ceil(SERVICES_OF_ONE)
    }

    /// Namespaces with a waypoint.
    pub(crate) fn with_waypoint(&self) -> impl Iterator<Item = usize> + use<> {
        (1..self.namespaces()).filter(|n| n % WAYPOINTS == 1)
    }

    /// Name of a namespace.
    pub(crate) fn namespace_name(namespace: usize) -> String {
        format!("team-{namespace:04}")
    }

    pub(crate) fn node_name(node: usize) -> String {
        format!("ip-10-1-{:03}-{:03}.example.internal", node / 256, node % 256)
    }

    pub(crate) fn mesh() -> Result<Mesh> {
        Ok(serde_json::from_value(
            json!({"metadata": {"name": labels::MESH}, "spec": {}}),
        )?)
    }

    pub(crate) fn namespace(namespace: usize) -> Result<(String, Namespace)> {
        let name = Self::namespace_name(namespace);
        let object = json!({"metadata": {"name": name,
            "labels": {labels::DATAPLANE_MODE: labels::DATAPLANE_MODE_AMBIENT}}});
        Ok((name, serde_json::from_value(object)?))
    }

    pub(crate) fn node(node: usize) -> Result<(String, Node)> {
        let name = Self::node_name(node);
        let zone = format!("region-1{}", ["a", "b", "c"][node % 3]);
        let object = json!({"metadata": {"name": name, "labels": {
            "topology.kubernetes.io/region": "region-1", "topology.kubernetes.io/zone": zone}}});
        Ok((name, serde_json::from_value(object)?))
    }

    /// The rules of a namespace with a waypoint.
    pub(crate) fn ambient(namespace: usize) -> Result<(String, AmbientNamespace)> {
        let name = Self::namespace_name(namespace);
        let from = json!([{"namespaces": [name, "team-0002", "monitoring"]}]);
        let object = json!({
            "metadata": {"name": labels::AMBIENT_NAMESPACE, "namespace": name, "managedFields": [{"manager": "kubectl"}]},
            "spec": {"authorization": [
                {"name": "callers", "action": "Allow", "from": from},
                {"name": "metrics", "action": "Allow", "from": [{"namespaces": ["monitoring"]}], "ports": [9090]},
            ]},
        });
        Ok((name, serde_json::from_value(object)?))
    }

    /// The policy of a namespace's first Service with a waypoint; `edit` is of its rules.
    pub(crate) fn policy(&self, namespace: usize, edit: u32) -> Result<(Key, WaypointPolicy)> {
        let first = self.first_service(namespace);
        let key = Key::new(Self::namespace_name(namespace), "orders");
        let object = json!({
            "metadata": {"name": key.name, "namespace": key.namespace, "generation": edit},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": self.service_name(first)}],
                "authorization": [{"name": "readers", "action": "Allow", "methods": ["GET"],
                    "paths": [{"prefix": format!("/orders/v{edit}")}]}],
                "timeouts": {"request": "15s"},
            },
        });
        Ok((key, serde_json::from_value(object)?))
    }

    /// What the operator has applied for a namespace's waypoint: its entry in the register, and its Service.
    pub(crate) fn waypoint(namespace: usize) -> Result<(Registered, Key, Service)> {
        let key = Key::new(Self::namespace_name(namespace), labels::WAYPOINT);
        let uid = |kind: &str| Some(format!("{kind}-{namespace}"));
        let entry = Registered {
            service_account: uid("account"),
            service: uid("service"),
            deployment: uid("deployment"),
            bound: true,
        };
        let service = json!({
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid("service"), "labels": {
                labels::MANAGED_BY: labels::OPERATOR, labels::WAYPOINT_NAME: key.name}},
            "spec": {"clusterIP": Ipv4Addr::from(0x0a70_0000 + u32::try_from(namespace)?),
                "ports": [{"name": "hbone", "port": 15008}]},
        });
        Ok((entry, key, serde_json::from_value(service)?))
    }

    pub(crate) fn service(&self, service: usize) -> Result<(Key, Service)> {
        let key = Key::new(self.namespace_of(service), self.service_name(service));
        let object = json!({
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": format!("service-uid-{service}"),
                "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "clusterIP": Ipv4Addr::from(0x0a60_0000 + u32::try_from(service)?),
                "selector": {"app": key.name},
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"}],
            },
        });
        Ok((key, serde_json::from_value(object)?))
    }

    /// A pod as it is.
    pub(crate) fn pod(&self, number: usize, state: PodState) -> Result<(Key, Pod)> {
        let service = self.service_of(number);
        let owner = self.service_name(service);
        let key = Key::new(self.namespace_of(service), self.pod_name(number));
        let mut pod = self.template.clone();
        let meta = &mut pod.metadata;
        meta.name = Some(key.name.clone());
        meta.namespace = Some(key.namespace.clone());
        meta.uid = Some(format!("5f3c2b1a-7d6e-4f00-9a8b-{number:012}"));
        for label in meta.labels.iter_mut() {
            label.insert("app".to_owned(), owner.clone());
            label.insert("version".to_owned(), format!("v{}", state.version));
        }
        for reference in meta.owner_references.iter_mut().flatten() {
            reference.name = format!("{owner}-6d5f8c9b7d");
        }
        for spec in pod.spec.iter_mut() {
            spec.service_account_name = Some(owner.clone());
            spec.node_name = Some(Self::node_name(self.node_of(number)));
        }
        for status in pod.status.iter_mut() {
            let address = Self::address(number)?.to_string();
            for condition in status.conditions.iter_mut().flatten() {
                condition.status = if state.ready { "True" } else { "False" }.to_owned();
            }
            status.pod_ips = Some(vec![k8s_openapi::api::core::v1::PodIP { ip: address.clone() }]);
            status.pod_ip = Some(address);
        }
        Ok((key, pod))
    }

    /// How many slices a Service has.
    pub(crate) fn slices(&self, service: usize) -> usize {
        self.pods_of(service).len().div_ceil(PER_SLICE)
    }

    /// One of a Service's slices; `ready` says which pods are.
    pub(crate) fn slice(
        &self,
        service: usize,
        part: usize,
        ready: impl Fn(usize) -> bool,
    ) -> Result<(Key, EndpointSlice)> {
        let name = self.service_name(service);
        let key = Key::new(self.namespace_of(service), format!("{name}-{part:05}"));
        let mut slice = self.slice.clone();
        slice.metadata.name = Some(key.name.clone());
        slice.metadata.namespace = Some(key.namespace.clone());
        for labels in slice.metadata.labels.iter_mut() {
            labels.insert("kubernetes.io/service-name".to_owned(), name.clone());
        }
        for number in self.pods_of(service).skip(part * PER_SLICE).take(PER_SLICE) {
            let mut endpoint = self.endpoint.clone();
            endpoint.addresses = vec![Self::address(number)?.to_string()];
            endpoint.node_name = Some(Self::node_name(self.node_of(number)));
            for target in endpoint.target_ref.iter_mut() {
                target.name = Some(self.pod_name(number));
            }
            for conditions in endpoint.conditions.iter_mut() {
                conditions.ready = Some(ready(number));
                conditions.serving = Some(ready(number));
            }
            slice.endpoints.push(endpoint);
        }
        Ok((key, slice))
    }

    /// The Service of a pod; of one beyond the cluster's pods too.
    pub(crate) fn service_of(&self, pod: usize) -> usize {
        match pod.checked_sub(self.largest) {
            None => 0,
            Some(other) => 1 + other % self.others() * (self.services - 1) / self.others(),
        }
    }

    /// The slice of its Service that a pod is in.
    pub(crate) fn part_of(&self, pod: usize) -> usize {
        (pod - self.pods_of(self.service_of(pod)).start) / PER_SLICE
    }

    fn others(&self) -> usize {
        self.pods - self.largest
    }

    fn pods_of(&self, service: usize) -> std::ops::Range<usize> {
        let start = |n: usize| self.largest + ((n - 1) * self.others()).div_ceil(self.services - 1);
        match service {
            0 => 0..self.largest,
            n => start(n)..start(n + 1),
        }
    }

    fn first_service(&self, namespace: usize) -> usize {
        1 + (namespace - 1) * SERVICES_OF_ONE
    }

    fn namespace_of(&self, service: usize) -> String {
        Self::namespace_name(match service {
            0 => 0,
            n => 1 + (n - 1) / SERVICES_OF_ONE,
        })
    }

    fn service_name(&self, service: usize) -> String {
        match service {
            0 => "node-exporter".to_owned(),
            n => format!("order-service-{n:05}"),
        }
    }

    fn pod_name(&self, number: usize) -> String {
        format!(
            "{}-6d5f8c9b7d-{number:06}",
            self.service_name(self.service_of(number))
        )
    }

    fn node_of(&self, pod: usize) -> usize {
        pod % self.nodes
    }

    fn address(pod: usize) -> Result<Ipv4Addr> {
        Ok(Ipv4Addr::from(0x0a80_0000 + u32::try_from(pod)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pod is in exactly one slice of the Service that it says it belongs to.
    #[test]
    fn slices_list_all_pods_once() {
        let cluster = Cluster::new(1_000).unwrap();
        let mut found = vec![0; cluster.pods];
        for service in 0..cluster.services {
            for number in cluster.pods_of(service) {
                assert_eq!(cluster.service_of(number), service);
                found[number] += 1;
            }
            let listed: usize = (0..cluster.slices(service))
                .map(|part| cluster.slice(service, part, |_| true).unwrap().1.endpoints.len())
                .sum();
            assert_eq!(listed, cluster.pods_of(service).len());
        }
        assert!(found.iter().all(|count| *count == 1));
    }
}
