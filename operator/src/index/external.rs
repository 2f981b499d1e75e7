//! Addresses outside of the cluster that lead to Services, and what the mesh leaves of a Service to others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ambit_wire::workload::ExternalAddress;
use k8s_openapi::api::core::v1::Service;

use super::authorization::bytes;
use super::{Index, Key, ServiceRecord};

/// The label by which kube-proxy leaves a Service to another proxy.
pub(super) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// A field of a Service that the mesh leaves to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftField {
    ProxyName,
    SourceRanges,
}

/// What of a Service is not as its author may expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFinding {
    /// The Service's name.
    pub service: String,
    /// The field.
    pub field: String,
    /// What happens instead.
    pub message: String,
}

impl LeftField {
    fn field(self) -> String {
        match self {
            Self::ProxyName => format!("metadata.labels[{PROXY_NAME}]"),
            Self::SourceRanges => "spec.loadBalancerSourceRanges".to_owned(),
        }
    }
}

impl fmt::Display for LeftField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProxyName => {
                "another proxy serves the Service: connections to its addresses leave the mesh, in \
                 plaintext and past its waypoint"
            }
            Self::SourceRanges => {
                "kube-proxy handles the load balancer's addresses and checks the ranges: connections to \
                 them leave the mesh, in plaintext and past its waypoint"
            }
        })
    }
}

/// Addresses of the load balancer that lead to the nodes. To those of mode `Proxy` kube-proxy does not lead either.
pub(super) fn balancers(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
    ingress
        .filter(|i| matches!(i.ip_mode.as_deref(), None | Some("VIP")))
        .filter_map(|i| i.ip.as_ref()?.parse().ok())
        .collect()
}

/// Who claims an address and port outside of the cluster; the oldest Service has it.
pub(super) type Claims = BTreeMap<(IpAddr, u16), BTreeSet<(i64, Key)>>;

fn claims(record: &ServiceRecord) -> BTreeSet<(IpAddr, u16)> {
    let addresses = record.external.iter();
    addresses
        .flat_map(|address| record.ports.values().map(|port| (*address, port.port)))
        .collect()
}

impl Index {
    /// A Service claims other addresses than before. Others that have an address by that, or have it no more, are marked.
    pub(super) fn claim_external(&mut self, key: &Key, new: Option<&ServiceRecord>) {
        let old = self.services.get(key);
        let before = old.map(claims).unwrap_or_default();
        let created = old.map(|r| r.created).unwrap_or_default();
        let now = new.map(claims).unwrap_or_default();
        for claim in &before {
            if let Some(claimants) = self.external.get_mut(claim) {
                claimants.remove(&(created, key.clone()));
                if claimants.is_empty() {
                    self.external.remove(claim);
                }
            }
        }
        for claim in &now {
            let created = new.map(|r| r.created).unwrap_or_default();
            let claimants = self.external.entry(*claim).or_default();
            claimants.insert((created, key.clone()));
        }
        for claim in before.union(&now) {
            let claimants = self.external.get(claim).into_iter().flatten();
            self.dirty.services.extend(claimants.map(|(_, key)| key.clone()));
        }
    }

    fn has_external(&self, key: &Key, claim: (IpAddr, u16)) -> bool {
        let claimants = self.external.get(&claim);
        claimants
            .and_then(BTreeSet::first)
            .is_some_and(|(_, first)| first == key)
    }

    /// The addresses outside of the cluster that lead to a Service, with their ports.
    pub(super) fn external_addresses(&self, key: &Key, record: &ServiceRecord) -> Vec<ExternalAddress> {
        let mut found: BTreeMap<IpAddr, Vec<u32>> = BTreeMap::new();
        for claim in claims(record)
            .into_iter()
            .filter(|claim| self.has_external(key, *claim))
        {
            found.entry(claim.0).or_default().push(claim.1.into());
        }
        let found = found.into_iter();
        found
            .map(|(address, ports)| ExternalAddress {
                address: bytes(address),
                ports,
            })
            .collect()
    }

    /// What of the Services of a namespace is left to others.
    pub(super) fn service_findings(&self, namespace: &str) -> Vec<ServiceFinding> {
        let mut findings = Vec::new();
        for (key, record) in self.services_in(namespace) {
            findings.extend(record.left.iter().map(|left| ServiceFinding {
                service: key.name.clone(),
                field: left.field(),
                message: left.to_string(),
            }));
            findings.extend(self.waypoint_finding(key, record));
            let mut lost = claims(record)
                .into_iter()
                .filter(|claim| !self.has_external(key, *claim));
            if let Some((address, port)) = lost.next() {
                let more = match lost.count() {
                    0 => String::new(),
                    more => format!(" (and {more} more)"),
                };
                findings.push(ServiceFinding {
                    service: key.name.clone(),
                    field: "spec.externalIPs, status.loadBalancer".to_owned(),
                    message: format!(
                        "an older Service has port {port} of {address}{more}, and gets its connections"
                    ),
                });
            }
        }
        findings
    }
}
