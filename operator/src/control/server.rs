use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use ambit_wire::agent::node_agent_server::NodeAgentServer;
use ambit_wire::ca::istio_certificate_service_server::IstioCertificateServiceServer;
use ambit_wire::loads::loads_server::LoadsServer;
use ambit_wire::names::CONTROL;
use ambit_wire::waypoint::waypoint_server::WaypointServer;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::http::Extensions;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tracing::info;

use super::auth::{Authenticator, Caller, TokenReviewer};
use super::by_role::ByRole;
use super::ca::{CertificateAuthority, IssueError};
use super::certificates::Certificates;
use super::connection::{Connection, Lifetimes};
use super::interfaces::{CaptureSink, Directory, Sources};
use super::load_reports::LoadReports;
use super::load_watches::LoadWatches;
use super::loads::Loads;
use super::metrics::Metrics;
use super::reports::Reports;
use super::serving::TlsListener;

/// How long to wait for a pod that is not in this replica's caches yet.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// Maximum of a certificate request, a report about a pod, and the load of a waypoint; configuration messages are
/// limited by role.
const LONGEST_MESSAGE: usize = 256 << 10;
/// Maximum of a request to watch loads, which is empty.
const LONGEST_WATCH: usize = 1 << 10;

/// Why the control plane does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// No serving certificate.
    #[error("serving certificate: {0}")]
    Certificate(#[from] IssueError),
    /// The TLS library refuses the configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A metric of the same name is there already.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The parts of the control plane.
pub struct ControlPlaneParts {
    /// The namespace of Ambit's own pods: agents and ztunnels are service accounts of it.
    pub system_namespace: String,
    /// The DNS names of the control plane.
    pub serving_names: Vec<String>,
    /// Signs serving and workload certificates.
    pub authority: Arc<CertificateAuthority>,
    /// Reviews tokens.
    pub reviewer: Arc<dyn TokenReviewer>,
    /// Pods and settings.
    pub directory: Arc<dyn Directory>,
    /// The configuration.
    pub sources: Arc<dyn Sources>,
    /// Records the reports of agents.
    pub sink: Arc<dyn CaptureSink>,
}

/// The names of the Service `ambit-control` of `namespace`, in a cluster with the Service domain `cluster_domain`.
pub fn service_names(namespace: &str, cluster_domain: &str) -> Vec<String> {
    let service = format!("{CONTROL}.{namespace}");
    vec![
        format!("{service}.svc"),
        format!("{service}.svc.{cluster_domain}"),
        service,
    ]
}

/// The gRPC server that ztunnels, waypoints, agents and the operator talk to.
pub struct ControlPlane {
    shared: Arc<Shared>,
    serving_names: Vec<String>,
    pub(super) lifetimes: Lifetimes,
}

/// What all services need.
pub(super) struct Shared {
    authenticator: Authenticator,
    pub(super) authority: Arc<CertificateAuthority>,
    pub(super) directory: Arc<dyn Directory>,
    pub(super) sources: Arc<dyn Sources>,
    pub(super) sink: Arc<dyn CaptureSink>,
    pub(super) loads: Arc<Loads>,
    pub(super) metrics: Metrics,
    pub(super) shutdown: CancellationToken,
}

impl ControlPlane {
    /// Puts the parts together; registers metrics in `registry`. Serves until `shutdown`.
    pub fn new(
        parts: ControlPlaneParts,
        registry: &Registry,
        shutdown: CancellationToken,
    ) -> Result<Self, ControlPlaneError> {
        let ControlPlaneParts {
            system_namespace,
            serving_names,
            authority,
            reviewer,
            directory,
            sources,
            sink,
        } = parts;
        let shared = Shared {
            authenticator: Authenticator::new(system_namespace, reviewer, Arc::clone(&directory)),
            authority,
            directory,
            sources,
            sink,
            loads: Arc::default(),
            metrics: Metrics::new(registry)?,
            shutdown,
        };
        shared.metrics.expires(shared.authority.not_after());
        Ok(Self {
            shared: Arc::new(shared),
            serving_names,
            lifetimes: Lifetimes::default(),
        })
    }

    /// Serves on `listener` until the shutdown; then ends all streams, so that clients connect to another replica, and
    /// finishes calls in progress.
    pub async fn run(self, listener: TcpListener) -> Result<(), ControlPlaneError> {
        let Self {
            shared,
            serving_names,
            lifetimes,
        } = self;
        info!(address = ?listener.local_addr().ok(), names = ?serving_names, "the control plane serves");
        let listener = TlsListener::new(listener, Arc::clone(&shared.authority), serving_names)?;
        let (shutdown, metrics) = (shared.shutdown.clone(), shared.metrics.clone());
        let certificates = IstioCertificateServiceServer::new(Certificates(Arc::clone(&shared)));
        let reports = NodeAgentServer::new(Reports(Arc::clone(&shared)));
        let loads = WaypointServer::new(LoadReports(Arc::clone(&shared)));
        let watches = LoadsServer::new(LoadWatches(Arc::clone(&shared)));
        let routes = Routes::new(ByRole::new(Arc::clone(&shared)))
            .add_service(certificates.max_decoding_message_size(LONGEST_MESSAGE))
            .add_service(reports.max_decoding_message_size(LONGEST_MESSAGE))
            .add_service(loads.max_decoding_message_size(LONGEST_MESSAGE))
            .add_service(watches.max_decoding_message_size(LONGEST_WATCH))
            .prepare();
        listener.run(routes, lifetimes, metrics, shutdown).await;
        Ok(())
    }
}

impl Shared {
    /// Authenticates the client of a call; a refusal is recorded.
    pub(super) async fn caller(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
        what: &'static str,
    ) -> Result<Caller, Status> {
        let connection = extensions.get::<Connection>();
        let connection = connection.ok_or_else(|| Status::internal("the call has no connection"))?;
        let authenticated = self.authenticator.authenticate(metadata, connection).await;
        authenticated.map_err(|refusal| refusal.record(&self.metrics, what))
    }

    /// Finds a pod of `node`, at once or shortly: proxies get a pod from its node, possibly before the API server's
    /// watch.
    pub(super) async fn find_or_wait<T>(&self, node: &str, find: impl Fn() -> Option<T>) -> Option<T> {
        // Held, so that its owner does not drop it as unused meanwhile.
        let pods = self.sources.pod_captures(node);
        let mut changed = pods.subscribe();
        let found = timeout(KNOWN_WITHIN, async {
            loop {
                if let Some(found) = find() {
                    return found;
                }
                if changed.changed().await.is_err() {
                    return pending().await;
                }
            }
        });
        found.await.ok().or_else(find)
    }
}

#[cfg(test)]
mod tests;
