//! What a cluster is called, where it lies and which addresses it has: pure functions of its name and its slot.
//!
//! Every cluster on a machine has a slot, a small number from which its networks follow: `10.(88 + slot).0.0/16`. In
//! it, `.0.0/24` is the wire between the machines, `.(64 + n).0/24` are the pods of node n, and `.128.0/17` the
//! Services.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// How many clusters fit on a machine.
pub(super) const SLOTS: u8 = 16;
/// How many nodes fit into a cluster.
pub(super) const MAX_NODES: usize = 32;
const FIRST_OCTET: u8 = 88;

/// What to make: the name and the size of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Tells clusters on one machine apart; lower-case letters, digits and dashes, at most 32.
    pub name: String,
    /// Number of nodes, each with its own network, containerd, kubelet and kube-proxy.
    pub nodes: usize,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            name: "ambit".into(),
            nodes: 2,
        }
    }
}

impl Spec {
    /// Refuses what could not be built.
    pub fn validate(&self) -> Result<()> {
        validate_name(&self.name)?;
        if self.nodes == 0 || self.nodes > MAX_NODES {
            bail!("{} nodes asked for: a cluster has 1 to {MAX_NODES}", self.nodes);
        }
        Ok(())
    }
}

pub(super) fn validate_name(name: &str) -> Result<()> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c != '-');
    if name.len() > 32 || !name.chars().all(inner) || !edge(name.chars().next()) || !edge(name.chars().last())
    {
        bail!(
            "`{name}` is not a name for a cluster: use lower-case letters, digits and inner dashes, at most 32 characters"
        );
    }
    Ok(())
}

/// A cluster's fixed facts, kept in its state folder as `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    pub(super) name: String,
    pub(super) slot: u8,
    pub(super) nodes: usize,
    pub(super) dir: PathBuf,
    /// Folder of the programs that it was started with.
    pub(super) programs: PathBuf,
}

impl Layout {
    fn octet(&self) -> u8 {
        FIRST_OCTET + self.slot
    }

    fn address(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet(), third, fourth)
    }

    /// The machine that runs the tests, on the cluster's wire.
    pub(super) fn host_ip(&self) -> Ipv4Addr {
        self.address(0, 1)
    }

    /// The machine of the control plane.
    pub(super) fn control_plane_ip(&self) -> Ipv4Addr {
        self.address(0, 2)
    }

    /// Node `index`, counted from 1.
    pub(super) fn node_ip(&self, index: usize) -> Ipv4Addr {
        self.address(0, 10 + small(index))
    }

    /// The pods of node `index`.
    pub(super) fn pod_network(&self, index: usize) -> String {
        format!("{}/24", self.address(64 + small(index), 0))
    }

    /// The pods of all nodes.
    pub(super) fn pod_networks(&self) -> String {
        format!("{}/18", self.address(64, 0))
    }

    pub(super) fn service_network(&self) -> String {
        format!("{}/17", self.address(128, 0))
    }

    /// The first address of the Services, which Kubernetes gives to its own API.
    pub(super) fn kubernetes_ip(&self) -> Ipv4Addr {
        self.address(128, 1)
    }

    pub(super) fn dns_ip(&self) -> Ipv4Addr {
        self.address(128, 10)
    }

    pub(super) fn server(&self) -> String {
        format!("https://{}:6443", self.control_plane_ip())
    }

    /// The one interface that the machine itself gets.
    pub(super) fn host_interface(&self) -> String {
        format!("ambit{}", self.slot)
    }

    /// The network namespace of the control plane; the bridge `wire` that joins the machines lies in it.
    pub(super) fn control_plane_netns(&self) -> String {
        format!("ambit-{}-cp", self.name)
    }

    pub(super) fn node_name(&self, index: usize) -> String {
        format!("n{index}")
    }

    pub(super) fn node_netns(&self, index: usize) -> String {
        format!("ambit-{}-{}", self.name, self.node_name(index))
    }

    /// The cluster's cgroup, in every hierarchy.
    pub(super) fn cgroup(&self) -> String {
        format!("ambit-{}", self.name)
    }

    /// The cgroup of the pods of node `index`.
    pub(super) fn node_cgroup(&self, index: usize) -> String {
        format!("{}/{}", self.cgroup(), self.node_name(index))
    }

    pub(super) fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.pki().join(format!("{user}.kubeconfig"))
    }

    pub(super) fn log(&self, what: &str) -> PathBuf {
        self.dir.join("log").join(format!("{what}.log"))
    }

    /// What survives a node's power cut.
    pub(super) fn disk(&self, index: usize) -> PathBuf {
        self.dir.join("nodes").join(self.node_name(index)).join("disk")
    }

    /// Configuration of a node's programs.
    pub(super) fn config(&self, index: usize) -> PathBuf {
        self.dir.join("nodes").join(self.node_name(index)).join("config")
    }

    /// Manifests of a node's static pods.
    pub(super) fn manifests(&self, index: usize) -> PathBuf {
        self.config(index).join("manifests")
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A file that is there once the cluster was made to its end.
    pub(super) fn complete(&self) -> PathBuf {
        self.dir.join("complete")
    }

    /// Where a cluster's facts are kept.
    pub(super) fn file(dir: &Path) -> PathBuf {
        dir.join("cluster.json")
    }
}

/// Whether a route or an address of the machine lies in the network of `slot`.
pub(super) fn slot_overlaps(slot: u8, destination: &str) -> bool {
    let (address, length) = destination.split_once('/').unwrap_or((destination, "32"));
    let (Ok(address), Ok(length)) = (address.parse::<Ipv4Addr>(), length.parse::<u32>()) else {
        return false; // `default`
    };
    let shift = 32 - length.min(16);
    let mine = u32::from(Ipv4Addr::new(10, FIRST_OCTET + slot, 0, 0));
    shift < 32 && u32::from(address) >> shift == mine >> shift
}

fn small(index: usize) -> u8 {
    u8::try_from(index.min(MAX_NODES)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout {
            name: "x".repeat(32),
            slot: 15,
            nodes: 2,
            dir: "/s".into(),
            programs: "/p".into(),
        }
    }

    #[test]
    fn names_that_the_kernel_would_refuse_are_refused_first() {
        for good in ["ambit", "a", "e2e-2"] {
            validate_name(good).unwrap();
        }
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", "..", &"x".repeat(33)] {
            validate_name(bad).unwrap_err();
        }
    }

    #[test]
    fn a_cluster_has_nodes_but_not_too_many() {
        assert!(
            Spec {
                nodes: 0,
                ..Spec::default()
            }
            .validate()
            .is_err()
        );
        assert!(
            Spec {
                nodes: MAX_NODES + 1,
                ..Spec::default()
            }
            .validate()
            .is_err()
        );
        Spec::default().validate().unwrap();
    }

    #[test]
    fn networks_follow_from_the_slot_and_do_not_meet() {
        let layout = layout();
        assert_eq!(layout.node_ip(2).to_string(), "10.103.0.12");
        assert_eq!(layout.pod_network(MAX_NODES), "10.103.96.0/24");
        assert_eq!(layout.service_network(), "10.103.128.0/17");
        assert_eq!(layout.dns_ip().to_string(), "10.103.128.10");
    }

    #[test]
    fn interface_names_fit_the_kernel() {
        assert!(layout().host_interface().len() <= 15);
    }

    #[test]
    fn overlapping_route_occupies_slot() {
        assert!(slot_overlaps(0, "10.88.0.0/24"));
        assert!(slot_overlaps(0, "10.0.0.0/8"));
        assert!(slot_overlaps(0, "10.88.3.4"));
        assert!(!slot_overlaps(0, "10.89.0.0/16"));
        assert!(!slot_overlaps(0, "default"));
        assert!(!slot_overlaps(0, "0.0.0.0/0"));
    }
}
