//! Watchers: from the API server into the index.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use ambit_crds::{AmbientNamespace, Mesh, WaypointPolicy, labels};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::dataplane::ROOT_CONFIG_MAP;
use super::pods::OwnPod;
use super::{Live, Objects, register};
use crate::index::{
    AmbientRecord, Index, Key, MeshRecord, PodRecord, PolicyRecord, ReplicaSetRecord, ServiceRecord,
    SharedIndex, SliceRecord,
};

/// Most events that are taken into the index at once.
const BATCH: usize = 512;

/// A watch is begun anew after this long.
const WATCH_SECONDS: u32 = 60;

/// What an event does to the index.
pub(super) type Change = Box<dyn FnOnce(&mut Index) + Send>;

enum Step {
    Change(Change),
    /// All objects of a kind have been read.
    Complete,
}

type Steps = Pin<Box<dyn Stream<Item = Step> + Send>>;

/// A kind that the index is made from, or that the operator applies.
pub(super) trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// The object, as it is now.
    fn apply(self, key: &Key, objects: &Objects) -> Change;
    /// The object is gone.
    fn remove(key: Key, objects: &Objects) -> Change;
}

/// Watches until `stop`, feeding `index` and `objects`. The index is set ready once everything has been read. What cannot be watched is tried
/// again, with growing pauses.
pub async fn watch(
    client: Client,
    namespace: &str,
    index: &SharedIndex,
    objects: &Arc<Objects>,
    stop: &CancellationToken,
) {
    // A connection that is dead is noticed when this time and some seconds are over.
    let all = watcher::Config::default().timeout(WATCH_SECONDS);
    let applied = all.clone().labels(&format!(
        "{}={},{}={}",
        labels::PART_OF,
        labels::AMBIT,
        labels::MANAGED_BY,
        labels::OPERATOR
    ));
    // By name, as the operator may see no other.
    let root = all.clone().fields(&format!("metadata.name={ROOT_CONFIG_MAP}"));
    let register = all
        .clone()
        .labels(&format!("{}={}", register::LABEL, register::LABEL_VALUE));
    // What bears a waypoint's label; whose it is, its owner says.
    let replica_sets = all.clone().labels(labels::WAYPOINT_NAME);
    let kinds: [Steps; 15] = [
        steps(Api::<Mesh>::all(client.clone()), all.clone(), objects),
        steps(Api::<Namespace>::all(client.clone()), all.clone(), objects),
        steps(Api::<AmbientNamespace>::all(client.clone()), all.clone(), objects),
        steps(Api::<WaypointPolicy>::all(client.clone()), all.clone(), objects),
        steps(Api::<Service>::all(client.clone()), all.clone(), objects),
        steps(Api::<EndpointSlice>::all(client.clone()), all.clone(), objects),
        steps(Api::<Pod>::all(client.clone()), all.clone(), objects),
        steps(Api::<Node>::all(client.clone()), all.clone(), objects),
        steps(
            Api::<DaemonSet>::namespaced(client.clone(), namespace),
            applied.clone(),
            objects,
        ),
        steps(Api::<Deployment>::all(client.clone()), applied.clone(), objects),
        // Of these the API server is asked for the metadata alone.
        steps(
            Api::<PartialObjectMeta<ServiceAccount>>::all(client.clone()),
            all,
            objects,
        ),
        steps(
            Api::<PartialObjectMeta<PodDisruptionBudget>>::all(client.clone()),
            applied,
            objects,
        ),
        steps(
            Api::<PartialObjectMeta<ConfigMap>>::all(client.clone()),
            root,
            objects,
        ),
        steps(
            Api::<ConfigMap>::namespaced(client.clone(), namespace),
            register,
            objects,
        ),
        steps(Api::<ReplicaSet>::all(client), replica_sets, objects),
    ];
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
            info!("the cluster's objects have been read");
        }
    }
}

fn steps<K: Watched>(api: Api<K>, config: watcher::Config, objects: &Arc<Objects>) -> Steps {
    let mut known = HashSet::new();
    let mut listed = HashSet::new();
    let mut complete = false;
    let objects = Arc::clone(objects);
    let kind = K::kind(&()).into_owned();
    let events = watcher::watcher(api, config).default_backoff();
    let steps = events.flat_map(move |event| {
        let mut steps = Vec::new();
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                let key = key_of(&object);
                listed.insert(key.clone());
                steps.push(Step::Change(object.apply(&key, &objects)));
            }
            Ok(Event::InitDone) => {
                let gone = known.difference(&listed).cloned();
                steps.extend(gone.map(|key| Step::Change(K::remove(key, &objects))));
                known = std::mem::take(&mut listed);
                if !complete {
                    complete = true;
                    steps.push(Step::Complete);
                }
            }
            Ok(Event::Apply(object)) => {
                let key = key_of(&object);
                known.insert(key.clone());
                steps.push(Step::Change(object.apply(&key, &objects)));
            }
            Ok(Event::Delete(object)) => {
                let key = key_of(&object);
                known.remove(&key);
                steps.push(Step::Change(K::remove(key, &objects)));
            }
            Err(error) => warn!(%kind, %error, "cannot watch; will try again"),
        }
        stream::iter(steps)
    });
    Box::pin(steps)
}

/// What the watches do when an object appears or changes.
#[cfg(test)]
pub(super) fn see<K: Watched>(object: K, index: &SharedIndex, objects: &Objects) {
    let key = key_of(&object);
    let change = object.apply(&key, objects);
    index.change(change);
}

/// What the watches do when an object is gone.
#[cfg(test)]
pub(super) fn unsee<K: Watched>(key: Key, index: &SharedIndex, objects: &Objects) {
    index.change(K::remove(key, objects));
}

fn key_of<K: Resource>(object: &K) -> Key {
    Key::new(object.namespace().unwrap_or_default(), object.name_any())
}

impl Watched for Mesh {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        if key.name != labels::MESH {
            return Box::new(|_| ());
        }
        let record = MeshRecord::of(&self);
        objects.set_mesh(Some(self));
        Box::new(|index| index.set_mesh(Some(record)))
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        if key.name != labels::MESH {
            return Box::new(|_| ());
        }
        objects.set_mesh(None);
        Box::new(|index| index.set_mesh(None))
    }
}

impl Watched for Namespace {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        let (name, namespace) = (key.name.clone(), self);
        objects.set_terminating(&name, namespace.metadata.deletion_timestamp.is_some());
        Box::new(move |index| index.apply_namespace(&name, &namespace))
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        objects.set_terminating(&key.name, false);
        Box::new(move |index| index.set_namespace(&key.name, None))
    }
}

impl Watched for AmbientNamespace {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        if key.name != labels::AMBIENT_NAMESPACE {
            return Box::new(|_| ());
        }
        let namespace = key.namespace.clone();
        let record = AmbientRecord::of(&self);
        objects.set_ambient(&namespace, Some(self));
        // Its own status counts as a change too: the writer compares, and writes nothing.
        Box::new(move |index| index.set_ambient(&namespace, Some(record)))
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        if key.name != labels::AMBIENT_NAMESPACE {
            return Box::new(|_| ());
        }
        objects.set_ambient(&key.namespace, None);
        Box::new(move |index| index.set_ambient(&key.namespace, None))
    }
}

impl Watched for WaypointPolicy {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        let (key, record) = (key.clone(), PolicyRecord::of(&self));
        objects.set_policy(&key, Some(self));
        Box::new(move |index| index.set_policy(&key, Some(record)))
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        objects.set_policy(&key, None);
        Box::new(move |index| index.set_policy(&key, None))
    }
}

impl Watched for Service {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        let live = Live::of(&self.metadata);
        objects.set_live("Service", key, live.ours.then_some(live));
        let (key, record) = (key.clone(), ServiceRecord::of(&self));
        Box::new(move |index| index.set_service(&key, record))
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        objects.set_live("Service", &key, None);
        Box::new(move |index| index.set_service(&key, None))
    }
}

impl Watched for EndpointSlice {
    fn apply(self, key: &Key, _: &Objects) -> Change {
        let (key, record) = (key.clone(), SliceRecord::of(&self));
        Box::new(move |index| index.set_slice(&key, record))
    }

    fn remove(key: Key, _: &Objects) -> Change {
        Box::new(move |index| index.set_slice(&key, None))
    }
}

impl Watched for Pod {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        objects.set_own_pod(key, OwnPod::of(&self));
        let (key, record) = (key.clone(), PodRecord::of(&self));
        Box::new(move |index| index.set_pod(&key, record))
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        objects.set_own_pod(&key, None);
        Box::new(move |index| index.set_pod(&key, None))
    }
}

impl Watched for Node {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        let conditions = self.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        objects.set_node(&key.name, Some(ready));
        let name = key.name.clone();
        Box::new(move |index| index.set_node(&name, Some(&self)))
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        objects.set_node(&key.name, None);
        Box::new(move |index| index.set_node(&key.name, None))
    }
}

impl Watched for DaemonSet {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        objects.set_daemon_set(key, Some(self));
        Box::new(|_| ())
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        objects.set_daemon_set(&key, None);
        Box::new(|_| ())
    }
}

impl Watched for Deployment {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        objects.set_deployment(key, Some(self));
        Box::new(|_| ())
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        objects.set_deployment(&key, None);
        Box::new(|_| ())
    }
}

impl Watched for ReplicaSet {
    fn apply(self, key: &Key, _: &Objects) -> Change {
        let (key, record) = (key.clone(), ReplicaSetRecord::of(&self));
        Box::new(move |index| index.set_replica_set(&key, record))
    }

    fn remove(key: Key, _: &Objects) -> Change {
        Box::new(move |index| index.set_replica_set(&key, None))
    }
}

/// The register of waypoints, in the operator's own namespace.
impl Watched for ConfigMap {
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        let Some(namespace) = register::subject(&key.name).map(str::to_owned) else {
            return Box::new(|_| ());
        };
        let entries = register::entries(&self);
        objects.set_register(&namespace, &entries);
        Box::new(move |index| index.set_register(&namespace, entries))
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        let Some(namespace) = register::subject(&key.name).map(str::to_owned) else {
            return Box::new(|_| ());
        };
        objects.set_register(&namespace, &BTreeMap::new());
        Box::new(move |index| index.set_register(&namespace, BTreeMap::new()))
    }
}

/// A kind of which only the metadata is read: that an object is there, and as it was applied, is enough.
pub(super) trait Present: Resource<DynamicType = ()> {
    /// An object of any origin appeared or is gone.
    fn present(_: Key, _there: bool) -> Change {
        Box::new(|_| ())
    }
}

impl Present for ConfigMap {}
impl Present for PodDisruptionBudget {}
/// Those of others are known by name: rules name them.
impl Present for ServiceAccount {
    fn present(key: Key, there: bool) -> Change {
        Box::new(move |index| index.set_account(&key, there))
    }
}

impl<K> Watched for PartialObjectMeta<K>
where
    K: Present + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    fn apply(self, key: &Key, objects: &Objects) -> Change {
        let live = Live::of(&self.metadata);
        objects.set_live(&K::kind(&()), key, live.ours.then_some(live));
        K::present(key.clone(), true)
    }

    fn remove(key: Key, objects: &Objects) -> Change {
        objects.set_live(&K::kind(&()), &key, None);
        K::present(key, false)
    }
}
