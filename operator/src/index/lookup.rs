//! What others ask of the index: records by name, node and namespace, and what follows of them at once.

use std::time::Duration;

use ambit_crds::{MtlsMode, labels};
use ambit_wire::names;

use super::policy::PolicyInForce;
use super::state::within;
use super::{Index, Key, MeshRecord, PodRecord, PolicyRecord, ServiceRecord, enrollment};

impl Index {
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
        within(&self.pods, namespace)
    }

    /// The Services of a namespace.
    pub(super) fn services_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a ServiceRecord)> {
        within(&self.services, namespace)
    }

    /// The policies of a namespace.
    pub(super) fn policies_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a PolicyRecord)> {
        within(&self.policies, namespace)
    }

    /// What holds of the policies of a namespace.
    pub(super) fn policies_in_force_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a PolicyInForce)> {
        within(&self.in_force, namespace).map(|(key, policy)| (key, &**policy))
    }

    /// How long what is open may go on where it is not served any more: the Mesh's, or the default.
    pub(super) fn drain_deadline(&self) -> Duration {
        let default = || MeshRecord::default().drain_deadline;
        self.mesh
            .as_ref()
            .map_or_else(default, |mesh| mesh.drain_deadline)
    }

    /// The Mesh's trust domain, or the default one while there is no Mesh.
    pub(super) fn trust_domain(&self) -> String {
        match &self.mesh {
            Some(mesh) => mesh.trust_domain.clone(),
            None => names::TRUST_DOMAIN.to_owned(),
        }
    }

    /// The Mesh, while it is there and not on its way out.
    pub fn active_mesh(&self) -> Option<&MeshRecord> {
        self.mesh.as_ref().filter(|m| !m.deleting && !self.system_leaving)
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
}
