//! A control plane in memory, with invented pods and tokens, and clients.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ambit_wire::agent::{NodeState, PodReport};
use ambit_wire::xds::Collection;
use ambit_wire::{TokenFile, control_channel_at};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::connection::Lifetimes;
use super::*;

/// A token that expires in an hour by its own content, distinguished by `name`.
pub(crate) fn token(name: &str) -> String {
    token_until(name, SystemTime::now() + Duration::from_secs(3600))
}

pub(crate) fn token_until(name: &str, expiry: SystemTime) -> String {
    let exp = expiry.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        part("{}"),
        part(&format!("{{\"exp\":{exp}}}")),
        part(name)
    )
}

/// A live, enrolled pod; its UID is `<name>-uid`.
pub(crate) fn pod(namespace: &str, name: &str, service_account: &str, node: &str) -> PodInfo {
    PodInfo {
        uid: format!("{name}-uid"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        service_account: service_account.to_owned(),
        node: node.to_owned(),
        host_network: false,
        enrolled: true,
        waypoint: None,
        service_account_uid: None,
    }
}

#[derive(Default)]
pub(crate) struct Cluster {
    pods: Mutex<HashMap<String, PodInfo>>,
    captures: Mutex<HashMap<String, Arc<Collection>>>,
    waypoints: Mutex<HashMap<String, WaypointCollections>>,
    pub(crate) addresses: Arc<Collection>,
    pub(crate) authorizations: Arc<Collection>,
    pub(crate) namespaces: Arc<Collection>,
    pub(crate) not_ready: AtomicBool,
    reviews: Mutex<HashMap<String, Review>>,
    pub(crate) asked: AtomicUsize,
    pub(crate) api_down: AtomicBool,
}

impl Cluster {
    pub(crate) fn add(&self, pod: PodInfo) {
        let (uid, node) = (pod.uid.clone(), pod.node.clone());
        self.pods.lock().unwrap().insert(uid.clone(), pod);
        self.pod_captures(&node).update([(uid, Some(b"pod".to_vec()))]);
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.pods.lock().unwrap().remove(uid);
    }

    /// A token of the pod, which is added to the cluster, too.
    pub(crate) fn token_of(&self, pod: PodInfo) -> String {
        let token = token(&pod.uid);
        self.know(&token, review_of(&pod));
        self.add(pod);
        token
    }

    pub(crate) fn know(&self, token: &str, review: Review) {
        self.reviews.lock().unwrap().insert(token.to_owned(), review);
    }

    pub(crate) fn ztunnel(&self, node: &str) -> String {
        self.token_of(pod(
            "ambit-system",
            &format!("ztunnel-{node}"),
            "ambit-ztunnel",
            node,
        ))
    }

    /// A token of the operator.
    pub(crate) fn operator(&self) -> String {
        self.token_of(pod("ambit-system", "operator", "ambit-operator", "one"))
    }

    /// A token of a replica of a waypoint that serves only the Service `name`.
    pub(crate) fn waypoint(&self, namespace: &str, name: &str) -> String {
        let one = |resource: String| {
            let collection = Collection::new();
            collection.replace([(resource, namespace.into())]);
            Arc::new(collection)
        };
        let collections = WaypointCollections {
            settings: one("waypoint".to_owned()),
            services: one(format!("{namespace}/{name}.svc")),
            routes: one(format!("HTTPRoute/{namespace}/{name}")),
            backends: one(format!("{namespace}/{name}-backend.svc")),
            policies: one(format!("{namespace}/{name}-policy")),
            workloads: one(format!("{namespace}/{name}-workload")),
            authorizations: one(format!("{namespace}/{name}-rule")),
        };
        self.waypoints
            .lock()
            .unwrap()
            .insert(format!("{namespace}/{name}"), collections);
        self.token_of(PodInfo {
            waypoint: Some(name.to_owned()),
            service_account_uid: Some(format!("{name}-account")),
            enrolled: false,
            ..pod(namespace, &format!("{namespace}-{name}-0"), name, "one")
        })
    }

    pub(crate) fn agent(&self, node: &str) -> String {
        self.token_of(pod("ambit-system", &format!("agent-{node}"), "ambit-agent", node))
    }
}

pub(crate) fn review_of(pod: &PodInfo) -> Review {
    Review {
        username: format!("system:serviceaccount:{}:{}", pod.namespace, pod.service_account),
        uid: Some(format!("{}-account", pod.service_account)),
        pod_name: Some(pod.name.clone()),
        pod_uid: Some(pod.uid.clone()),
        node_name: Some(pod.node.clone()),
    }
}

#[tonic::async_trait]
impl TokenReviewer for Cluster {
    async fn review(&self, token: &str) -> Result<Review, ReviewError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.api_down.load(Ordering::SeqCst) {
            return Err(ReviewError::Unavailable("connection refused".into()));
        }
        let known = self.reviews.lock().unwrap().get(token).cloned();
        known.ok_or_else(|| ReviewError::Invalid("the token is not valid".into()))
    }
}

impl Directory for Cluster {
    fn is_ready(&self) -> bool {
        !self.not_ready.load(Ordering::SeqCst)
    }

    fn pod(&self, uid: &str) -> Option<PodInfo> {
        self.pods.lock().unwrap().get(uid).cloned()
    }

    fn enrolled_pod(&self, node: &str, namespace: &str, service_account: &str) -> Option<PodInfo> {
        let pods = self.pods.lock().unwrap();
        let fits = |pod: &&PodInfo| {
            pod.enrolled
                && !pod.host_network
                && (&*pod.node, &*pod.namespace, &*pod.service_account) == (node, namespace, service_account)
        };
        pods.values().find(fits).cloned()
    }

    fn mesh(&self) -> MeshSettings {
        MeshSettings {
            trust_domain: "cluster.local".to_owned(),
            leaf_ttl: Duration::from_secs(24 * 3600),
        }
    }
}

impl Sources for Cluster {
    fn addresses(&self) -> Arc<Collection> {
        Arc::clone(&self.addresses)
    }

    fn authorizations(&self, _node: &str) -> Arc<Collection> {
        Arc::clone(&self.authorizations)
    }

    fn pod_captures(&self, node: &str) -> Arc<Collection> {
        let mut captures = self.captures.lock().unwrap();
        let collection = captures.entry(node.to_owned()).or_insert_with(|| {
            let collection = Collection::new();
            collection.replace([]);
            Arc::new(collection)
        });
        Arc::clone(collection)
    }

    fn enrolled_namespaces(&self) -> Arc<Collection> {
        Arc::clone(&self.namespaces)
    }

    fn node_config(&self, node: &str) -> Arc<Collection> {
        let collection = Collection::new();
        collection.replace([("node".to_owned(), node.as_bytes().to_vec())]);
        Arc::new(collection)
    }

    fn waypoint(&self, namespace: &str, name: &str) -> Option<WaypointCollections> {
        let waypoints = self.waypoints.lock().unwrap();
        waypoints.get(&format!("{namespace}/{name}")).cloned()
    }
}

/// Passes on the records; fails for pods named `unwritable`.
pub(crate) struct Sink(mpsc::UnboundedSender<(String, String)>);

#[tonic::async_trait]
impl CaptureSink for Sink {
    async fn record_pod(&self, pod: &PodInfo, report: &PodReport) -> Result<(), RecordError> {
        if pod.name == "unwritable" {
            return Err(RecordError("the API server says no".into()));
        }
        self.0
            .send((pod.name.clone(), report.state().as_str_name().to_owned()))
            .unwrap();
        Ok(())
    }

    async fn record_node(&self, agent: &AgentPod, state: NodeState) -> Result<(), RecordError> {
        self.0
            .send((agent.name.clone(), state.as_str_name().to_owned()))
            .unwrap();
        Ok(())
    }
}

pub(crate) struct Running {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) records: mpsc::UnboundedReceiver<(String, String)>,
    pub(crate) authority: Arc<CertificateAuthority>,
    registry: Registry,
    pub(crate) address: SocketAddr,
    files: TempDir,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ControlPlaneError>>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        let cluster = Arc::new(Cluster::default());
        Self::serving(&cluster, Arc::clone(&cluster) as _).await
    }

    /// Connections last as long as `lifetimes` says.
    pub(super) async fn with(lifetimes: Lifetimes) -> Self {
        let cluster = Arc::new(Cluster::default());
        Self::with_all(&cluster, Arc::clone(&cluster) as _, lifetimes).await
    }

    /// Configuration comes from `sources`, pods from the cluster.
    pub(crate) async fn serving(cluster: &Arc<Cluster>, sources: Arc<dyn Sources>) -> Self {
        Self::with_all(cluster, sources, Lifetimes::default()).await
    }

    async fn with_all(cluster: &Arc<Cluster>, sources: Arc<dyn Sources>, lifetimes: Lifetimes) -> Self {
        let authority = Arc::new(CertificateAuthority::generate().unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::on(listener, authority, cluster, sources, lifetimes)
    }

    /// A replica on `listener`, with this authority.
    pub(crate) fn replica(
        listener: TcpListener,
        authority: &Arc<CertificateAuthority>,
        cluster: &Arc<Cluster>,
    ) -> Self {
        let sources = Arc::clone(cluster) as _;
        let lifetimes = Lifetimes::default();
        Self::on(listener, Arc::clone(authority), cluster, sources, lifetimes)
    }

    fn on(
        listener: TcpListener,
        authority: Arc<CertificateAuthority>,
        cluster: &Arc<Cluster>,
        sources: Arc<dyn Sources>,
        lifetimes: Lifetimes,
    ) -> Self {
        let (sink, records) = mpsc::unbounded_channel();
        let (cluster, registry) = (Arc::clone(cluster), Registry::new());
        let parts = ControlPlaneParts {
            system_namespace: "ambit-system".to_owned(),
            serving_names: vec!["localhost".to_owned()],
            authority: Arc::clone(&authority),
            reviewer: Arc::clone(&cluster) as _,
            directory: Arc::clone(&cluster) as _,
            sources,
            sink: Arc::new(Sink(sink)),
        };
        let shutdown = CancellationToken::new();
        let mut control_plane = ControlPlane::new(parts, &registry, shutdown.clone()).unwrap();
        control_plane.lifetimes = lifetimes;
        let address = listener.local_addr().unwrap();
        let files = TempDir::new().unwrap();
        let task = tokio::spawn(control_plane.run(listener));
        Self {
            cluster,
            records,
            authority,
            registry,
            address,
            files,
            shutdown,
            task,
        }
    }

    pub(crate) fn channel(&self) -> Channel {
        control_channel_at(self.address, "localhost", self.authority.root_pem()).unwrap()
    }

    pub(crate) fn file(&self, token: &str) -> TokenFile {
        let path = tempfile::NamedTempFile::new_in(self.files.path())
            .unwrap()
            .into_temp_path()
            .keep()
            .unwrap();
        std::fs::write(&path, token).unwrap();
        TokenFile::new(path)
    }

    /// The value of a series.
    pub(crate) fn counted(&self, series: &str) -> f64 {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Calls refused for this reason so far.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == "ambit_control_refused_total");
        let mut metrics = family.into_iter().flat_map(|family| family.get_metric());
        let of_reason = metrics.find(|metric| metric.get_label().iter().any(|label| label.value() == reason));
        of_reason.map_or(0, |metric| metric.get_counter().get_value() as u64)
    }

    pub(crate) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    pub(crate) async fn ended(self) {
        self.task.await.unwrap().unwrap();
    }
}
