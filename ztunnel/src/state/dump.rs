//! The state in the config dump.

use std::collections::BTreeMap;

use ambit_mesh::{Protocol, Waypoint, Workload};
use ambit_policy::{Policy, Rule};
use serde::Serialize;

use super::MeshState;

/// A workload. Fields as `istioctl ztunnel-config` reads them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkloadDump {
    uid: String,
    workload_ip: String,
    workload_ips: Vec<String>,
    protocol: &'static str,
    name: String,
    namespace: String,
    trust_domain: String,
    service_account: String,
    workload_name: String,
    workload_type: &'static str,
    canonical_name: String,
    canonical_revision: String,
    node: String,
    cluster_id: String,
    network_mode: &'static str,
    services: Vec<String>,
    authorization_policies: Vec<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<WaypointDump>,
}

/// A service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceDump {
    name: String,
    namespace: String,
    hostname: String,
    vips: Vec<String>,
    /// Service port to target port; 0 if each endpoint has its own.
    ports: BTreeMap<u16, u16>,
    /// UIDs.
    endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<WaypointDump>,
}

/// The waypoint of a workload or a service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WaypointDump {
    destination: String,
    hbone_mtls_port: u16,
}

impl From<&Waypoint> for WaypointDump {
    fn from(waypoint: &Waypoint) -> Self {
        Self {
            destination: waypoint.destination(),
            hbone_mtls_port: waypoint.port(),
        }
    }
}

/// A policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyDump {
    name: String,
    namespace: String,
    scope: ambit_policy::Scope,
    action: ambit_policy::Action,
    audit: bool,
    groups: Vec<Rule>,
}

impl MeshState {
    /// All workloads, by address; those that share the host network's address by UID.
    pub(crate) fn dump_workloads(&self) -> BTreeMap<String, WorkloadDump> {
        let dump = |workload: &Workload| WorkloadDump {
            uid: workload.uid.to_string(),
            workload_ip: workload
                .addresses
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
            workload_ips: workload.addresses.iter().map(ToString::to_string).collect(),
            protocol: match workload.protocol {
                Protocol::Hbone => "HBONE",
                Protocol::Plaintext => "TCP",
            },
            name: workload.name.clone(),
            namespace: workload.namespace.clone(),
            trust_domain: workload.identity.trust_domain().to_owned(),
            service_account: workload.identity.service_account().to_owned(),
            workload_name: workload.workload_name.clone(),
            workload_type: workload.workload_type,
            canonical_name: workload.canonical_name.clone(),
            canonical_revision: workload.canonical_revision.clone(),
            node: workload.node.clone(),
            cluster_id: workload.cluster.clone(),
            network_mode: if workload.host_network {
                "HostNetwork"
            } else {
                "Standard"
            },
            services: workload.services.keys().map(ToString::to_string).collect(),
            authorization_policies: workload.authorization_policies.clone(),
            status: if workload.healthy { "Healthy" } else { "Unhealthy" },
            waypoint: workload.waypoint.as_ref().map(WaypointDump::from),
        };
        let workloads = self.mesh.workloads();
        let keyed = workloads.iter().map(|workload| {
            let key = match workload.addresses.first() {
                Some(ip) if !workload.host_network => ip.to_string(),
                _ => workload.uid.to_string(),
            };
            (key, dump(workload))
        });
        keyed.collect()
    }

    /// All services, by `<namespace>/<hostname>`.
    pub(crate) fn dump_services(&self) -> BTreeMap<String, ServiceDump> {
        let services = self.mesh.services().into_iter();
        services
            .map(|(service, entry)| {
                let dump = ServiceDump {
                    name: service.name.clone(),
                    namespace: service.namespace.clone(),
                    hostname: service.hostname.clone(),
                    vips: service.addresses.iter().map(ToString::to_string).collect(),
                    ports: service
                        .ports
                        .iter()
                        .map(|p| (p.service_port, p.target_port))
                        .collect(),
                    endpoints: entry.endpoints().iter().map(|(w, _)| w.uid.to_string()).collect(),
                    waypoint: service.waypoint.as_ref().map(WaypointDump::from),
                };
                (service.key.to_string(), dump)
            })
            .collect()
    }

    /// All policies, by `<namespace>/<name>`.
    pub(crate) fn dump_policies(&self) -> BTreeMap<String, PolicyDump> {
        let dump = |policy: &Policy| PolicyDump {
            name: policy.name.name.clone(),
            namespace: policy.name.namespace.clone(),
            scope: policy.scope,
            action: policy.action,
            audit: policy.audit,
            groups: policy.rules.clone(),
        };
        let policies = self.authorizations.snapshot();
        policies
            .iter()
            .map(|policy| (policy.name.to_string(), dump(policy)))
            .collect()
    }
}
