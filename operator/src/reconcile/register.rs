//! The register of waypoints' objects (see [`Registered`]): ConfigMaps in the operator's own namespace, one for each
//! namespace with waypoints.
//!
//! An account that may write ConfigMaps there is an administrator of the mesh. A UID is recorded after the API server
//! has responded that this operator's own request created the object, so an object that somebody else put under the
//! same name is never recorded. An object whose UID was not recorded because the operator was killed in between counts
//! as a forged one, and is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use ambit_crds::labels;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use tracing::warn;

use super::{ReconcileError, is_conflict, is_not_found};
use crate::index::{Key, Registered};

/// Prefix of the ConfigMaps' names; the namespace follows.
const PREFIX: &str = "ambit-waypoints.";
/// Label by which they are watched.
pub(super) const LABEL: &str = "ambit.dev/register";
/// Its value.
pub(super) const LABEL_VALUE: &str = "waypoints";

/// The namespace in a ConfigMap's name.
pub(super) fn subject(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// The entries of a namespace's ConfigMap. Malformed ones are ignored.
pub(super) fn entries(map: &ConfigMap) -> BTreeMap<String, Registered> {
    let entries = map.data.iter().flatten();
    entries
        .filter_map(|(waypoint, text)| match serde_json::from_str(text) {
            Ok(entry) => Some((waypoint.clone(), entry)),
            Err(error) => {
                warn!(register = ?map.metadata.name, %waypoint, %error, "an entry of the register cannot be read");
                None
            }
        })
        .collect()
}

/// Writes the register, in the replica that leads.
#[derive(Debug)]
pub(super) struct Register {
    maps: Api<ConfigMap>,
    /// The last written entries: the watch may lag.
    written: Mutex<BTreeMap<Key, Option<Registered>>>,
}

impl Register {
    /// A register in `namespace`, the operator's own.
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self {
            maps: Api::namespaced(client, namespace),
            written: Mutex::default(),
        }
    }

    /// Another replica may have written meanwhile.
    pub(super) fn forget(&self) {
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// A waypoint's entry: the last one written here, or the one that the watch shows.
    pub(super) fn entry(&self, waypoint: &Key, watched: Option<Registered>) -> Option<Registered> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(waypoint).cloned().unwrap_or(watched)
    }

    /// Records a waypoint's objects; `None` removes the entry.
    pub(super) async fn record(
        &self,
        waypoint: &Key,
        entry: Option<Registered>,
    ) -> Result<(), ReconcileError> {
        let name = format!("{PREFIX}{}", waypoint.namespace);
        let what = || format!("register of waypoints: ConfigMap {name}");
        let found = self
            .maps
            .get_opt(&name)
            .await
            .map_err(ReconcileError::api(what()))?;
        let mut map = found.clone().unwrap_or_else(|| empty(&name));
        let data = map.data.get_or_insert_default();
        let text = entry.as_ref().map(serde_json::to_string).transpose();
        let before = match text.map_err(ReconcileError::json(what()))? {
            Some(text) => data.insert(waypoint.name.clone(), text.clone()).as_ref() == Some(&text),
            None => data.remove(&waypoint.name).is_none(),
        };
        let parameters = PostParams {
            field_manager: Some(super::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        // With the resource version that was read: if two replicas both believe that they lead, one of them has to
        // retry.
        let written = match (found, data.is_empty()) {
            _ if before => Ok(()),
            (None, true) => Ok(()),
            (None, false) => self.maps.create(&parameters, &map).await.map(|_| ()),
            (Some(found), true) => {
                let preconditions = Preconditions {
                    uid: found.metadata.uid,
                    resource_version: found.metadata.resource_version,
                };
                let parameters = DeleteParams::default().preconditions(preconditions);
                self.maps.delete(&name, &parameters).await.map(|_| ())
            }
            (Some(_), false) => self.maps.replace(&name, &parameters, &map).await.map(|_| ()),
        };
        match written {
            Err(error) if entry.is_none() && is_not_found(&error) => {}
            Err(error) => {
                if is_conflict(&error) {
                    self.forget();
                }
                return Err(ReconcileError::api(what())(error));
            }
            Ok(()) => {}
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(waypoint.clone(), entry);
        Ok(())
    }

    /// Forgets the entries of deleted waypoints, once the watch shows the deletion.
    pub(super) fn settle(&self, waypoint: &Key, watched: Option<&Registered>) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.get(waypoint).is_some_and(|w| w.as_ref() == watched) {
            written.remove(waypoint);
        }
    }
}

/// Deletes the ConfigMaps of these namespaces: no waypoint remains.
pub(super) async fn clear(
    client: &Client,
    namespace: &str,
    subjects: BTreeSet<String>,
) -> Result<(), ReconcileError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    for subject in subjects {
        let name = format!("{PREFIX}{subject}");
        match maps.delete(&name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(ReconcileError::api(format!("ConfigMap {name}"))(error)),
        }
    }
    Ok(())
}

fn empty(name: &str) -> ConfigMap {
    let own = [
        (labels::MANAGED_BY, labels::OPERATOR),
        (labels::PART_OF, labels::AMBIT),
        (LABEL, LABEL_VALUE),
    ];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(own.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}
