//! Waypoints: their objects in users' namespaces, their replicas, and the statuses of waypoints and policies.

mod autoscaler;
mod impostor;
mod policy;
mod prune;
mod render;
mod rolls;
mod scale;
mod spread;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ambit_crds::Mesh;
use ambit_wire::names::ROOT_CONFIG_MAP;
use kube::Client;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use autoscaler::{Autoscaler, Change};
use policy::Fleet;
use prune::LEAVE;
use render::{Desired, kind};
use rolls::Rolls;
pub(super) use status::statuses;

use super::apply::{Applied, Proof, Rendered};
use super::recorder::Events;
use super::register::Register;
use super::{LoadTable, Objects, ReconcileError, Settings};
use crate::index::{Key, Registered, ScalingSettings, SharedIndex, WaypointSummary};

/// Obstacles of a waypoint are checked again after this time: not all of them are watched.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Kinds of the objects with a waypoint's name, in the order of deletion: objects that its last pods still need are
/// deleted after them.
const KINDS: [&str; 4] = ["Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"];

/// Reconciles the waypoints and policies of namespaces.
pub(super) struct WaypointReconciler {
    client: Client,
    settings: Settings,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
    events: Events,
    applied: Applied,
    register: Register,
    autoscaler: Autoscaler,
    /// Waypoints that are no longer desired, and since when.
    leaving: Mutex<BTreeMap<Key, Instant>>,
    /// Obstacles of waypoints, and since when.
    troubles: Mutex<BTreeMap<Key, (String, Instant)>>,
    rolls: Mutex<Rolls>,
    /// UIDs of Services that forge the labels of waypoints, and for which an Event was published.
    refused: Mutex<BTreeMap<Key, String>>,
}

impl WaypointReconciler {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        index: Arc<SharedIndex>,
        objects: Arc<Objects>,
        events: Events,
        loads: Arc<LoadTable>,
    ) -> Self {
        Self {
            register: Register::new(client.clone(), &settings.namespace),
            client,
            settings,
            index,
            objects,
            events,
            applied: Applied::default(),
            autoscaler: Autoscaler::new(loads),
            leaving: Mutex::default(),
            troubles: Mutex::default(),
            rolls: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Another replica may have led meanwhile: objects are taken as the watches show them, and scaling begins with the
    /// current replicas.
    pub(super) fn reset(&self) {
        self.applied.forget();
        self.register.forget();
        self.autoscaler.forget();
        lock(&self.leaving).clear();
        lock(&self.rolls).clear();
    }

    /// Namespaces that have waypoints or policies.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        let mut all = self.objects.with_policies_or(&KINDS);
        all.extend(self.index.read(|index| index.waypoint_namespaces()));
        all
    }

    /// Problems of the namespace's waypoints, by waypoint.
    pub(super) fn troubles(&self, namespace: &str) -> BTreeMap<String, String> {
        let waypoints = self.index.read(|index| index.waypoints_in(namespace));
        let desired = waypoints.into_iter().filter(|w| w.desired);
        desired
            .filter_map(|w| {
                let trouble = self.trouble(namespace, &w)?;
                Some((w.name, trouble))
            })
            .collect()
    }

    fn trouble(&self, namespace: &str, waypoint: &WaypointSummary) -> Option<String> {
        let key = Key::new(namespace, waypoint.name.clone());
        let met = lock(&self.troubles).get(&key).map(|(text, _)| text.clone());
        // A waiting pod shows its reason in a moment; the Deployment reports it after ten minutes.
        let of_pods = || {
            waypoint.pods.iter().find_map(|replica| {
                let pod = self.objects.own_pod(&Key::new(namespace, replica.name.clone()))?;
                Some(format!("pod {}: {}", replica.name, pod.trouble.as_ref()?))
            })
        };
        met.or_else(of_pods)
            .or_else(|| status::trouble(self.objects.deployment(&key)?.as_ref()))
    }

    fn met(&self, waypoint: &Key, trouble: String) {
        lock(&self.troubles).insert(waypoint.clone(), (trouble, Instant::now()));
    }

    /// Evaluates load and time; returns the namespaces that need a pass.
    pub(super) fn tick(&self) -> BTreeSet<String> {
        let now = Instant::now();
        let waypoints = self.index.read(|index| {
            let namespaces = index.waypoint_namespaces().into_iter();
            let all = namespaces.map(|n| (index.waypoints_in(&n), n));
            all.collect::<Vec<_>>()
        });
        let mut due: BTreeSet<_> = lock(&self.leaving)
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= LEAVE)
            .map(|(key, _)| key.namespace.clone())
            .collect();
        let stuck = lock(&self.troubles);
        let again = stuck
            .iter()
            .filter(|(_, (_, since))| now.duration_since(*since) >= LOOK_AGAIN);
        due.extend(again.map(|(key, _)| key.namespace.clone()));
        drop(stuck);
        let next = lock(&self.rolls).next(&self.objects, now);
        due.extend(next.into_iter().map(|key| key.namespace));
        for (waypoints, namespace) in waypoints {
            for waypoint in waypoints.iter().filter(|w| w.desired) {
                let key = Key::new(namespace.clone(), waypoint.name.clone());
                if let Some(change) = self.autoscaler.evaluate(&key, waypoint, now) {
                    info!(
                        %namespace, waypoint = waypoint.name, from = change.from, to = change.to,
                        in_flight = change.in_flight_milli / 1000, target = waypoint.scaling.target, "scaled"
                    );
                    due.insert(namespace.clone());
                }
            }
        }
        due
    }

    /// One pass over one namespace.
    pub(super) async fn reconcile(&self, namespace: &str) -> Result<(), ReconcileError> {
        // This is the namespace of the data plane, and has no waypoint.
        if namespace == self.settings.namespace {
            return self.write_policies(namespace, &[]).await;
        }
        let waypoints = self.waypoints(namespace);
        self.refuse_impostors(namespace, &waypoints).await;
        let mesh = self.objects.mesh();
        let mesh = mesh.filter(|m| m.metadata.deletion_timestamp.is_none());
        let mut result = Ok(());
        let mut left = false;
        let mut gone = BTreeSet::new();
        for waypoint in &waypoints {
            let key = Key::new(namespace, waypoint.name.clone());
            let pass = match &mesh {
                Some(mesh) if waypoint.desired => {
                    left = true;
                    self.roll_out(mesh, &key, waypoint).await
                }
                _ => {
                    let pruned = self.prune(&key, waypoint).await;
                    if let Ok(true) = pruned {
                        gone.insert(&*waypoint.name);
                    } else {
                        left = true;
                    }
                    pruned.map(|_| ())
                }
            };
            if let Err(error @ ReconcileError::Leaving { .. }) = &pass {
                // Objects deleted with the namespace show in the watch; objects created in their place are examined
                // then.
                debug!(%namespace, waypoint = waypoint.name, %error, "the namespace has no waypoint any more");
                continue;
            }
            if let Err(error) = pass {
                warn!(%namespace, waypoint = waypoint.name, %error, "the waypoint differs from its \
                     desired state");
                self.met(&key, error.to_string());
                // A foreign object stays foreign until its owner changes it.
                if !matches!(error, ReconcileError::Taken { .. }) {
                    result = Err(error);
                }
            }
        }
        let names = waypoints.iter().map(|w| &*w.name);
        let stay = names.filter(|name| !gone.contains(name)).collect();
        self.forget_others(namespace, &stay);
        if !left {
            let root = kind("ConfigMap");
            // It is watched by name: if none is shown, there is none.
            self.applied.forget_one(&root, namespace, ROOT_CONFIG_MAP);
            result = result.and(self.delete(&root, namespace, ROOT_CONFIG_MAP).await);
        }
        result.and(self.write_policies(namespace, &waypoints).await)
    }

    /// The namespace's waypoints, and the remains of others.
    fn waypoints(&self, namespace: &str) -> Vec<WaypointSummary> {
        let mut waypoints = self.index.read(|index| index.waypoints_in(namespace));
        for name in self.objects.applied_in(namespace, &["PodDisruptionBudget"]) {
            if !waypoints.iter().any(|w| w.name == name) {
                waypoints.push(WaypointSummary {
                    name,
                    ..WaypointSummary::default()
                });
            }
        }
        waypoints
    }

    /// Drops the state of deleted waypoints.
    fn forget_others(&self, namespace: &str, waypoints: &BTreeSet<&str>) {
        let stays = |key: &Key| key.namespace != namespace || waypoints.contains(&*key.name);
        // The root certificate belongs to the namespace, whichever waypoints exist.
        self.applied.retain(namespace, |kind, name| {
            !KINDS.contains(&kind) || waypoints.contains(name)
        });
        lock(&self.leaving).retain(|key, _| stays(key));
        lock(&self.troubles).retain(|key, _| stays(key));
        lock(&self.rolls).retain(stays);
        self.autoscaler.retain(stays);
    }

    async fn roll_out(
        &self,
        mesh: &Mesh,
        key: &Key,
        waypoint: &WaypointSummary,
    ) -> Result<(), ReconcileError> {
        lock(&self.leaving).remove(key);
        if let Some(obstacle) = &waypoint.obstacle {
            self.met(key, obstacle.clone());
            return Ok(());
        }
        let deployment = self.objects.deployment(key);
        let ambient = self.objects.ambient(&key.namespace);
        let replicas = self
            .autoscaler
            .replicas(key, &waypoint.scaling, deployment.as_deref());
        let owner = ambient.as_deref();
        let owner = owner.filter(|a| a.metadata.deletion_timestamp.is_none());
        let desired = Desired {
            key,
            replicas,
            least: waypoint.scaling.min,
            gateway: waypoint.declaration.as_ref(),
            ambient: owner.and_then(|a| a.metadata.uid.as_deref()),
            waypoint_for: waypoint.waypoint_for,
            pods: ambient.as_ref().and_then(|a| a.spec.waypoint_pods.as_ref()),
        };
        if let Some(mistake) = desired.resources(mesh).mistake() {
            self.met(key, format!("resources of its pods: {mistake}"));
            return Ok(());
        }
        let template = desired.shared_template(&self.settings, mesh);
        let scale = deployment
            .as_deref()
            .is_some_and(|d| u32::try_from(status::desired(d)) != Ok(replicas));
        let changes = lock(&self.rolls).may_change(
            key,
            deployment.as_deref(),
            &template,
            scale,
            &self.objects,
            Instant::now(),
        );
        let mut applied = Ok(());
        for object in render::render(&self.settings, mesh, &desired) {
            if object.gvk.kind == "Deployment" && !changes {
                debug!(
                    namespace = key.namespace,
                    waypoint = key.name,
                    "its pods are replaced after those of other waypoints"
                );
                continue;
            }
            match self.apply(key, object).await {
                // The other objects are applied nevertheless.
                Err(error @ ReconcileError::Contested { .. }) => applied = Err(error),
                Err(error) => {
                    applied = Err(error);
                    break;
                }
                Ok(()) => {}
            }
        }
        // Also objects applied before a failure.
        self.record(key, waypoint).await?;
        applied?;
        if !desired.disruption_budget() {
            self.delete(&kind("PodDisruptionBudget"), &key.namespace, &key.name)
                .await?;
        }
        lock(&self.troubles).remove(key);
        if !changes {
            return Ok(());
        }
        self.publish_scaling(key, &waypoint.scaling, replicas).await;
        Ok(())
    }

    /// The register's entry of a waypoint.
    fn entry(&self, key: &Key) -> Option<Registered> {
        self.register.entry(key, self.objects.registered(key))
    }

    async fn apply(&self, key: &Key, object: Rendered) -> Result<(), ReconcileError> {
        let kind = object.gvk.kind.clone();
        let live = self.objects.live(&kind, &object.namespace, &object.name);
        let entry = self.entry(key).unwrap_or_default();
        let proof = match Registered::KINDS.contains(&&*kind) {
            true => Proof::Uid(entry.uid(&kind).map(String::as_str)),
            false => Proof::Labels,
        };
        let again = object.clone();
        match self
            .applied
            .apply_proven(&self.client, object, live.as_ref(), proof)
            .await
        {
            Err(ReconcileError::Forged { what, uid }) => {
                self.evict(&again, &what, &uid).await?;
                self.applied
                    .apply_proven(&self.client, again, None, Proof::Uid(None))
                    .await
            }
            result => result,
        }
    }

    /// Records the UIDs of applied objects, and that the waypoint has been ready.
    async fn record(&self, key: &Key, waypoint: &WaypointSummary) -> Result<(), ReconcileError> {
        let watched = self.objects.registered(key);
        self.register.settle(key, watched.as_ref());
        let before = self.entry(key);
        let uid = |kind: &str| {
            let last_applied = self.applied.last_applied(kind, &key.namespace, &key.name);
            let known = before.as_ref().and_then(|b| b.uid(kind)).cloned();
            last_applied.and_then(|l| l.uid).or(known)
        };
        let entry = Registered {
            service_account: uid("ServiceAccount"),
            service: uid("Service"),
            deployment: uid("Deployment"),
            // From the first ready replica on.
            bound: waypoint.bound || waypoint.ready() > 0,
        };
        if before.as_ref() == Some(&entry) || entry == Registered::default() {
            return Ok(());
        }
        self.register.record(key, Some(entry)).await
    }

    /// Publishes a change of the waypoint's replicas as an Event on the AmbientNamespace, which has the scaling
    /// settings.
    async fn publish_scaling(&self, key: &Key, scaling: &ScalingSettings, replicas: u32) {
        let Some(Change {
            from,
            to,
            in_flight_milli,
        }) = self.autoscaler.take_change(key, replicas)
        else {
            return;
        };
        let Some(ambient) = self.objects.ambient(&key.namespace) else {
            return;
        };
        let reason = if to > from { "ScaledUp" } else { "ScaledDown" };
        let note = format!(
            "{}: {from} → {to} replicas: {} requests in flight, target {} per replica, minimum {}, \
             maximum {}",
            key.name,
            in_flight_milli / 1000,
            scaling.target,
            scaling.min,
            scaling.max
        );
        let action = format!("ScaleFrom{from}To{to}");
        self.events.publish_action(&*ambient, action, reason, &note).await;
    }

    async fn write_policies(
        &self,
        namespace: &str,
        waypoints: &[WaypointSummary],
    ) -> Result<(), ReconcileError> {
        let policies = self.objects.policies(namespace);
        if policies.is_empty() {
            return Ok(());
        }
        let fleets: BTreeMap<String, Fleet> = waypoints
            .iter()
            .map(|waypoint| {
                let key = Key::new(namespace, waypoint.name.clone());
                let deployment = self.objects.deployment(&key);
                let fleet = Fleet {
                    trouble: self.trouble(namespace, waypoint),
                    ready: waypoint.ready(),
                    desired: deployment.as_deref().map_or(0, status::desired),
                };
                (waypoint.name.clone(), fleet)
            })
            .collect();
        let mut result = Ok(());
        for policy in policies {
            let key = Key::new(namespace, policy.metadata.name.clone().unwrap_or_default());
            let Some(summary) = self.index.read(|index| index.policy_summary(&key)) else {
                continue;
            };
            let written = policy::write(&self.client, &self.events, &policy, &summary, &fleets).await;
            // A status that cannot be written does not hold up the others.
            result = result.and(written);
        }
        result
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
