//! Server-Side Apply of desired objects that differ from the last applied ones.

mod contest;
mod owned;

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ambit_crds::labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, Request};
use kube::client::Body;
use kube::core::{GroupVersionKind, Status};
use kube::{Api, Client};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tracing::info;

use contest::{Contests, other_writer};
pub(super) use owned::Owned;

use super::{FIELD_MANAGER, Live, ReconcileError, is_conflict, is_not_found, leaving};
use crate::index::is_ours;

/// HTTP status of a response to a request that created its object.
const CREATED: u16 = 201;

/// One object to apply.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rendered {
    /// Its group, version and kind.
    pub(super) gvk: GroupVersionKind,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// All of it.
    pub(super) object: Value,
}

impl Rendered {
    fn id(&self) -> Id {
        Id {
            kind: self.gvk.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// Proof that an existing object is the operator's, if this replica has not applied it since it leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proof<'a> {
    /// Its labels: no rights follow from the object, or only administrators of the mesh can write in its namespace.
    Labels,
    /// This UID, from the register; without one, any existing object is somebody else's.
    Uid(Option<&'a str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Id {
    kind: String,
    namespace: String,
    name: String,
}

/// An object after it was applied, or found to be as desired.
#[derive(Clone, Debug)]
struct LastApplied {
    hash: String,
    /// The object at that time.
    object: Live,
    /// The watch has shown it since: if it is missing later, somebody has deleted it.
    seen: bool,
}

/// The last applied objects, so that nothing is written twice.
#[derive(Debug, Default)]
pub(super) struct Applied {
    objects: Mutex<HashMap<Id, LastApplied>>,
    contests: Mutex<Contests>,
}

impl Applied {
    /// Forgets everything: objects are taken as the watches show them, and are applied again if their hash differs, or
    /// if somebody changed an applied field.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    /// Forgets one object: it is taken as the watch shows it.
    pub(super) fn forget_one(&self, gvk: &GroupVersionKind, namespace: &str, name: &str) {
        self.lock().remove(&Id {
            kind: gvk.kind.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
    }

    /// Of a namespace's objects, keeps those for which `stays` holds (by kind and name).
    pub(super) fn retain(&self, namespace: &str, stays: impl Fn(&str, &str) -> bool) {
        self.lock()
            .retain(|id, _| id.namespace != namespace || stays(&id.kind, &id.name));
    }

    /// An object after it was applied here, or found to be as desired; `None` if neither happened here.
    pub(super) fn last_applied(&self, kind: &str, namespace: &str, name: &str) -> Option<Live> {
        let id = Id {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        Some(self.lock().get(&id)?.object.clone())
    }

    /// The version (see [`Live::version`]) of an object after that; `None` if it did not happen here.
    pub(super) fn version(&self, kind: &str, namespace: &str, name: &str) -> Option<i64> {
        self.last_applied(kind, namespace, name)?.version
    }

    /// Applies `desired`, unless the object is known to be as desired. `live` is the object that the watch shows, and
    /// may lag.
    ///
    /// If the watch does not show an object, and it was not just applied here, it may be somebody else's: it is read
    /// first, and is not changed in that case. It may also be the operator's own, without the label that the watch
    /// selects by.
    pub(super) async fn apply(
        &self,
        client: &Client,
        desired: Rendered,
        live: Option<&Live>,
    ) -> Result<(), ReconcileError> {
        self.apply_proven(client, desired, live, Proof::Labels).await
    }

    /// The same for an object whose origin `proof` proves.
    pub(super) async fn apply_proven(
        &self,
        client: &Client,
        desired: Rendered,
        live: Option<&Live>,
        proof: Proof<'_>,
    ) -> Result<(), ReconcileError> {
        let id = desired.id();
        let hash = hash(&desired.object);
        let (before, uid, overwritten) = {
            let mut objects = self.lock();
            let last = objects.get(&id).cloned();
            // An object that the watch has shown and no longer shows is deleted: the name may have another owner now.
            let known = last.as_ref().is_some_and(|last| !last.seen);
            let uid = last.as_ref().and_then(|last| last.object.uid.clone());
            let (uid, live) = match (proof, &last) {
                (Proof::Uid(registered), None) => {
                    let proven = |l: &&Live| l.uid.is_some() && l.uid.as_deref() == registered;
                    (registered.map(str::to_owned), live.filter(proven))
                }
                _ => (uid, live),
            };
            // Fields that others add are theirs; fields of ours that they change are restored.
            let overwritten = last.as_ref().is_some_and(|last| last.hash == hash)
                && live.is_some_and(|live| !live.owned.covers(&desired.object));
            match settled(&hash, &desired.object, last, live) {
                Ok(last) => {
                    objects.insert(id, last);
                    return Ok(());
                }
                Err(()) => (known || live.is_some_and(|l| l.ours), uid, overwritten),
            }
        };
        let contested = overwritten.then(|| self.lock_contests().waits(&id)).flatten();
        if let Some((manager, pause)) = contested {
            return Err(ReconcileError::Contested {
                what: format!("{} {}/{}", desired.gvk.kind, desired.namespace, desired.name),
                manager,
                pause: Duration::from_secs(pause.as_secs() + 1),
            });
        }
        let Rendered {
            gvk,
            namespace,
            name,
            mut object,
        } = desired;
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &ApiResource::from_gvk(&gvk));
        let what = || format!("{} {namespace}/{name}", gvk.kind);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let failed = |error: kube::Error| match leaving(&error) {
            true => ReconcileError::Leaving { what: what() },
            false => ReconcileError::api(what())(error),
        };
        if overwritten {
            let found = api.get_metadata_opt(&name).await;
            let found = found.map_err(ReconcileError::api(what()))?;
            let manager = found.map_or_else(String::new, |found| other_writer(&found.metadata));
            self.lock_contests().put_right(&id, manager);
        }
        if let Proof::Uid(_) = proof {
            let found = api
                .get_metadata_opt(&name)
                .await
                .map_err(ReconcileError::api(what()))?;
            match &found {
                None => {}
                Some(found) if found.metadata.uid.is_some() && found.metadata.uid == uid => {
                    object["metadata"]["uid"] = json!(uid);
                }
                Some(found) if is_ours(&found.metadata) => {
                    let uid = found.metadata.uid.clone().unwrap_or_default();
                    return Err(ReconcileError::Forged { what: what(), uid });
                }
                Some(_) => return Err(ReconcileError::Taken { what: what() }),
            }
            object["metadata"]["annotations"][labels::APPLIED_HASH] = json!(hash);
            let (applied, created) = patch(client, &api, &name, &parameters, &object)
                .await
                .map_err(failed)?;
            // Somebody created an object of that name since it was read.
            if found.is_none() && !created {
                return Err(ReconcileError::Taken { what: what() });
            }
            self.applied(id, hash, &applied);
            return Ok(());
        }
        if !before {
            let found = api
                .get_metadata_opt(&name)
                .await
                .map_err(ReconcileError::api(what()))?;
            let ours = |meta: &ObjectMeta| is_ours(meta) || meta.uid.is_some() && meta.uid == uid;
            if found.is_some_and(|o| !ours(&o.metadata)) {
                return Err(ReconcileError::Taken { what: what() });
            }
        }
        object["metadata"]["annotations"][labels::APPLIED_HASH] = json!(hash);
        let applied = api
            .patch(&name, &parameters, &Patch::Apply(&object))
            .await
            .map_err(failed)?;
        self.applied(id, hash, &applied);
        Ok(())
    }

    fn applied(&self, id: Id, hash: String, object: &DynamicObject) {
        info!(
            kind = id.kind,
            namespace = id.namespace,
            name = id.name,
            "applied"
        );
        let last = LastApplied {
            hash,
            object: Live::of(&object.metadata),
            seen: false,
        };
        self.lock().insert(id, last);
    }

    /// Deletes an object that the watch shows, or that was applied here, if its UID is still the same.
    pub(super) async fn delete(
        &self,
        client: &Client,
        gvk: &GroupVersionKind,
        namespace: &str,
        name: &str,
        live: &Live,
    ) -> Result<(), ReconcileError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(gvk));
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: live.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match api.delete(name, &parameters).await {
            Ok(_) => info!(kind = %gvk.kind, %namespace, %name, "deleted"),
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => {
                return Err(ReconcileError::api(format!("{} {namespace}/{name}", gvk.kind))(
                    error,
                ));
            }
        }
        self.forget_one(gvk, namespace, name);
        Ok(())
    }

    /// Whether no object is recorded.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock_contests(&self) -> MutexGuard<'_, Contests> {
        self.contests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, LastApplied>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies an object; also returns whether that created it.
async fn patch(
    client: &Client,
    api: &Api<DynamicObject>,
    name: &str,
    parameters: &PatchParams,
    object: &Value,
) -> Result<(DynamicObject, bool), kube::Error> {
    let request = Request::new(api.resource_url()).patch(name, parameters, &Patch::Apply(object));
    let request = request.map_err(kube::Error::BuildRequest)?;
    let response = client.send(request.map(Body::from)).await?;
    let status = response.status();
    let body = response.into_body().collect_bytes().await?;
    if status.is_success() {
        let applied = serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?;
        return Ok((applied, status.as_u16() == CREATED));
    }
    let refused = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body);
        Status::failure(&text, "Failed to parse error data").with_code(status.as_u16())
    });
    Err(kube::Error::Api(refused.boxed()))
}

/// Whether an object is as desired, by the last applied and the live one; in that case also the record to keep.
fn settled(
    hash: &str,
    desired: &Value,
    last: Option<LastApplied>,
    live: Option<&Live>,
) -> Result<LastApplied, ()> {
    let as_desired = match (&last, live) {
        (None, None) => false,
        // After a start: the existing object was made from the same desired state by an earlier leader, and nobody has
        // changed it since.
        (None, Some(live)) => live.hash.as_deref() == Some(hash) && live.owned.covers(desired),
        (Some(last), _) if last.hash != hash => false,
        // The watch lags, or the object is deleted.
        (Some(last), None) => !last.seen,
        // Somebody has created it anew, or has written to it.
        (Some(last), Some(live)) => live.uid == last.object.uid && live.version <= last.object.version,
    };
    if !as_desired {
        return Err(());
    }
    Ok(match (last, live) {
        (Some(last), live) => LastApplied {
            seen: last.seen || live.is_some(),
            ..last
        },
        (None, live) => LastApplied {
            hash: hash.to_owned(),
            object: live.cloned().unwrap_or_default(),
            seen: true,
        },
    })
}

impl Live {
    /// The fields of an object's metadata that are needed.
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key)).cloned();
        let number = |text: &String| text.parse().ok();
        let ours = is_ours(meta);
        Self {
            uid: meta.uid.clone(),
            hash: annotation(labels::APPLIED_HASH),
            owned: if ours { Owned::of(meta) } else { Owned::default() },
            version: meta
                .generation
                .filter(|g| *g > 0)
                .or_else(|| meta.resource_version.as_ref().and_then(number)),
            ours,
        }
    }
}

/// A short text that differs if values differ.
pub(super) fn hash(value: &Value) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(value.to_string()).iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
