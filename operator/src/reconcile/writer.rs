//! The replica that holds the lease writes objects and statuses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::Client;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::mesh::MeshReconciler;
use super::namespace::NamespaceReconciler;
use super::recorder::Events;
use super::waypoint::WaypointReconciler;
use super::{Leadership, Objects, Settings};
use crate::control::{Directory, LoadTable};
use crate::index::SharedIndex;

/// Changes that come within this time of one another are reconciled at once.
const SETTLE: Duration = Duration::from_millis(200);
/// Everything is compared anew with what the watches show this often, whether or not they told of a change.
const RESYNC: Duration = Duration::from_secs(300);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// How often the waypoints' load is looked at.
const TICK: Duration = Duration::from_secs(1);
/// Namespaces that are written at once.
const PARALLEL: usize = 8;

/// Reconciles everything while this replica leads.
pub struct Writer {
    mesh: MeshReconciler,
    namespaces: NamespaceReconciler,
    waypoints: WaypointReconciler,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
    leadership: Leadership,
}

impl Writer {
    /// A writer of what `index` and `objects` hold, while `leadership` says so; `loads` is what waypoints report.
    pub fn new(
        client: Client,
        settings: Settings,
        index: Arc<SharedIndex>,
        objects: Arc<Objects>,
        leadership: Leadership,
        loads: Arc<LoadTable>,
    ) -> Self {
        let events = Events::new(client.clone(), &settings.identity);
        let namespaces = NamespaceReconciler::new(
            client.clone(),
            Arc::clone(&index),
            Arc::clone(&objects),
            events.clone(),
        );
        let waypoints = WaypointReconciler::new(
            client.clone(),
            settings.clone(),
            Arc::clone(&index),
            Arc::clone(&objects),
            events.clone(),
            loads,
        );
        let mesh = MeshReconciler::new(client, settings, Arc::clone(&index), Arc::clone(&objects), events);
        Self {
            mesh,
            namespaces,
            waypoints,
            index,
            objects,
            leadership,
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut index_changed = self.index.subscribe();
        let mut objects_changed = self.objects.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = BTreeSet::new();
        let mut next = Instant::now();
        let mut resync = Instant::now();
        let mut led = false;
        loop {
            let wake = async {
                tokio::select! {
                    _ = index_changed.changed() => {}
                    _ = objects_changed.changed() => {}
                    _ = self.leadership.changed() => {}
                    () = sleep_until(next) => {}
                    _ = tick.tick(), if led => return Wake::Tick,
                }
                // What else comes at the same time.
                tokio::time::sleep(SETTLE).await;
                Wake::Changed
            };
            match stop.run_until_cancelled(wake).await {
                None => return,
                Some(Wake::Tick) => {
                    if !*self.leadership.borrow() {
                        continue;
                    }
                    let due = self.waypoints.tick();
                    let failed = stop.run_until_cancelled(self.write(due));
                    let Some(failed) = failed.await else { return };
                    if !failed.is_empty() {
                        next = next.min(Instant::now() + RETRY);
                    }
                    pending.extend(failed);
                    continue;
                }
                Some(Wake::Changed) => {}
            }
            index_changed.mark_unchanged();
            objects_changed.mark_unchanged();
            let leads = *self.leadership.borrow_and_update() && self.index.is_ready();
            if leads && (!led || Instant::now() >= resync) {
                // The API server may be another version by now. What somebody has changed by hand needs no resync while the watches work: it is
                // put right when they show it.
                self.mesh.forget();
                if !led {
                    // What stands there is another replica's work, and whatever was done to it while nobody led.
                    self.waypoints.lead_anew();
                }
                pending.extend(self.objects.ambient_namespaces());
                pending.extend(self.index.read(|index| index.asking()));
                pending.extend(self.waypoints.namespaces());
                resync = Instant::now() + RESYNC;
            }
            led = leads;
            next = resync.max(Instant::now() + RETRY);
            let touched = self.index.take_touched();
            if !leads {
                pending.clear();
                continue;
            }
            pending.extend(touched);
            let pass = self.pass(std::mem::take(&mut pending));
            let Some((failed, again)) = stop.run_until_cancelled(pass).await else {
                return;
            };
            if let Some(again) = again {
                next = Instant::now() + again;
            }
            pending = failed;
        }
    }

    /// Reconciles the Mesh and `namespaces`; those that failed, and when to come again.
    async fn pass(&mut self, mut namespaces: BTreeSet<String>) -> (BTreeSet<String>, Option<Duration>) {
        let mut again = match self.mesh.reconcile().await {
            Ok(again) => again,
            Err(error) => {
                warn!(%error, "the Mesh could not be reconciled; will try again");
                Some(RETRY)
            }
        };
        // An object may have changed that the index takes no notice of: its status, or its generation.
        namespaces.extend(self.objects.take_touched());
        let failed = self.write(namespaces).await;
        if !failed.is_empty() {
            again = Some(RETRY);
        }
        (failed, again)
    }

    /// Reconciles the waypoints, the policies and the AmbientNamespace of each of `namespaces`; those that failed.
    async fn write(&self, namespaces: BTreeSet<String>) -> BTreeSet<String> {
        let results = stream::iter(namespaces).map(|namespace| async move {
            let waypoints = self.waypoints.reconcile(&namespace).await;
            let troubles = self.waypoints.troubles(&namespace);
            let ambient = self.namespaces.reconcile(&namespace, &troubles).await;
            waypoints.and(ambient).err().map(|error| (namespace, error))
        });
        results
            .buffer_unordered(PARALLEL)
            .filter_map(|failure| async move {
                let (namespace, error) = failure?;
                warn!(%namespace, %error, "the namespace could not be reconciled; will try again");
                Some(namespace)
            })
            .collect()
            .await
    }
}

/// Why the writer wakes.
enum Wake {
    /// Something is another than before, or it is time to look.
    Changed,
    /// A second is over.
    Tick,
}
