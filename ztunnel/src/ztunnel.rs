//! The ztunnel as a whole, from start to its last connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ambit_hbone::{HboneConfig, HbonePool, MemoryBudget};
use ambit_mesh::Skew;
use ambit_mesh::subscription::Synced;
use ambit_runtime::{Answer, MetricsSettings, Shares, is_metrics_path, listen, serve};
use ambit_tls::{CertificateDump, CertificateManager, CertificateSource, ManagerConfig};
use ambit_wire::control_channel::{TokenFile, control_channel};
use ambit_wire::discovery::Node;
use ambit_wire::istio_ca::IstioCa;
use ambit_wire::names::{TYPE_ADDRESS, TYPE_AUTHORIZATION};
use ambit_wire::xds::{Client, ConnectionState, Subscription};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tracing::Instrument;

use crate::broker::Broker;
use crate::config::Config;
use crate::limits::Limits;
use crate::observe::{Gauges, Metrics};
use crate::pods::Pods;
use crate::proxy::{Denials, OriginalDestination, Proxy, Strangers, original_destination};
use crate::state::{MeshState, PolicyDump, ServiceDump, WorkloadDump};
use crate::xds::{StateUpdater, TYPES};

/// Time for idle HBONE connections to close gracefully.
const POOL_DRAIN: Duration = Duration::from_secs(2);

/// The parts that a test may replace.
pub struct Parts {
    /// The control plane's xDS server.
    pub control_plane: Channel,
    /// The token for the control plane.
    pub token: TokenFile,
    /// The CA.
    pub certificates: Arc<dyn CertificateSource>,
    /// Gives original destinations.
    pub original_destination: OriginalDestination,
    /// The limits.
    pub limits: Limits,
    /// The threads for connections; all other tasks run where the ztunnel is started.
    pub data: Handle,
}

impl Parts {
    /// The parts of production.
    ///
    /// # Errors
    /// When the URL of the control plane is malformed.
    pub fn of(config: &Config, data: Handle) -> anyhow::Result<Self> {
        let control_plane = control_channel(&config.control.url, &config.control.root_cert)?;
        let token = TokenFile::new(&config.control.token);
        let mut limits = Limits::of_process();
        if let Some(mebibytes) = config.memory_budget {
            limits.memory = mebibytes.saturating_mul(1 << 20);
        }
        tracing::info!(
            descriptors = limits.descriptors,
            memory_mib = limits.memory >> 20,
            "limits of connections"
        );
        let ca = IstioCa::new(control_plane.clone(), token.clone(), config.certificate_lifetime);
        Ok(Self {
            control_plane,
            token,
            certificates: Arc::new(ca),
            original_destination: Arc::new(original_destination),
            limits,
            data,
        })
    }
}

/// A ztunnel that is running.
pub struct Ztunnel {
    shared: Arc<Shared>,
    config: Config,
    broker: CancellationToken,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

struct Shared {
    proxy: Arc<Proxy>,
    pods: Arc<Pods>,
    xds: watch::Receiver<ConnectionState>,
    synced: watch::Receiver<Synced>,
    draining: AtomicBool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigDump {
    version: &'static str,
    revision: String,
    workloads: BTreeMap<String, WorkloadDump>,
    services: BTreeMap<String, ServiceDump>,
    policies: BTreeMap<String, PolicyDump>,
    certificates: Vec<CertificateDump>,
}

impl Ztunnel {
    /// Opens the HTTP ports and starts all tasks.
    ///
    /// # Errors
    /// When a port cannot be opened.
    pub async fn start(config: Config, parts: Parts) -> anyhow::Result<Self> {
        let admin = listen(config.http.admin_address).await?;
        let metrics = listen(config.http.metrics_address).await?;
        let ready = listen(config.http.ready_address).await?;
        let hbone = HboneConfig {
            connect_timeout: parts.limits.connect_timeout,
            memory: MemoryBudget::new(parts.limits.memory),
            ..HboneConfig::default()
        };
        let metrics_of_proxy = Arc::new(Metrics::new()?);
        hbone.memory.register(metrics_of_proxy.registry())?;
        let proxy = Arc::new(Proxy {
            state: Arc::new(MeshState::new(&config.pod.node_name)),
            certificates: CertificateManager::new(parts.certificates, ManagerConfig::default()),
            pool: HbonePool::new(hbone.clone()),
            hbone,
            descriptors: Shares::new(parts.limits.descriptors),
            handshakes: Shares::new(parts.limits.handshakes),
            stores: metrics_of_proxy.stores(&parts.limits),
            skew: Skew::new(parts.limits.skew_timeout),
            limits: parts.limits,
            denials: Denials::default(),
            strangers: Strangers::default(),
            metrics: metrics_of_proxy,
            access_log: config.access_log,
            original_destination: parts.original_destination,
            data: parts.data,
        });
        let pods = Arc::new(Pods::new(Arc::clone(&proxy)));
        let (synced_sender, synced) = watch::channel(Synced::expecting(TYPES));
        let updater = StateUpdater {
            state: Arc::clone(&proxy.state),
            pool: proxy.pool.clone(),
            synced: synced_sender,
        };
        // The order matters: resources that workloads name should be there before them.
        let subscriptions = [TYPE_AUTHORIZATION, TYPE_ADDRESS].map(Subscription::wildcard);
        let mut client = Client::new(
            parts.control_plane,
            parts.token,
            node(&config),
            subscriptions,
            updater,
        );
        client.register(proxy.metrics.registry())?;
        let shared = Arc::new(Shared {
            proxy,
            pods: Arc::clone(&pods),
            xds: client.state(),
            synced,
            draining: AtomicBool::new(false),
        });
        let (broker, shutdown, tasks) = (
            CancellationToken::new(),
            CancellationToken::new(),
            TaskTracker::new(),
        );
        let agent = Broker {
            path: config.broker_socket.clone(),
            revision: config.revision.clone(),
            events: pods,
        };
        tasks.spawn(
            serve_pods(agent, shared.synced.clone(), broker.clone())
                .instrument(tracing::info_span!("broker")),
        );
        tasks.spawn(
            client
                .run(shutdown.clone())
                .instrument(tracing::info_span!("xds")),
        );
        let this = Self {
            shared,
            config,
            broker,
            shutdown,
            tasks,
        };
        this.serve_http(admin, metrics, ready);
        this.follow_settings();
        Ok(this)
    }

    /// What the mesh says of metrics.
    fn follow_settings(&self) {
        let Some(path) = self.config.http.metrics_file.clone() else {
            return;
        };
        let (metrics, shutdown) = (Arc::clone(&self.shared.proxy.metrics), self.shutdown.clone());
        self.tasks.spawn(async move {
            let following = MetricsSettings::follow(&path, |settings| metrics.apply(settings));
            shutdown.run_until_cancelled(following).await;
        });
    }

    fn serve_http(&self, admin: TcpListener, metrics: TcpListener, ready: TcpListener) {
        let shutdown = || self.shutdown.clone();
        let (shared, revision) = (Arc::clone(&self.shared), self.config.revision.clone());
        self.tasks.spawn(serve("admin", admin, shutdown(), move |path| {
            (path == "/config_dump").then(|| shared.config_dump(&revision))
        }));
        let shared = Arc::clone(&self.shared);
        self.tasks
            .spawn(serve("metrics", metrics, shutdown(), move |path| {
                is_metrics_path(path).then(|| shared.metrics())
            }));
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(serve("ready", ready, shutdown(), move |path| {
            (path == "/healthz/ready").then(|| Answer::ready(shared.not_ready()))
        }));
    }

    /// Whether the initial sync with the control plane and with the agent is done.
    pub fn is_ready(&self) -> bool {
        self.shared.not_ready().is_none()
    }

    /// Ends: accepts no new connections; open ones may end by themselves until the drain deadline.
    pub async fn stop(self) {
        self.shared.draining.store(true, Ordering::Release);
        // First, so that the agent passes the listeners to the next ztunnel before this one stops accepting.
        self.broker.cancel();
        let pods = &self.shared.pods;
        let deadline = self.config.drain_deadline;
        tracing::info!(deadline_seconds = deadline.as_secs(), "draining");
        if tokio::time::timeout(deadline, pods.drain()).await.is_err() {
            tracing::warn!("the drain deadline has passed: ending the remaining connections");
            pods.kill();
            pods.drain().await;
        }
        self.shutdown.cancel();
        // Peers that do not respond are not waited for.
        if tokio::time::timeout(POOL_DRAIN, self.shared.proxy.pool.drain())
            .await
            .is_err()
        {
            tracing::debug!("pooled connections did not close in time");
        }
        self.shared.proxy.certificates.shutdown().await;
        self.tasks.close();
        self.tasks.wait().await;
        tracing::info!("all connections have ended");
    }
}

impl Shared {
    fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Acquire) {
            Some("draining")
        } else if !self.synced.borrow().is_complete() {
            Some("waiting for the control plane's configuration")
        } else if !self.pods.is_synced() {
            Some("waiting for the node agent's pods")
        } else {
            None
        }
    }

    fn metrics(&self) -> Answer {
        let (pods, draining_pods) = self.pods.counts();
        let refused_pods = self.pods.refused();
        let (workloads, services, policies) = self.proxy.state.counts();
        let gauges = Gauges {
            pods,
            draining_pods,
            refused_pods,
            workloads,
            services,
            policies,
            hbone_connections: self.proxy.pool.len(),
            descriptors: self.proxy.descriptors.taken(),
            control_plane: self.xds.borrow().is_connected(),
            agent: self.pods.is_connected(),
        };
        Answer::text_or_error(self.proxy.metrics.render(gauges))
    }

    fn config_dump(&self, revision: &str) -> Answer {
        let dump = ConfigDump {
            version: env!("CARGO_PKG_VERSION"),
            revision: revision.to_owned(),
            workloads: self.proxy.state.dump_workloads(),
            services: self.proxy.state.dump_services(),
            policies: self.proxy.state.dump_policies(),
            certificates: self.proxy.certificates.dump(),
        };
        Answer::json_or_error(serde_json::to_string_pretty(&dump))
    }
}

/// Accepts pods only after the initial sync: without configuration, every destination would count as one outside of the
/// mesh. Until then their connections wait, at an older ztunnel or in the accept queue.
async fn serve_pods(agent: Broker<Pods>, mut synced: watch::Receiver<Synced>, shutdown: CancellationToken) {
    let configured = shutdown
        .run_until_cancelled(synced.wait_for(Synced::is_complete))
        .await
        .is_some_and(|synced| synced.is_ok());
    if configured {
        agent.run(shutdown).await;
    }
}

fn node(config: &Config) -> Node {
    let metadata: &[(&str, &str)] = &[
        ("NODE_NAME", &config.pod.node_name),
        ("CLUSTER_ID", &config.control.cluster_id),
    ];
    Node::proxy("ztunnel", &config.pod.pod_name, &config.pod_namespace, metadata)
}
