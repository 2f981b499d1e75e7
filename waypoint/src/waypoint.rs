//! The waypoint as a whole, from start to the last request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_identity::SpiffeId;
use ambit_mesh::subscription::Synced;
use ambit_runtime::{Answer, MetricsSettings, Shards, is_metrics_path, listen, serve};
use ambit_tls::{CertificateDump, CertificateManager, CertificateSource, IdentityLease, ManagerConfig};
use ambit_wire::control_channel::{TokenFile, control_channel};
use ambit_wire::discovery::Node;
use ambit_wire::istio_ca::IstioCa;
use ambit_wire::xds::{Client, ConnectionState};
use anyhow::Context;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tracing::Instrument;

use crate::admission::Admission;
use crate::config::Config;
use crate::http::HttpTimeouts;
use crate::observe::{Gauges, Observer};
use crate::proxy::Common;
use crate::report::{Dial, Reporter};
use crate::retries::RetryBudgets;
use crate::shards::Proxies;
use crate::state::{State, StateDump};
use crate::xds::{StateUpdater, TYPES, subscriptions};

const NOTICE: Duration = Duration::from_secs(1);

/// The parts that a test may replace.
pub struct Parts {
    /// The control plane's xDS server.
    pub control_plane: Channel,
    /// Makes a channel for load reports, each with a connection of its own.
    pub report: Arc<dyn Fn() -> Channel + Send + Sync>,
    /// The token for them.
    pub token: TokenFile,
    /// The CA.
    pub certificates: Arc<dyn CertificateSource>,
    /// Time limits for clients.
    pub timeouts: HttpTimeouts,
    /// Time between not being ready and draining. Ztunnels receive the change meanwhile: until then they choose this
    /// replica, and if several replicas stop at once, these may be all that a ztunnel tries.
    pub notice: Duration,
    /// The workers for connections. All other tasks run where the waypoint is started; so does the one that accepts.
    pub workers: Shards,
}

impl Parts {
    /// The parts of production.
    ///
    /// # Errors
    /// When the URL of the control plane is malformed.
    pub fn of(config: &Config, workers: Shards) -> anyhow::Result<Self> {
        let control_plane = control_channel(&config.control.url, &config.control.root_cert)?;
        let token = TokenFile::new(&config.control.token);
        let ca = IstioCa::new(control_plane.clone(), token.clone(), config.certificate_lifetime);
        let (url, root, first) = (
            config.control.url.clone(),
            config.control.root_cert.clone(),
            control_plane.clone(),
        );
        // The URL was valid before.
        let report: Dial = Arc::new(move || control_channel(&url, &root).unwrap_or_else(|_| first.clone()));
        Ok(Self {
            control_plane,
            report,
            token,
            certificates: Arc::new(ca),
            timeouts: HttpTimeouts {
                drain_deadline: config.drain_deadline,
                ..HttpTimeouts::default()
            },
            notice: NOTICE,
            workers,
        })
    }
}

/// Listening addresses.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "as the flags")]
pub struct Addresses {
    pub hbone: SocketAddr,
    pub admin: SocketAddr,
    pub metrics: SocketAddr,
    pub ready: SocketAddr,
}

/// A waypoint that is running.
pub struct Waypoint {
    addresses: Addresses,
    shared: Arc<Shared>,
    config: Config,
    notice: Duration,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

struct Shared {
    state: Arc<State>,
    observer: Arc<Observer>,
    proxies: Arc<Proxies>,
    certificates: CertificateManager,
    lease: IdentityLease,
    xds: watch::Receiver<ConnectionState>,
    synced: watch::Receiver<Synced>,
    /// Cancelled when the waypoint is to stop; it then is not ready.
    leaving: CancellationToken,
    /// Cancelled when no new connections are accepted.
    draining: CancellationToken,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConfigDump {
    version: &'static str,
    #[serde(flatten)]
    state: StateDump,
    certificates: Vec<CertificateDump>,
}

impl Waypoint {
    /// Opens the ports and starts all tasks.
    ///
    /// # Errors
    /// When a port cannot be opened, or the identity has invalid characters.
    pub async fn start(config: Config, parts: Parts) -> anyhow::Result<Self> {
        let hbone = listen(config.hbone_address).await?;
        let admin = listen(config.http.admin_address).await?;
        let metrics = listen(config.http.metrics_address).await?;
        let ready = listen(config.http.ready_address).await?;
        let identity = SpiffeId::new(
            &config.trust_domain,
            &config.pod_namespace,
            &config.service_account,
        )
        .context("the waypoint's identity: AMBIT_TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT")?;
        let certificates = CertificateManager::new(parts.certificates, ManagerConfig::default());
        let lease = certificates.lease(identity);
        let (state, observer) = (Arc::new(State::new()), Observer::new()?);
        let admission = Arc::new(Admission::of_process());
        admission.windows.register(observer.registry())?;
        let (leaving, draining) = (CancellationToken::new(), CancellationToken::new());
        let common = Common {
            state: Arc::clone(&state),
            observer: Arc::clone(&observer),
            lease: lease.clone(),
            timeouts: parts.timeouts,
            admission,
            retries: RetryBudgets::default(),
            drain: draining.clone(),
        };
        let proxies = Arc::new(Proxies::new(&parts.workers, &common));
        let (synced_sender, synced) = watch::channel(Synced::expecting(TYPES.len()));
        let updater = StateUpdater {
            state: Arc::clone(&state),
            observer: Arc::clone(&observer),
            proxies: Arc::clone(&proxies),
            synced: synced_sender,
        };
        let mut client = Client::new(
            parts.control_plane,
            parts.token.clone(),
            node(&config),
            subscriptions(),
            updater,
        );
        client.register(observer.registry())?;
        let reporter = Reporter {
            dial: parts.report,
            token: parts.token,
            load: Arc::clone(observer.load()),
            draining: leaving.clone(),
        };
        let shared = Shared {
            state,
            observer,
            proxies: Arc::clone(&proxies),
            certificates,
            lease,
            xds: client.state(),
            synced,
            leaving,
            draining,
        };
        let addresses = Addresses {
            hbone: hbone.local_addr()?,
            admin: admin.local_addr()?,
            metrics: metrics.local_addr()?,
            ready: ready.local_addr()?,
        };
        let this = Self {
            addresses,
            shared: Arc::new(shared),
            config,
            notice: parts.notice,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let shutdown = || this.shutdown.clone();
        // Nothing is accepted before the initial sync, since rules would be missing. Connections wait in the queue.
        let mut configured = this.shared.synced.clone();
        let draining = this.shared.draining.clone();
        this.tasks.spawn(async move {
            let configured = async { configured.wait_for(Synced::is_complete).await.is_ok() };
            if draining.run_until_cancelled(configured).await == Some(true) {
                proxies.accept(hbone).await;
            }
        });
        this.tasks
            .spawn(client.run(shutdown()).instrument(tracing::info_span!("xds")));
        this.tasks
            .spawn(reporter.run(shutdown()).instrument(tracing::info_span!("report")));
        this.serve_http(admin, metrics, ready);
        this.follow_settings();
        Ok(this)
    }

    /// What the mesh says of metrics.
    fn follow_settings(&self) {
        let Some(path) = self.config.http.metrics_file.clone() else {
            return;
        };
        let (observer, shutdown) = (Arc::clone(&self.shared.observer), self.shutdown.clone());
        self.tasks.spawn(async move {
            let following = MetricsSettings::follow(&path, |settings| observer.apply(settings));
            shutdown.run_until_cancelled(following).await;
        });
    }

    fn serve_http(&self, admin: TcpListener, metrics: TcpListener, ready: TcpListener) {
        let shutdown = || self.shutdown.clone();
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(serve("admin", admin, shutdown(), move |path| {
            (path == "/config_dump").then(|| shared.config_dump())
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

    /// Listening addresses, with the ports that the system has chosen.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Whether it has a certificate and its initial sync is done. A later loss of the control plane changes nothing:
    /// the configuration stays in force.
    pub fn is_ready(&self) -> bool {
        self.shared.not_ready().is_none()
    }

    /// Ends: it is not ready any more, and serves until others have received that. Then it accepts no new connections,
    /// asks clients to use another replica, and lets requests run until the drain deadline.
    pub async fn stop(self) {
        let deadline = self.config.drain_deadline;
        tracing::info!(
            notice_seconds = self.notice.as_secs_f64(),
            deadline_seconds = deadline.as_secs_f64(),
            "draining"
        );
        self.shared.leaving.cancel();
        tokio::time::sleep(self.notice).await;
        self.shared.draining.cancel();
        let ended = self.shared.proxies.drained(deadline).await;
        if ended > 0 {
            tracing::warn!(
                connections = ended,
                "the drain deadline has passed: ending the remaining connections"
            );
        }
        self.shutdown.cancel();
        self.shared.certificates.shutdown().await;
        self.tasks.close();
        self.tasks.wait().await;
        tracing::info!("the waypoint has ended");
    }
}

impl Shared {
    fn not_ready(&self) -> Option<&'static str> {
        if self.leaving.is_cancelled() {
            Some("draining")
        } else if !self.synced.borrow().is_complete() {
            Some("waiting for the control plane's configuration")
        } else if self.lease.current().is_none() {
            Some("waiting for a certificate")
        } else {
            None
        }
    }

    fn metrics(&self) -> Answer {
        let gauges = Gauges {
            resources: self.state.counts().to_vec(),
            hbone_connections: self.proxies.hbone_connections(),
            held_bytes: self.proxies.admission.bytes.taken(),
            silent_connections: self.proxies.admission.silent.taken(),
            control_plane: self.xds.borrow().is_connected(),
        };
        Answer::text_or_error(self.observer.render(&gauges))
    }

    fn config_dump(&self) -> Answer {
        Answer::json_or_error(serde_json::to_string_pretty(&ConfigDump {
            version: env!("CARGO_PKG_VERSION"),
            state: self.state.dump(),
            certificates: self.certificates.dump(),
        }))
    }
}

fn node(config: &Config) -> Node {
    let metadata: &[(&str, &str)] = &[
        ("NODE_NAME", &config.pod.node_name),
        ("CLUSTER_ID", &config.control.cluster_id),
        ("WAYPOINT", &config.name),
    ];
    Node::proxy("waypoint", &config.pod.pod_name, &config.pod_namespace, metadata)
}
