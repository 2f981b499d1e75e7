//! Watches: from the API server into the index, and into the objects of the writers.

mod kinds;

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ambit_crds::{AmbientNamespace, Mesh, WaypointPolicy, labels};
use ambit_wire::names;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::dataplane::DATA_PLANE;
use super::{Objects, is_not_found, register};
use crate::gateway::{
    Gateway, GatewayClass, GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute, TlsRoute, XMesh,
};
use crate::index::{Index, Key, SharedIndex};

/// Maximum of events that are applied to the index at once.
const BATCH: usize = 512;

/// A watch is restarted after this time.
const WATCH_SECONDS: u32 = 60;

/// The longest pause before it is looked again whether a kind has appeared.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// The effect of an event on the index.
pub(super) type Change = Box<dyn FnOnce(&mut Index) + Send>;

enum Step {
    Change(Change),
    /// The initial sync of a kind is done.
    Complete,
}

type Steps = Pin<Box<dyn Stream<Item = Step> + Send>>;

/// A kind that the index or the writers need.
pub(super) trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// The cluster may lack the kind, and get or lose it while the operator runs.
    const OPTIONAL: bool = false;

    /// The index facts of the object.
    fn index(&self, _: &Key) -> Change {
        Box::new(|_| ())
    }

    /// The index facts of its deletion.
    fn unindex(_: Key) -> Change {
        Box::new(|_| ())
    }

    /// Stores the object for the writers.
    fn store(self, _: &Key, _: &Objects) {}

    /// Removes it.
    fn forget(_: &Key, _: &Objects) {}

    /// Whether the cluster has the kind.
    fn available(_: bool, _: &Objects) {}
}

/// Watches until `stop`: the objects of the index, and, if `objects` are given, those of the writers. The index is set
/// ready after the initial sync. Failed watches are retried, with growing pauses.
pub async fn watch(
    client: Client,
    namespace: &str,
    index: &SharedIndex,
    objects: Option<&Arc<Objects>>,
    stop: &CancellationToken,
) {
    let mut kinds = indexed(&client, namespace, objects);
    if let Some(objects) = objects {
        kinds.extend(written(&client, namespace, objects));
    }
    let mut missing = kinds.len();
    let mut steps = stream::select_all(kinds).ready_chunks(BATCH);
    while let Some(Some(batch)) = stop.run_until_cancelled(steps.next()).await {
        index.change(|index| {
            for step in batch {
                match step {
                    Step::Change(change) => change(index),
                    Step::Complete => missing = missing.saturating_sub(1),
                }
            }
        });
        if missing == 0 && !crate::control::Directory::is_ready(index) {
            index.set_ready();
            info!("initial sync is done");
        }
    }
}

/// All objects of a kind. A dead connection is detected shortly after [`WATCH_SECONDS`].
fn all() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// Kinds that configuration is made from.
fn indexed(client: &Client, namespace: &str, objects: Option<&Arc<Objects>>) -> Vec<Steps> {
    let register = all().labels(&format!("{}={}", register::LABEL, register::LABEL_VALUE));
    // Objects with a waypoint's label; the owner decides which waypoint.
    let replica_sets = all().labels(labels::WAYPOINT_NAME);
    vec![
        steps(Api::<Mesh>::all(client.clone()), all(), objects),
        steps(Api::<Namespace>::all(client.clone()), all(), objects),
        steps(Api::<AmbientNamespace>::all(client.clone()), all(), objects),
        steps(Api::<WaypointPolicy>::all(client.clone()), all(), objects),
        steps(Api::<Service>::all(client.clone()), all(), objects),
        steps(Api::<EndpointSlice>::all(client.clone()), all(), objects),
        steps(Api::<Pod>::all(client.clone()), all(), objects),
        steps(Api::<Node>::all(client.clone()), all(), objects),
        steps(
            Api::<ConfigMap>::namespaced(client.clone(), namespace),
            register,
            objects,
        ),
        steps(Api::<ReplicaSet>::all(client.clone()), replica_sets, objects),
        steps(Api::<HttpRoute>::all(client.clone()), all(), objects),
        steps(Api::<GrpcRoute>::all(client.clone()), all(), objects),
        steps(Api::<TcpRoute>::all(client.clone()), all(), objects),
        steps(Api::<TlsRoute>::all(client.clone()), all(), objects),
        steps(Api::<ReferenceGrant>::all(client.clone()), all(), objects),
        steps(Api::<Gateway>::all(client.clone()), all(), objects),
        steps(Api::<GatewayClass>::all(client.clone()), all(), objects),
    ]
}

/// Kinds that the writers write, or that cause warnings in statuses.
fn written(client: &Client, namespace: &str, objects: &Arc<Objects>) -> Vec<Steps> {
    let objects = Some(objects);
    let applied = all().labels(&format!(
        "{}={},{}={}",
        labels::PART_OF,
        labels::AMBIT,
        labels::MANAGED_BY,
        labels::OPERATOR
    ));
    // By name, as the operator may read no other.
    let named = |name: &str| all().fields(&format!("metadata.name={name}"));
    vec![
        steps(
            Api::<DaemonSet>::namespaced(client.clone(), namespace),
            applied.clone(),
            objects,
        ),
        steps(Api::<Deployment>::all(client.clone()), applied.clone(), objects),
        // For these, the API server sends only metadata.
        steps(
            Api::<PartialObjectMeta<ServiceAccount>>::all(client.clone()),
            all(),
            objects,
        ),
        steps(
            Api::<PartialObjectMeta<PodDisruptionBudget>>::all(client.clone()),
            applied,
            objects,
        ),
        steps(
            Api::<PartialObjectMeta<ConfigMap>>::all(client.clone()),
            named(names::ROOT_CONFIG_MAP),
            objects,
        ),
        steps(
            Api::<PartialObjectMeta<ConfigMap>>::namespaced(client.clone(), namespace),
            named(DATA_PLANE),
            objects,
        ),
        steps(Api::<XMesh>::all(client.clone()), all(), objects),
    ]
}

fn steps<K: Watched>(api: Api<K>, config: watcher::Config, objects: Option<&Arc<Objects>>) -> Steps {
    let mut known = HashSet::new();
    let mut listed = HashSet::new();
    let mut complete = false;
    let objects = objects.cloned();
    let kind = K::kind(&()).into_owned();
    let apply = {
        let objects = objects.clone();
        move |key: &Key, object: K| {
            let change = object.index(key);
            if let Some(objects) = &objects {
                object.store(key, objects);
            }
            Step::Change(change)
        }
    };
    let available = {
        let objects = objects.clone();
        move |available| {
            if let Some(objects) = &objects {
                K::available(available, objects);
            }
        }
    };
    let remove = move |key: Key| {
        if let Some(objects) = &objects {
            K::forget(&key, objects);
        }
        Step::Change(K::unindex(key))
    };
    let events = watcher::watcher(api, config).backoff(Pauses::of::<K>());
    let steps = events.flat_map(move |event| {
        let mut steps = Vec::new();
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                let key = key_of(&object);
                listed.insert(key.clone());
                steps.push(apply(&key, object));
            }
            Ok(Event::InitDone) => {
                steps.extend(known.difference(&listed).cloned().map(&remove));
                known = std::mem::take(&mut listed);
                available(true);
                if !complete {
                    complete = true;
                    steps.push(Step::Complete);
                }
            }
            Ok(Event::Apply(object)) => {
                let key = key_of(&object);
                known.insert(key.clone());
                steps.push(apply(&key, object));
            }
            Ok(Event::Delete(object)) => {
                let key = key_of(&object);
                known.remove(&key);
                steps.push(remove(key));
            }
            Err(error) if K::OPTIONAL && is_absent(&error) => {
                debug!(%kind, "the cluster does not have this kind");
                listed.clear();
                steps.extend(known.drain().map(&remove));
                available(false);
                if !complete {
                    complete = true;
                    steps.push(Step::Complete);
                }
            }
            Err(error) => warn!(%kind, %error, "cannot watch; will try again"),
        }
        stream::iter(steps)
    });
    Box::pin(steps)
}

/// Whether the API server does not know the kind.
fn is_absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    is_not_found(error)
}

/// Pauses between attempts to watch.
struct Pauses {
    growing: watcher::DefaultBackoff,
    longest: Duration,
}

impl Pauses {
    fn of<K: Watched>() -> Self {
        Self {
            growing: watcher::DefaultBackoff::default(),
            longest: if K::OPTIONAL { LOOK_AGAIN } else { Duration::MAX },
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.growing.next()?.min(self.longest))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.growing.reset();
    }
}

/// Called when an object appears or changes.
#[cfg(test)]
pub(super) fn see<K: Watched>(object: K, index: &SharedIndex, objects: &Objects) {
    let key = key_of(&object);
    let change = object.index(&key);
    object.store(&key, objects);
    index.change(change);
}

/// Called when an object is deleted.
#[cfg(test)]
pub(super) fn unsee<K: Watched>(key: Key, index: &SharedIndex, objects: &Objects) {
    K::forget(&key, objects);
    index.change(K::unindex(key));
}

fn key_of<K: Resource>(object: &K) -> Key {
    Key::new(object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests;
