//! The index itself: records in, what they touch marked, messages out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ambit_crds::{MtlsMode, labels};
use ambit_wire::agent::{EnrolledNamespace, NodeConfig};
use ambit_wire::names;
use k8s_openapi::api::core::v1::Namespace;
use prost::Message;

use super::endpoints::Endpoints;
use super::{
    AmbientRecord, MeshRecord, PodRecord, PolicyRecord, ServiceRecord, SliceRecord, WaypointResources,
};
use super::{authorization, build, enrollment};

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
    /// Authorizations.
    pub authorizations: BTreeMap<String, Option<Vec<u8>>>,
    /// Pods, by node.
    pub captures: BTreeMap<String, BTreeMap<String, Option<Vec<u8>>>>,
    /// Enrolled namespaces.
    pub enrolled: BTreeMap<String, Option<Vec<u8>>>,
    /// The node configuration, which is every node's.
    pub node_config: Option<Vec<u8>>,
    /// Waypoints, each with all that it is sent; `None` for one that is neither wanted nor has a Service any more.
    pub waypoints: BTreeMap<Key, Option<WaypointResources>>,
    /// Namespaces whose status may have changed.
    pub namespaces: BTreeSet<String>,
}

/// What must be computed anew.
#[derive(Debug, Default)]
struct Dirty {
    pods: BTreeSet<Key>,
    services: BTreeSet<Key>,
    slices: BTreeSet<Key>,
    namespaces: BTreeSet<String>,
    node_config: bool,
}

/// What was given out, so that it can be taken back.
#[derive(Debug, Default)]
struct Sent {
    /// Pod → (node, UID).
    captures: HashMap<Key, (String, String)>,
    /// Slice → names of its workloads.
    bare: HashMap<Key, BTreeSet<String>>,
    /// Namespace → names of its authorizations.
    rules: HashMap<String, BTreeMap<String, Vec<u8>>>,
}

/// All records and what they come to. See the module's documentation.
#[derive(Debug)]
pub struct Index {
    pub(super) config: Config,
    pub(super) mesh: Option<MeshRecord>,
    pub(super) labelled: BTreeSet<String>,
    /// Namespaces that exist.
    pub(super) existing: BTreeSet<String>,
    pub(super) ambient: BTreeMap<String, AmbientRecord>,
    pub(super) pods: BTreeMap<Key, PodRecord>,
    pub(super) services: BTreeMap<Key, ServiceRecord>,
    pub(super) policies: BTreeMap<Key, PolicyRecord>,
    endpoints: Endpoints,
    by_uid: HashMap<String, Key>,
    by_node: HashMap<String, BTreeSet<Key>>,
    /// Claims to an address, the strongest last.
    by_address: HashMap<IpAddr, BTreeSet<(i64, Key)>>,
    dirty: Dirty,
    sent: Sent,
}

impl Index {
    /// An empty index.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            mesh: None,
            labelled: BTreeSet::new(),
            existing: BTreeSet::new(),
            ambient: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
            endpoints: Endpoints::default(),
            by_uid: HashMap::new(),
            by_node: HashMap::new(),
            by_address: HashMap::new(),
            dirty: Dirty {
                node_config: true,
                ..Dirty::default()
            },
            sent: Sent::default(),
        }
    }

    /// The Mesh as it is now; `None` when there is none.
    pub fn set_mesh(&mut self, mesh: Option<MeshRecord>) {
        if self.mesh == mesh {
            return;
        }
        self.mesh = mesh;
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
        self.set_namespace(name, Some(enrollment::labelled(namespace)));
    }

    /// A namespace's AmbientNamespace as it is now; `None` when it is gone.
    pub fn set_ambient(&mut self, namespace: &str, record: Option<AmbientRecord>) {
        if self.ambient.get(namespace) == record.as_ref() {
            return;
        }
        match record {
            Some(record) => self.ambient.insert(namespace.to_owned(), record),
            None => self.ambient.remove(namespace),
        };
        self.touch_namespace(namespace);
    }

    /// A Service as it is now; `None` when it is gone.
    pub fn set_service(&mut self, key: &Key, record: Option<ServiceRecord>) {
        if self.services.get(key) == record.as_ref() {
            return;
        }
        match record {
            Some(record) => self.services.insert(key.clone(), record),
            None => self.services.remove(key),
        };
        self.dirty.services.insert(key.clone());
        self.dirty.pods.extend(self.endpoints.pods(key));
        self.dirty.slices.extend(self.endpoints.slices(key));
    }

    /// A WaypointPolicy as it is now; `None` when it is gone.
    pub fn set_policy(&mut self, key: &Key, record: Option<PolicyRecord>) {
        if self.policies.get(key) == record.as_ref() {
            return;
        }
        match record {
            Some(record) => self.policies.insert(key.clone(), record),
            None => self.policies.remove(key),
        };
        self.dirty.namespaces.insert(key.namespace.clone());
    }

    /// An EndpointSlice as it is now; `None` when it is gone.
    pub fn set_slice(&mut self, key: &Key, record: Option<SliceRecord>) {
        self.dirty.pods.extend(self.endpoints.set(key, record));
        self.dirty.slices.insert(key.clone());
    }

    /// A pod as it is now; `None` when it is gone or has ended.
    pub fn set_pod(&mut self, key: &Key, record: Option<PodRecord>) {
        if self.pods.get(key) == record.as_ref() {
            return;
        }
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
                    claims.remove(&(old.created, key.clone()));
                    if claims.is_empty() {
                        self.by_address.remove(&address);
                    }
                }
            }
        }
        if let Some(new) = record {
            self.by_uid.insert(new.uid.clone(), key.clone());
            self.by_node
                .entry(new.node.clone())
                .or_default()
                .insert(key.clone());
            for address in claims(&new) {
                self.by_address
                    .entry(address)
                    .or_default()
                    .insert((new.created, key.clone()));
                self.touch_address(address);
            }
            self.pods.insert(key.clone(), new);
        }
        self.dirty.pods.insert(key.clone());
    }

    /// A pod by its UID.
    pub fn pod(&self, uid: &str) -> Option<(&Key, &PodRecord)> {
        let key = self.by_uid.get(uid)?;
        Some((key, self.pods.get(key)?))
    }

    /// The pods of a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = (&Key, &PodRecord)> {
        self.by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|key| Some((key, self.pods.get(key)?)))
    }

    /// The pods of a namespace.
    pub fn pods_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a PodRecord)> {
        self.pods
            .range(Key::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
    }

    /// The Mesh, while it is there and not on its way out.
    pub fn active_mesh(&self) -> Option<&MeshRecord> {
        self.mesh.as_ref().filter(|m| !m.deleting)
    }

    /// Whether the namespace is one that is never enrolled.
    pub fn is_exempt(&self, namespace: &str) -> bool {
        namespace == self.config.system_namespace || labels::NEVER_ENROLLED.contains(&namespace)
    }

    /// Whether the namespace's pods are captured by default.
    pub fn is_enrolled(&self, namespace: &str) -> bool {
        self.active_mesh().is_some() && !self.is_exempt(namespace) && self.asks(namespace)
    }

    /// Whether the namespace asks to be enrolled, by label or object, granted or not.
    pub fn asks(&self, namespace: &str) -> bool {
        enrollment::wants(self.labelled.contains(namespace), self.ambient.get(namespace))
    }

    /// The mTLS mode that holds in the namespace.
    pub fn mtls(&self, namespace: &str) -> MtlsMode {
        let own = self.ambient.get(namespace).and_then(|a| a.mtls);
        own.or(self.mesh.as_ref().map(|m| m.mtls)).unwrap_or_default()
    }

    fn touch_namespace(&mut self, namespace: &str) {
        self.dirty.namespaces.insert(namespace.to_owned());
        let pods: Vec<Key> = self.pods_in(namespace).map(|(key, _)| key.clone()).collect();
        self.dirty.pods.extend(pods);
    }

    /// All claimants: the address may change hands.
    fn touch_address(&mut self, address: IpAddr) {
        let claims = self.by_address.get(&address).into_iter().flatten();
        self.dirty.pods.extend(claims.map(|(_, key)| key.clone()));
    }

    /// Computes anew what was touched since the last call.
    pub fn flush(&mut self) -> Update {
        let dirty = std::mem::take(&mut self.dirty);
        let mut update = Update::default();
        for namespace in &dirty.namespaces {
            self.flush_namespace(namespace, &mut update);
        }
        for key in &dirty.services {
            let message = self
                .services
                .get(key)
                .map(|r| build::service(&self.config, key, r).encode_to_vec());
            update
                .addresses
                .insert(build::service_name(&self.config, key), message);
        }
        for key in &dirty.slices {
            self.flush_slice(key, &mut update);
        }
        for key in &dirty.pods {
            self.flush_pod(key, &mut update);
        }
        if dirty.node_config {
            update.node_config = Some(self.node_config().encode_to_vec());
            let strict = authorization::strict(&self.config.system_namespace);
            let name = format!("{}/{}", strict.namespace, strict.name);
            update.authorizations.insert(name, Some(strict.encode_to_vec()));
        }
        update.namespaces = dirty.namespaces;
        update
            .namespaces
            .extend(dirty.pods.into_iter().map(|key| key.namespace));
        update
    }

    fn node_config(&self) -> NodeConfig {
        let mesh = self.mesh.clone().unwrap_or_default();
        NodeConfig {
            uninstall: self.active_mesh().is_none(),
            drain_deadline_seconds: u32::try_from(mesh.drain_deadline.as_secs()).unwrap_or(u32::MAX),
            trust_domain: mesh.trust_domain,
        }
    }

    fn flush_namespace(&mut self, namespace: &str, update: &mut Update) {
        let enrolled = self.is_enrolled(namespace) && self.existing.contains(namespace);
        let message = enrolled.then(|| {
            EnrolledNamespace {
                name: namespace.to_owned(),
            }
            .encode_to_vec()
        });
        update.enrolled.insert(namespace.to_owned(), message);
        let old = self.sent.rules.remove(namespace).unwrap_or_default();
        let mut new = BTreeMap::new();
        let rules = self
            .ambient
            .get(namespace)
            .filter(|_| enrolled)
            .map(|a| a.rules.as_slice())
            .unwrap_or_default();
        for rule in rules {
            let old = old.get(&rule.name).map(Vec::as_slice);
            let authorization = authorization::in_force(namespace, rule, old);
            new.insert(rule.name.clone(), authorization.encode_to_vec());
        }
        for gone in old.keys().filter(|name| !new.contains_key(*name)) {
            update.authorizations.insert(format!("{namespace}/{gone}"), None);
        }
        for (name, bytes) in &new {
            update
                .authorizations
                .insert(format!("{namespace}/{name}"), Some(bytes.clone()));
        }
        if !new.is_empty() {
            self.sent.rules.insert(namespace.to_owned(), new);
        }
    }

    fn flush_slice(&mut self, key: &Key, update: &mut Update) {
        let trust_domain = self.mesh.clone().unwrap_or_default().trust_domain;
        let new = self.endpoints.get(key).and_then(|slice| {
            let service = self.services.get(&key.sibling(&slice.service))?;
            Some(build::bare_endpoints(
                &self.config,
                key,
                slice,
                service,
                &trust_domain,
            ))
        });
        let new = new.unwrap_or_default();
        for gone in self.sent.bare.remove(key).unwrap_or_default() {
            update.addresses.insert(gone, None);
        }
        if !new.is_empty() {
            self.sent.bare.insert(key.clone(), new.keys().cloned().collect());
        }
        for (name, message) in new {
            update.addresses.insert(name, Some(message.encode_to_vec()));
        }
    }

    fn flush_pod(&mut self, key: &Key, update: &mut Update) {
        let pod = self.pods.get(key);
        let message =
            pod.and_then(|pod| build::workload(&self.config, key, pod, self.surroundings(key, pod)));
        update.addresses.insert(
            build::workload_uid(&self.config, key),
            message.map(|m| m.encode_to_vec()),
        );

        if let Some((node, uid)) = self.sent.captures.remove(key) {
            update.captures.entry(node).or_default().insert(uid, None);
        }
        if let Some(pod) = pod.filter(|p| !p.node.is_empty()) {
            let message = build::capture(key, pod, self.is_enrolled(&key.namespace));
            let of_node = update.captures.entry(pod.node.clone()).or_default();
            of_node.insert(pod.uid.clone(), Some(message.encode_to_vec()));
            self.sent
                .captures
                .insert(key.clone(), (pod.node.clone(), pod.uid.clone()));
        }
    }

    fn surroundings(&self, key: &Key, pod: &PodRecord) -> build::Surroundings {
        let enrolled = self.is_enrolled(&key.namespace);
        let mut addresses = pod.addresses.clone();
        if !pod.host_network {
            addresses.retain(|a| {
                self.by_address
                    .get(a)
                    .and_then(BTreeSet::last)
                    .is_none_or(|(_, holder)| holder == key)
            });
        }
        let services = self.endpoints.services(key).filter_map(|service| {
            let record = self.services.get(service)?;
            let ports = self.endpoints.ports(service, record, &key.name)?;
            Some((build::service_name(&self.config, service), ports))
        });
        build::Surroundings {
            trust_domain: self.mesh.clone().unwrap_or_default().trust_domain,
            enrolled,
            addresses,
            services: services.collect(),
            policies: if build::wanted(enrolled, pod) {
                self.policies(key, pod)
            } else {
                Vec::new()
            },
        }
    }

    /// Authorizations that the workload names: strict mTLS, and rules with a pod selector.
    fn policies(&self, key: &Key, pod: &PodRecord) -> Vec<String> {
        let mut found = Vec::new();
        if self.mtls(&key.namespace) == MtlsMode::Strict {
            found.push(format!(
                "{}/{}",
                self.config.system_namespace,
                names::STRICT_POLICY
            ));
        }
        let rules = self
            .ambient
            .get(&key.namespace)
            .map(|a| a.rules.as_slice())
            .unwrap_or_default();
        let selecting = rules
            .iter()
            .filter(|r| r.pod_selector.is_some() && authorization::selects(r.pod_selector.as_ref(), pod));
        found.extend(selecting.map(|r| format!("{}/{}", key.namespace, r.name)));
        found.sort();
        found
    }
}

/// Addresses that a pod claims for itself: none on the host's network.
fn claims(pod: &PodRecord) -> Vec<IpAddr> {
    if pod.host_network {
        Vec::new()
    } else {
        pod.addresses.clone()
    }
}
