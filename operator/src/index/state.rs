//! The index itself: records in, what they touch marked, messages out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ambit_wire::names;
use ambit_wire::workload::Locality;
use bytes::Bytes;
use k8s_openapi::api::core::v1::Namespace;

use super::editing::Edits;
use super::endpoints::Endpoints;
use super::enrollment;
use super::external;
use super::gateway::Gateways;
use super::leaving::Leaving;
use super::placement::Placement;
use super::pod::Claim;
use super::policy::PolicyInForce;
use super::route::Routes;
use super::warnings;
use super::waypoint::{Plan, Timer, WaypointLabels};
use super::{
    AmbientRecord, MeshRecord, PodRecord, PolicyRecord, Registered, ReplicaSetRecord, ServiceRecord,
    SliceRecord, WaypointResources,
};

/// What does not change while the operator runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// First part of workload UIDs.
    pub cluster_id: String,
    /// What Services' names end in.
    pub cluster_domain: String,
    /// The operator's own namespace; it is never enrolled.
    pub system_namespace: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            system_namespace: names::SYSTEM_NAMESPACE.to_owned(),
        }
    }
}

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Key {
    /// A key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Another object of the same namespace.
    pub(super) fn sibling(&self, name: &str) -> Self {
        Self::new(self.namespace.clone(), name)
    }
}

/// What changed for the data plane: resources by name, `None` for one that is gone.
#[derive(Debug, Default)]
pub struct Update {
    /// Workloads and services.
    pub addresses: BTreeMap<String, Option<Vec<u8>>>,
    /// Authorizations of the whole mesh.
    pub everywhere: BTreeMap<String, Option<Vec<u8>>>,
    /// Authorizations of namespaces, by node.
    pub authorizations: BTreeMap<String, BTreeMap<String, Option<Bytes>>>,
    /// Pods, by node.
    pub captures: BTreeMap<String, BTreeMap<String, Option<Vec<u8>>>>,
    /// Enrolled namespaces.
    pub enrolled: BTreeMap<String, Option<Vec<u8>>>,
    /// The node configuration, which is every node's.
    pub node_config: Option<Vec<u8>>,
    /// Waypoints, each with all that it is sent; `None` for one that is neither wanted nor has a Service any more.
    pub waypoints: BTreeMap<Key, Option<WaypointResources>>,
    /// Moments at which something changes by itself: [`Index::expire`] is to be told of each when it has come.
    pub timers: Vec<Timer>,
    /// Namespaces whose status may have changed.
    pub namespaces: BTreeSet<String>,
}

/// What must be computed anew.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) pods: BTreeSet<Key>,
    pub(super) services: BTreeSet<Key>,
    pub(super) slices: BTreeSet<Key>,
    /// Namespaces whose rules and enrolment may have changed.
    pub(super) namespaces: BTreeSet<String>,
    /// Namespaces of which only the waypoints may have changed.
    pub(super) plans: BTreeSet<String>,
    /// Namespaces of routes of which something else may be to be said.
    pub(super) routes: BTreeSet<String>,
    /// Policies of which another version may hold.
    pub(super) policies: BTreeSet<Key>,
    /// Namespaces in which service accounts appeared or went.
    pub(super) accounts: BTreeSet<String>,
    /// Namespace and node, of which the first pod came or the last went.
    pub(super) places: BTreeSet<(String, String)>,
    pub(super) node_config: bool,
}

/// What was given out, so that it can be taken back.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Pod → what its node was told.
    pub(super) captures: HashMap<Key, SentCapture>,
    /// Slice → names of its workloads.
    pub(super) bare: HashMap<Key, BTreeSet<String>>,
    /// Namespace → its authorizations by name, as its waypoints evaluate them.
    pub(super) rules: HashMap<String, BTreeMap<String, Vec<u8>>>,
    /// Namespaces with an authorization for ports with a mode of mTLS of their own.
    pub(super) mtls_ports: BTreeSet<String>,
    /// Waypoint → all that it is sent.
    pub(super) waypoints: BTreeMap<Key, WaypointResources>,
}

/// What a node was told of a pod.
#[derive(Debug)]
pub(super) struct SentCapture {
    pub(super) node: String,
    pub(super) uid: String,
    pub(super) capture: bool,
}

/// All records and what they come to. See the module's documentation.
#[derive(Debug)]
pub struct Index {
    pub(super) config: Config,
    pub(super) mesh: Option<MeshRecord>,
    /// The operator's own namespace is being deleted, and the whole data plane with it.
    pub(super) system_leaving: bool,
    pub(super) labelled: BTreeSet<String>,
    /// Namespaces that exist.
    pub(super) existing: BTreeSet<String>,
    pub(super) ambient: BTreeMap<String, AmbientRecord>,
    /// Service accounts that exist.
    pub(super) accounts: BTreeSet<Key>,
    /// Namespace → namespaces whose rules name it.
    pub(super) named: BTreeMap<String, BTreeSet<String>>,
    pub(super) pods: BTreeMap<Key, PodRecord>,
    pub(super) services: BTreeMap<Key, ServiceRecord>,
    pub(super) policies: BTreeMap<Key, PolicyRecord>,
    /// What holds of each policy.
    pub(super) in_force: BTreeMap<Key, Arc<PolicyInForce>>,
    pub(super) routes: Routes,
    pub(super) gateways: Gateways,
    /// Labels of namespaces that have any to do with waypoints.
    pub(super) waypoint_labels: BTreeMap<String, WaypointLabels>,
    /// How many records of a namespace have to do with waypoints; namespaces without any are not in it.
    pub(super) waypoint_records: HashMap<String, usize>,
    /// What the operator has applied for waypoints.
    pub(super) register: BTreeMap<Key, Registered>,
    /// ReplicaSets of waypoints' Deployments, and what passes itself off as such.
    pub(super) replica_sets: BTreeMap<Key, ReplicaSetRecord>,
    /// Those of them that are gone before their pods, as the garbage collector deletes them.
    pub(super) ended_sets: BTreeSet<Key>,
    /// What became of them, for namespaces that have any.
    pub(super) plans: BTreeMap<String, Plan>,
    /// Namespace → others whose Services ask for its waypoints, or are still served by them.
    pub(super) borrowers: BTreeMap<String, BTreeSet<String>>,
    pub(super) placement: Placement,
    /// Namespaces whose rules have just been edited.
    pub(super) edits: BTreeMap<String, Edits>,
    /// Pods that leave the mesh, until their nodes are told.
    pub(super) leaving: BTreeMap<Key, Leaving>,
    pub(super) endpoints: Endpoints,
    /// Claims to addresses outside of the cluster.
    pub(super) external: external::Claims,
    /// Where nodes are.
    pub(super) localities: HashMap<String, Locality>,
    pub(super) by_uid: HashMap<String, Key>,
    pub(super) by_node: HashMap<String, BTreeSet<Key>>,
    /// Claims to an address, the strongest last.
    pub(super) by_address: HashMap<IpAddr, Vec<(Claim, Key)>>,
    pub(super) dirty: Dirty,
    pub(super) sent: Sent,
    /// Something has been given out: what changes from now on changes for proxies that are running.
    pub(super) started: bool,
    /// The number of the latest timer.
    pub(super) timer: u64,
    /// Those that have begun and have not been given out.
    pub(super) timers: Vec<Timer>,
}

impl Index {
    /// An empty index.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            mesh: None,
            system_leaving: false,
            labelled: BTreeSet::new(),
            existing: BTreeSet::new(),
            ambient: BTreeMap::new(),
            accounts: BTreeSet::new(),
            named: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
            in_force: BTreeMap::new(),
            routes: Routes::default(),
            gateways: Gateways::default(),
            waypoint_labels: BTreeMap::new(),
            waypoint_records: HashMap::new(),
            register: BTreeMap::new(),
            replica_sets: BTreeMap::new(),
            ended_sets: BTreeSet::new(),
            plans: BTreeMap::new(),
            borrowers: BTreeMap::new(),
            placement: Placement::default(),
            edits: BTreeMap::new(),
            leaving: BTreeMap::new(),
            endpoints: Endpoints::default(),
            external: external::Claims::new(),
            localities: HashMap::new(),
            by_uid: HashMap::new(),
            by_node: HashMap::new(),
            by_address: HashMap::new(),
            dirty: Dirty {
                node_config: true,
                ..Dirty::default()
            },
            sent: Sent::default(),
            started: false,
            timer: 0,
            timers: Vec::new(),
        }
    }

    /// The Mesh as it is now; `None` when there is none.
    pub fn set_mesh(&mut self, mesh: Option<MeshRecord>) {
        if self.mesh == mesh {
            return;
        }
        self.mesh = mesh;
        self.touch_mesh();
    }

    /// Everything may be another than before.
    fn touch_mesh(&mut self) {
        self.dirty.node_config = true;
        self.dirty.pods.extend(self.pods.keys().cloned());
        self.dirty
            .namespaces
            .extend(self.existing.iter().chain(self.ambient.keys()).cloned());
        let slices: Vec<Key> = self
            .services
            .keys()
            .flat_map(|s| self.endpoints.slices(s))
            .collect();
        self.dirty.slices.extend(slices);
    }

    /// A namespace as it is now, and whether it carries the label that enrolls it; `None` when it is gone.
    pub fn set_namespace(&mut self, name: &str, labelled: Option<bool>) {
        if labelled.is_none() {
            self.set_waypoint_labels(name, WaypointLabels::default());
            self.set_namespace_labels(name, BTreeMap::new());
        }
        let existed = match labelled {
            Some(_) => !self.existing.insert(name.to_owned()),
            None => self.existing.remove(name),
        };
        let was = match labelled {
            Some(true) => !self.labelled.insert(name.to_owned()),
            _ => self.labelled.remove(name),
        };
        if existed != labelled.is_some() || was != (labelled == Some(true)) {
            self.touch_namespace(name);
        }
    }

    /// A namespace as it is now.
    pub fn apply_namespace(&mut self, name: &str, namespace: &Namespace) {
        let home = name == self.config.system_namespace;
        let leaving = namespace.metadata.deletion_timestamp.is_some();
        if home && std::mem::replace(&mut self.system_leaving, leaving) != leaving {
            self.touch_mesh();
        }
        self.set_namespace(name, Some(enrollment::labelled(namespace)));
        self.set_waypoint_labels(name, WaypointLabels::of(namespace));
        self.set_namespace_labels(name, namespace.metadata.labels.clone().unwrap_or_default());
    }

    /// A namespace's AmbientNamespace as the rest follows from it.
    pub(super) fn take_ambient(&mut self, namespace: &str, record: Option<AmbientRecord>) {
        let before = match record {
            Some(record) => {
                for name in warnings::named(&record) {
                    let naming = self.named.entry(name.to_owned()).or_default();
                    naming.insert(namespace.to_owned());
                }
                self.ambient.insert(namespace.to_owned(), record)
            }
            None => self.ambient.remove(namespace),
        };
        let now = self
            .ambient
            .get(namespace)
            .map(warnings::named)
            .unwrap_or_default();
        for name in before
            .iter()
            .flat_map(warnings::named)
            .filter(|name| !now.contains(name))
        {
            if let Some(naming) = self.named.get_mut(name) {
                naming.remove(namespace);
                if naming.is_empty() {
                    self.named.remove(name);
                }
            }
        }
        self.touch_namespace(namespace);
    }

    /// A Service as it is now; `None` when it is gone.
    pub fn set_service(&mut self, key: &Key, record: Option<ServiceRecord>) {
        if self.services.get(key) == record.as_ref() {
            return;
        }
        let concerns = |r: &ServiceRecord| r.concerns_waypoints();
        self.count(
            &key.namespace,
            self.services.get(key).is_some_and(concerns),
            record.as_ref().is_some_and(concerns),
        );
        self.claim_external(key, record.as_ref());
        self.change_target(key, |index| match record {
            Some(record) => index.services.insert(key.clone(), record),
            None => index.services.remove(key),
        });
        self.dirty.services.insert(key.clone());
        self.dirty.pods.extend(self.endpoints.pods(key));
        self.dirty.slices.extend(self.endpoints.slices(key));
    }

    /// A WaypointPolicy as it is now; `None` when it is gone.
    pub fn set_policy(&mut self, key: &Key, record: Option<PolicyRecord>) {
        if self.policies.get(key) == record.as_ref() {
            return;
        }
        self.count(&key.namespace, self.policies.contains_key(key), record.is_some());
        match record {
            Some(record) => {
                self.policies.insert(key.clone(), record);
                self.dirty.policies.insert(key.clone());
            }
            None => {
                let held = self.in_force.remove(key);
                self.policies.remove(key);
                self.touch_targets(&key.namespace, held.as_deref());
            }
        }
        self.dirty.plans.insert(key.namespace.clone());
    }

    /// An EndpointSlice as it is now; `None` when it is gone.
    pub fn set_slice(&mut self, key: &Key, record: Option<SliceRecord>) {
        let touched = self.endpoints.set(key, record);
        self.dirty.pods.extend(touched.pods);
        self.dirty.slices.extend(touched.slices);
    }

    /// A pod as it is now; `None` when it is gone or has ended.
    pub fn set_pod(&mut self, key: &Key, record: Option<PodRecord>) {
        if self.pods.get(key) == record.as_ref() {
            return;
        }
        let concerns = |r: &PodRecord| r.concerns_waypoints();
        self.count(
            &key.namespace,
            self.pods.get(key).is_some_and(concerns),
            record.as_ref().is_some_and(concerns),
        );
        let node = |record: Option<&PodRecord>| record.map(|r| r.node.clone()).unwrap_or_default();
        let (from, to) = (node(self.pods.get(key)), node(record.as_ref()));
        self.placement
            .relocate(&key.namespace, &from, &to, &mut self.dirty.places);
        if let Some(old) = self.pods.remove(key) {
            self.by_uid.remove(&old.uid);
            if let Some(pods) = self.by_node.get_mut(&old.node) {
                pods.remove(key);
                if pods.is_empty() {
                    self.by_node.remove(&old.node);
                }
            }
            for address in claims(&old) {
                self.touch_address(address);
                if let Some(claims) = self.by_address.get_mut(&address) {
                    claims.retain(|(_, claimant)| claimant != key);
                    if claims.is_empty() {
                        self.by_address.remove(&address);
                    }
                }
            }
        }
        if let Some(mut new) = record {
            self.share_labels(key, &mut new);
            self.by_uid.insert(new.uid.clone(), key.clone());
            self.by_node
                .entry(new.node.clone())
                .or_default()
                .insert(key.clone());
            for address in claims(&new) {
                let claims = self.by_address.entry(address).or_default();
                let claim = (new.claim(), key.clone());
                if let Err(place) = claims.binary_search(&claim) {
                    claims.reserve_exact(1);
                    claims.insert(place, claim);
                }
                self.touch_address(address);
            }
            self.pods.insert(key.clone(), new);
        }
        self.forget_ended_sets(&key.namespace);
        self.dirty.pods.insert(key.clone());
    }

    /// Replicas have neighbouring names and mostly the same labels.
    fn share_labels(&self, key: &Key, record: &mut PodRecord) {
        let before = self.pods.range(..key).next_back();
        let neighbours = before.into_iter().chain(self.pods.range(key..).next());
        for (_, neighbour) in neighbours {
            if neighbour.labels == record.labels {
                record.labels = Arc::clone(&neighbour.labels);
                return;
            }
        }
    }

    fn touch_namespace(&mut self, namespace: &str) {
        self.dirty.namespaces.insert(namespace.to_owned());
        let pods: Vec<Key> = self.pods_in(namespace).map(|(key, _)| key.clone()).collect();
        self.dirty.pods.extend(pods);
    }

    fn set_waypoint_labels(&mut self, namespace: &str, labels: WaypointLabels) {
        let old = match labels.is_empty() {
            true => self.waypoint_labels.remove(namespace),
            false => self.waypoint_labels.insert(namespace.to_owned(), labels.clone()),
        };
        if old.unwrap_or_default() != labels {
            self.dirty.plans.insert(namespace.to_owned());
        }
    }

    /// Counts a record that had or has to do with waypoints.
    pub(super) fn count(&mut self, namespace: &str, had: bool, has: bool) {
        if had == has {
            return;
        }
        let count = self.waypoint_records.entry(namespace.to_owned()).or_default();
        *count = (*count + usize::from(has)).saturating_sub(usize::from(had));
        if *count == 0 {
            self.waypoint_records.remove(namespace);
        }
    }

    /// All claimants: the address may change hands.
    fn touch_address(&mut self, address: IpAddr) {
        let claims = self.by_address.get(&address).into_iter().flatten();
        self.dirty.pods.extend(claims.map(|(_, key)| key.clone()));
        self.dirty
            .slices
            .extend(self.endpoints.slices_at(address).cloned());
    }
}

/// The entries of one namespace.
pub(crate) fn within<'a, T>(
    map: &'a BTreeMap<Key, T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a T)> {
    map.range(Key::new(namespace, "")..)
        .take_while(move |(key, _)| key.namespace == namespace)
}

/// Addresses that a pod claims for itself: none on the host's network.
fn claims(pod: &PodRecord) -> Vec<IpAddr> {
    if pod.host_network {
        Vec::new()
    } else {
        pod.addresses.clone()
    }
}
