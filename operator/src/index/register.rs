//! The register: which objects the operator has applied for waypoints, by UID.
//!
//! Labels, annotations, names and owner references of objects in users' namespaces are the users' to write, so none of them proves anything. The
//! register stands in the operator's own namespace, where users cannot write. Rights follow from it: who is a waypoint's replica, whom rules let
//! through, which Service traffic is sent to, and whether a binding holds.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde::{Deserialize, Serialize};

use super::{Index, Key, PodRecord, within};

/// One waypoint's entry in the register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Registered {
    /// UID of its ServiceAccount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// UID of its Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// UID of its Deployment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// It has been ready once: from then on what is bound to it is reached through it or not at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bound: bool,
}

impl Registered {
    /// Kinds of the objects that are recorded.
    pub const KINDS: [&str; 3] = ["ServiceAccount", "Service", "Deployment"];

    /// The UID of its object of this kind.
    pub fn uid(&self, kind: &str) -> Option<&String> {
        match kind {
            "ServiceAccount" => self.service_account.as_ref(),
            "Service" => self.service.as_ref(),
            "Deployment" => self.deployment.as_ref(),
            _ => None,
        }
    }

    /// Whether its identity and its address are objects that the operator applied.
    pub(super) fn is_proven(&self) -> bool {
        self.service_account.is_some() && self.service.is_some()
    }
}

/// What the index keeps of a ReplicaSet of a Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSetRecord {
    /// Its UID.
    pub uid: String,
    /// UID of the Deployment that controls it.
    pub deployment: String,
}

impl ReplicaSetRecord {
    /// The record of `set`; `None` when no Deployment controls it.
    pub fn of(set: &ReplicaSet) -> Option<Self> {
        let mut owners = set.metadata.owner_references.iter().flatten();
        let owner = owners.find(|o| o.controller == Some(true) && o.kind == "Deployment")?;
        Some(Self {
            uid: set.metadata.uid.clone()?,
            deployment: owner.uid.clone(),
        })
    }
}

/// A Service that passes itself off as a waypoint's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impostor {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Index {
    /// The register of a namespace's waypoints as it is now, by name.
    pub fn set_register(&mut self, namespace: &str, register: BTreeMap<String, Registered>) {
        let before: BTreeMap<String, Registered> = within(&self.register, namespace)
            .map(|(key, entry)| (key.name.clone(), entry.clone()))
            .collect();
        let names = before
            .keys()
            .chain(register.keys().filter(|n| !before.contains_key(*n)));
        for name in names {
            let (old, new) = (before.get(name), register.get(name));
            if old == new {
                continue;
            }
            let key = Key::new(namespace, name.clone());
            self.count(namespace, old.is_some(), new.is_some());
            self.change_target(&key, |index| match new {
                Some(entry) => index.register.insert(key.clone(), entry.clone()),
                None => index.register.remove(&key),
            });
            self.dirty.services.insert(key.clone());
            self.dirty.plans.insert(namespace.to_owned());
        }
    }

    /// A ReplicaSet as it is now; `None` when it is gone.
    pub fn set_replica_set(&mut self, key: &Key, record: Option<ReplicaSetRecord>) {
        if self.replica_sets.get(key) == record.as_ref() && !self.ended_sets.contains(key) {
            return;
        }
        match record {
            Some(record) => {
                self.ended_sets.remove(key);
                self.replica_sets.insert(key.clone(), record);
            }
            // Its pods are what they were until they have ended: they drain, and need what they have.
            None => _ = self.ended_sets.insert(key.clone()),
        }
        self.forget_ended_sets(&key.namespace);
        self.dirty.plans.insert(key.namespace.clone());
    }

    /// Forgets ReplicaSets that are gone and have no pod left.
    pub(super) fn forget_ended_sets(&mut self, namespace: &str) {
        if self.ended_sets.is_empty() {
            return;
        }
        let ended: Vec<Key> = self
            .ended_sets
            .iter()
            .filter(|key| key.namespace == namespace)
            .cloned()
            .collect();
        for key in ended {
            let uid = self.replica_sets.get(&key).map(|set| &set.uid);
            let has_pods = self.pods_in(namespace).any(|(_, pod)| {
                let owner = pod.replica_set.as_ref();
                owner.is_some_and(|(name, owner)| *name == key.name && Some(owner) == uid)
            });
            if !has_pods {
                self.replica_sets.remove(&key);
                self.ended_sets.remove(&key);
            }
        }
    }

    /// A waypoint's entry in the register.
    pub(super) fn registered(&self, waypoint: &Key) -> Option<&Registered> {
        self.register.get(waypoint)
    }

    /// The entries of a namespace.
    pub(super) fn registered_in<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Key, &'a Registered)> {
        within(&self.register, namespace)
    }

    /// Whether the Service is the one that the operator applied for the waypoint of its name.
    pub(super) fn is_waypoint_service(&self, key: &Key) -> bool {
        let registered = self.registered(key).and_then(|r| r.service.as_ref());
        let service = self.services.get(key);
        service.is_some_and(|service| registered == Some(&service.uid))
    }

    /// Whether another Service has the name of one that the operator applied for a waypoint: what is bound to that waypoint must not reach it.
    pub(super) fn is_usurped(&self, key: &Key) -> bool {
        let registered = self.registered(key).is_some_and(|r| r.service.is_some());
        registered && self.services.contains_key(key) && !self.is_waypoint_service(key)
    }

    /// Services that bear the labels of a waypoint's and are none, or have the name of one.
    pub fn impostors_in(&self, namespace: &str) -> Vec<Impostor> {
        let services = self.services_in(namespace);
        let impostors = services.filter(|(key, record)| {
            !self.is_waypoint_service(key) && (record.claims || self.is_usurped(key))
        });
        impostors
            .map(|(key, record)| Impostor {
                name: key.name.clone(),
                uid: record.uid.clone(),
            })
            .collect()
    }

    /// The waypoint that the pod is a replica of: it runs as the waypoint, and its ReplicaSet belongs to the Deployment that the operator
    /// applied.
    pub(super) fn replica_of<'a>(&self, key: &Key, pod: &'a PodRecord) -> Option<&'a str> {
        let name = pod.claimed_waypoint()?;
        let (set, uid) = pod.replica_set.as_ref()?;
        let deployment = self.registered(&key.sibling(name))?.deployment.as_ref()?;
        let set = self.replica_sets.get(&key.sibling(set))?;
        (set.uid == *uid && set.deployment == *deployment).then_some(name)
    }
}
