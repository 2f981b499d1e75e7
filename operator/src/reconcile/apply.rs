//! Server-Side Apply of what is wanted, where it differs from what was applied.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ambit_crds::labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tracing::info;

use super::{FIELD_MANAGER, Live, ReconcileError, is_conflict, is_not_found};

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

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Id {
    kind: String,
    namespace: String,
    name: String,
}

/// An object as applying it, or finding it as wanted, left it.
#[derive(Clone, Debug)]
struct Left {
    hash: String,
    /// The object at that time.
    object: Live,
    /// The watch has seen it so: when it is not there any more, somebody has deleted it.
    seen: bool,
}

/// What was applied, so that nothing is written twice.
#[derive(Debug, Default)]
pub(super) struct Applied {
    objects: Mutex<HashMap<Id, Left>>,
}

impl Applied {
    /// Forgets everything: what the watches show is believed, and applied again where its hash is another.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    /// Forgets one object: what the watch shows of it is believed.
    pub(super) fn forget_one(&self, gvk: &GroupVersionKind, namespace: &str, name: &str) {
        self.lock().remove(&Id {
            kind: gvk.kind.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
    }

    /// The version (see [`Live::version`]) that an object was left at; `None` when that was not done here.
    pub(super) fn version(&self, kind: &str, namespace: &str, name: &str) -> Option<i64> {
        let id = Id {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.lock().get(&id)?.object.version
    }

    /// Applies `wanted`, unless it is known to be as wanted: `live` is what the watch shows of it, and may be behind.
    ///
    /// An object that neither the watch shows nor was applied here may be somebody else's: it is looked at first, and left alone if so.
    pub(super) async fn apply(
        &self,
        client: &Client,
        wanted: Rendered,
        live: Option<&Live>,
    ) -> Result<(), ReconcileError> {
        let id = wanted.id();
        let hash = hash(&wanted.object);
        let before = {
            let mut objects = self.lock();
            let left = objects.remove(&id);
            let known = left.is_some();
            match settled(&hash, left, live) {
                Ok(left) => {
                    objects.insert(id, left);
                    return Ok(());
                }
                Err(()) => known || live.is_some_and(|l| l.ours),
            }
        };
        let Rendered {
            gvk,
            namespace,
            name,
            mut object,
        } = wanted;
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &namespace, &ApiResource::from_gvk(&gvk));
        let what = || format!("{} {namespace}/{name}", gvk.kind);
        if !before {
            let found = api
                .get_metadata_opt(&name)
                .await
                .map_err(ReconcileError::api(what()))?;
            if found.is_some_and(|o| !Live::of(&o.metadata).ours) {
                return Err(ReconcileError::Taken { what: what() });
            }
        }
        object["metadata"]["annotations"][labels::APPLIED_HASH] = json!(hash);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api
            .patch(&name, &parameters, &Patch::Apply(&object))
            .await
            .map_err(ReconcileError::api(what()))?;
        info!(kind = %gvk.kind, %namespace, %name, "applied");
        let left = Left {
            hash,
            object: Live::of(&applied.metadata),
            seen: false,
        };
        self.lock().insert(id, left);
        Ok(())
    }

    /// Deletes an object that the watch shows, if it is still that very one.
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

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Left>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an object is as wanted, by what was left and what the watch shows; then what to remember of it.
fn settled(hash: &str, left: Option<Left>, live: Option<&Live>) -> Result<Left, ()> {
    let as_wanted = match (&left, live) {
        (None, None) => false,
        // After a start: what stands there was made from the same, so the replica before has done it.
        (None, Some(live)) => live.hash.as_deref() == Some(hash),
        (Some(left), _) if left.hash != hash => false,
        // The watch is behind; or the object is deleted.
        (Some(left), None) => !left.seen,
        // Somebody has made it anew, or written to it.
        (Some(left), Some(live)) => live.uid == left.object.uid && live.version <= left.object.version,
    };
    if !as_wanted {
        return Err(());
    }
    Ok(match (left, live) {
        (Some(left), live) => Left {
            seen: left.seen || live.is_some(),
            ..left
        },
        (None, live) => Left {
            hash: hash.to_owned(),
            object: live.cloned().unwrap_or_default(),
            seen: true,
        },
    })
}

impl Live {
    /// What is needed of an object's metadata.
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key)).cloned();
        let label = |key: &str| meta.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
        let number = |text: &String| text.parse().ok();
        Self {
            uid: meta.uid.clone(),
            hash: annotation(labels::APPLIED_HASH),
            version: meta
                .generation
                .filter(|g| *g > 0)
                .or_else(|| meta.resource_version.as_ref().and_then(number)),
            ours: label(labels::MANAGED_BY) == Some(labels::OPERATOR),
            bound: annotation(labels::WAYPOINT_BOUND).as_deref() == Some(labels::TRUE),
        }
    }
}

fn hash(value: &Value) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(value.to_string()).iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(hash: &str, version: i64) -> Live {
        Live {
            uid: Some("u".into()),
            hash: Some(hash.into()),
            version: Some(version),
            ours: true,
            bound: false,
        }
    }

    fn left(hash: &str, version: i64, seen: bool) -> Option<Left> {
        let object = live(hash, version);
        Some(Left {
            hash: hash.into(),
            object,
            seen,
        })
    }

    #[test]
    fn what_stands_there_as_wanted_is_not_written() {
        let is = |left, live: Option<&Live>| settled("h", left, live).is_ok();
        assert!(!is(None, None));
        assert!(
            is(None, Some(&live("h", 3))),
            "after a start the hash is believed"
        );
        assert!(!is(None, Some(&live("other", 3))));
        assert!(
            is(left("h", 3, false), None),
            "the watch has yet to hear of what was applied"
        );
        assert!(!is(left("h", 3, true), None), "deleted by hand");
        assert!(is(left("h", 3, false), Some(&live("h", 2))));
        assert!(is(left("h", 3, true), Some(&live("h", 3))));
        assert!(
            !is(left("h", 3, true), Some(&live("h", 4))),
            "somebody has written to it"
        );
        assert!(
            !is(left("other", 3, true), Some(&live("other", 3))),
            "another is wanted"
        );
        let anew = Live {
            uid: Some("v".into()),
            ..live("h", 1)
        };
        assert!(!is(left("h", 3, true), Some(&anew)), "made anew by somebody");
    }

    #[test]
    fn what_was_found_as_wanted_is_watched_over_from_then_on() {
        let found = settled("h", None, Some(&live("h", 3))).unwrap();
        assert!(settled("h", Some(found.clone()), Some(&live("h", 4))).is_err());
        assert!(settled("h", Some(found), None).is_err());
    }
}
