//! Writes objects and statuses, in the replica that holds the lease.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kube::Client;
use prometheus::Registry;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::fenced;
use super::gateway::{ClassReconciler, GatewayReconciler};
use super::mesh::MeshReconciler;
use super::metrics::WorkMetrics;
use super::namespace::NamespaceReconciler;
use super::queue::{Queue, Work};
use super::recorder::Events;
use super::route::RouteReconciler;
use super::waypoint::WaypointReconciler;
use super::{Health, Leadership, LoadTable, Objects, ReconcileError, Settings};
use crate::control::Directory;
use crate::index::SharedIndex;

/// Changes within this time are reconciled together.
const SETTLE: Duration = Duration::from_millis(200);
/// Interval of a full comparison with the watches, whether or not anything changed.
const RESYNC: Duration = Duration::from_secs(300);
/// Interval of evaluating the waypoints' load.
const TICK: Duration = Duration::from_secs(1);
/// Maximum of keys that are reconciled at once.
const PARALLEL: usize = 9;

/// Reconciles everything while this replica leads.
pub struct Writer {
    mesh: MeshReconciler,
    namespaces: NamespaceReconciler,
    waypoints: WaypointReconciler,
    routes: RouteReconciler,
    gateways: GatewayReconciler,
    classes: ClassReconciler,
    index: Arc<SharedIndex>,
    objects: Arc<Objects>,
    leadership: Leadership,
    health: Health,
    metrics: Option<WorkMetrics>,
}

impl Writer {
    /// A writer for the content of `index` and `objects`, while `leadership` holds; `loads` has the waypoints' load,
    /// and `health` is notified by every run of the loop.
    pub fn new(
        client: Client,
        settings: Settings,
        index: Arc<SharedIndex>,
        objects: Arc<Objects>,
        leadership: Leadership,
        loads: Arc<LoadTable>,
        health: Health,
    ) -> Self {
        // The lease may be lost between two writes of one pass.
        let client = fenced(&client, &leadership);
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
        let routes = RouteReconciler::new(client.clone(), Arc::clone(&index), Arc::clone(&objects));
        let gateways = GatewayReconciler::new(client.clone(), Arc::clone(&index), Arc::clone(&objects));
        let classes = ClassReconciler::new(client.clone(), Arc::clone(&objects));
        let mesh = MeshReconciler::new(client, settings, Arc::clone(&index), Arc::clone(&objects), events);
        Self {
            mesh,
            namespaces,
            waypoints,
            routes,
            gateways,
            classes,
            index,
            objects,
            leadership,
            health,
            metrics: None,
        }
    }

    /// Counts its work in `registry`.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn register(&mut self, registry: &Registry) -> Result<(), prometheus::Error> {
        self.metrics = Some(WorkMetrics::register(registry)?);
        Ok(())
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut leadership = self.leadership.clone();
        loop {
            if let Some(metrics) = &self.metrics {
                metrics.idle();
            }
            // Work in progress ends with the leadership.
            let leads = leadership.wait_for(|leads| *leads).map(|leads| leads.is_ok());
            match stop.run_until_cancelled(self.idle(leads)).await {
                Some(true) => {}
                Some(false) | None => return,
            }
            let mut lost = self.leadership.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = lost.wait_for(|leads| !leads) => info!("no longer leads: writes nothing more"),
                () = self.lead() => {}
            }
        }
    }

    /// Waits until `leads` is false, and shows that the loop lives.
    async fn idle(&self, leads: impl Future<Output = bool>) -> bool {
        let mut leads = std::pin::pin!(leads);
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                leads = &mut leads => return leads,
                _ = tick.tick() => self.health.beat_writer(),
            }
        }
    }

    /// Reconciles while this is polled.
    async fn lead(&self) {
        let mut index_changed = self.index.subscribe();
        let mut objects_changed = self.objects.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The existing objects were written by another replica, and may have been changed while nobody led.
        self.waypoints.reset();
        let mut queue = Queue::default();
        let mut running = FuturesUnordered::new();
        let mut resync = Instant::now();
        // Changes settle before they are looked at.
        let mut settled = Some(Instant::now());
        loop {
            let now = Instant::now();
            if now >= resync && self.index.is_ready() {
                self.resync(&mut queue, now);
                resync = now + RESYNC;
            }
            if settled.is_some_and(|at| at <= now) {
                settled = None;
                index_changed.mark_unchanged();
                objects_changed.mark_unchanged();
                self.gather(&mut queue, now);
            }
            while running.len() < PARALLEL {
                let Some(work) = queue.take(now) else { break };
                running.push(self.work(work));
            }
            if let Some(metrics) = &self.metrics {
                metrics.queue(&queue, now);
            }
            let full = running.len() >= PARALLEL;
            let next = queue.next().filter(|_| !full).map_or(resync, |at| at.min(resync));
            let next = settled.map_or(next, |at| at.min(next));
            tokio::select! {
                Some((work, result)) = running.next(), if !running.is_empty() => {
                    let now = Instant::now();
                    match result {
                        Ok(again) => queue.done(work, again.map(|pause| now + pause)),
                        Err(error) => {
                            let pause = queue.failed(work.clone(), now);
                            let waiting = queue.failing();
                            warn!(?work, %error, ?pause, waiting, "could not be reconciled; will try again");
                        }
                    }
                }
                _ = index_changed.changed(), if settled.is_none() => settled = Some(Instant::now() + SETTLE),
                _ = objects_changed.changed(), if settled.is_none() => settled = Some(Instant::now() + SETTLE),
                () = sleep_until(next) => {}
                _ = tick.tick() => {
                    self.health.beat_writer();
                    let now = Instant::now();
                    for namespace in self.waypoints.tick() {
                        queue.add(Work::Namespace(namespace), now);
                    }
                }
            }
        }
    }

    /// The API server may have another version by now; changes of users while the watches were down are examined.
    fn resync(&self, queue: &mut Queue, now: Instant) {
        self.mesh.forget();
        let mut all: BTreeSet<_> = self.objects.ambient_namespaces().into_iter().collect();
        all.extend(self.index.read(|index| index.asking()));
        all.extend(self.waypoints.namespaces());
        all.extend(self.objects.route_namespaces());
        all.extend(self.objects.gateway_namespaces());
        queue.add(Work::Mesh, now);
        queue.add(Work::Classes, now);
        for namespace in all {
            queue.add(Work::Namespace(namespace), now);
        }
    }

    /// Queues the changes.
    fn gather(&self, queue: &mut Queue, now: Instant) {
        let edited = self.objects.take_edited();
        if edited.mesh {
            // This change may be the remedy for every failure.
            queue.forgive(now);
            queue.urge(Work::Mesh, now);
            // Their pods have settings of the Mesh.
            for namespace in self.waypoints.namespaces() {
                queue.add(Work::Namespace(namespace), now);
            }
        } else {
            queue.add(Work::Mesh, now);
        }
        queue.add(Work::Classes, now);
        for namespace in edited.namespaces {
            queue.urge(Work::Namespace(namespace), now);
        }
        // An object may have changed in a part that the index does not use: its status, or its generation.
        let mut touched = self.index.take_touched();
        touched.extend(self.objects.take_touched());
        for namespace in touched {
            queue.add(Work::Namespace(namespace), now);
        }
    }

    /// Reconciles one key; returns when to run again even if nothing changes.
    async fn work(&self, work: Work) -> (Work, Result<Option<Duration>, ReconcileError>) {
        let begun = Instant::now();
        let result = match &work {
            Work::Mesh => self.mesh.reconcile().await,
            Work::Classes => self.classes.reconcile().await,
            Work::Namespace(namespace) => self.namespace(namespace).await,
        };
        if let Some(metrics) = &self.metrics {
            metrics.worked(&work, begun.elapsed(), result.as_ref().err());
        }
        (work, result)
    }

    /// The waypoints, the policies, the routes, the Gateways and the AmbientNamespace of a namespace: each is tried, whatever the result of the
    /// others.
    async fn namespace(&self, namespace: &str) -> Result<Option<Duration>, ReconcileError> {
        let waypoints = self.waypoints.reconcile(namespace).await;
        let troubles = self.waypoints.troubles(namespace);
        let ambient = self.namespaces.reconcile(namespace, &troubles).await;
        let routes = self.routes.reconcile(namespace).await;
        let gateways = self.gateways.reconcile(namespace, &troubles).await;
        waypoints
            .and(ambient)
            .and_then(|again| routes.and(gateways).map(|()| again))
    }
}
