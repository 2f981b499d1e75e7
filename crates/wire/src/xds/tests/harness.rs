//! A control plane and a client of it in one process.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use prometheus::{Registry, TextEncoder};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::TokenFile;
use crate::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use crate::xds::{
    Batch, Client, Collection, ConnectionState, Handler, Rejection, Source, Subscription, serve,
};

pub(crate) const A: &str = "type.googleapis.com/test.A";
pub(crate) const B: &str = "type.googleapis.com/test.B";

/// Serves types [`A`] and [`B`], to which resources of `A` refer; records what it saw.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) a: Arc<Collection>,
    pub(crate) b: Arc<Collection>,
    pub(crate) rejections: Mutex<Vec<String>>,
    /// How long changes took to be acknowledged.
    pub(crate) acknowledged: Mutex<Vec<Duration>>,
    /// Resources and removals sent, of all types.
    pub(crate) sent: Mutex<usize>,
    /// Versions that clients listed.
    pub(crate) listed: AtomicUsize,
    /// It does not know digests, as servers of others.
    pub(crate) without_digests: AtomicBool,
    /// The authorization of each stream.
    pub(crate) tokens: Mutex<Vec<String>>,
}

impl Source for Fake {
    type Client = String;

    fn collection(&self, client: &String, type_url: &str) -> Result<Arc<Collection>, Status> {
        match type_url {
            A => Ok(Arc::clone(&self.a)),
            B => Ok(Arc::clone(&self.b)),
            other => Err(Status::permission_denied(format!(
                "{client} may not have {other}"
            ))),
        }
    }

    fn rank(&self, type_url: &str) -> u8 {
        (type_url == A).into()
    }

    fn removes_last(&self, type_url: &str) -> bool {
        type_url == B
    }

    fn sent(&self, _client: &String, _type_url: &str, resources: usize) {
        *self.sent.lock().unwrap() += resources;
    }

    fn acknowledged(&self, _client: &String, took: Duration) {
        self.acknowledged.lock().unwrap().push(took);
    }

    fn rejected(&self, _client: &String, type_url: &str) {
        self.rejections.lock().unwrap().push(type_url.to_owned());
    }
}

struct Service {
    fake: Arc<Fake>,
    shutdown: CancellationToken,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        self.fake.tokens.lock().unwrap().push(token);
        let (fake, shutdown) = (Arc::clone(&self.fake), self.shutdown.clone());
        let requests = request.into_inner().map(move |request| {
            let mut request = request?;
            let listed = request.initial_resource_versions.len();
            fake.listed.fetch_add(listed, Ordering::Relaxed);
            if fake.without_digests.load(Ordering::Relaxed) {
                request.held_digests.clear();
            }
            Ok(request)
        });
        Ok(Response::new(serve(
            Arc::clone(&self.fake),
            "test client".to_owned(),
            requests,
            shutdown,
        )))
    }
}

/// A server that can be stopped, and started again at the same address.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl ControlPlane {
    pub(crate) async fn start(fake: &Arc<Fake>, at: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(at.unwrap_or(([127, 0, 0, 1], 0).into()))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let service = Service {
            fake: Arc::clone(fake),
            shutdown: shutdown.clone(),
        };
        let until = shutdown.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            Server::builder()
                .add_service(
                    AggregatedDiscoveryServiceServer::new(service).max_decoding_message_size(64 << 20),
                )
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), until)
                .await
                .unwrap();
        });
        Self {
            address,
            shutdown,
            task,
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// Rejects resources whose content is "bad"; passes every batch on.
struct Recorder(mpsc::UnboundedSender<Batch>);

impl Handler for Recorder {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejection> {
        let bad = batch.added.iter().filter(|r| r.bytes == b"bad");
        let rejections = bad
            .map(|r| Rejection {
                name: r.name.clone(),
                reason: "content is bad".into(),
            })
            .collect();
        self.0.send(batch).unwrap();
        rejections
    }
}

pub(crate) struct TestClient {
    pub(crate) batches: mpsc::UnboundedReceiver<Batch>,
    pub(crate) state: watch::Receiver<ConnectionState>,
    pub(crate) token: NamedTempFile,
    registry: Registry,
    shutdown: CancellationToken,
}

impl TestClient {
    pub(crate) fn start(server: SocketAddr, subscriptions: Vec<Subscription>) -> Self {
        let channel = Endpoint::from_shared(format!("http://{server}"))
            .unwrap()
            .connect_lazy();
        let token = NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "first\n").unwrap();
        let (sender, batches) = mpsc::unbounded_channel();
        let file = TokenFile::new(token.path());
        let mut client = Client::new(channel, file, Node::default(), subscriptions, Recorder(sender));
        let registry = Registry::new();
        client.register(&registry).unwrap();
        let (state, shutdown) = (client.state(), CancellationToken::new());
        tokio::spawn(client.run(shutdown.clone()));
        Self {
            batches,
            state,
            token,
            registry,
            shutdown,
        }
    }

    /// The value of a series.
    pub(crate) fn counted(&self, series: &str) -> u64 {
        let text = TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap();
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {series} in {text}"))
            .parse()
            .unwrap()
    }

    pub(crate) async fn batch(&mut self) -> Batch {
        self.batches.recv().await.unwrap()
    }

    /// The next response's type, resources (name to content) and removals.
    pub(crate) async fn next(&mut self) -> (String, BTreeMap<String, String>, Vec<String>) {
        let batch = self.batch().await;
        let added = batch
            .added
            .into_iter()
            .map(|r| (r.name, String::from_utf8(r.bytes).unwrap()));
        (batch.type_url, added.collect(), batch.removed)
    }

    pub(crate) async fn wait_connected(&mut self, connected: bool) {
        self.state
            .wait_for(|state| state.is_connected() == connected)
            .await
            .unwrap();
    }
}

impl Drop for TestClient {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn resources(from: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    from.iter()
        .map(|(name, content)| ((*name).into(), (*content).into()))
        .collect()
}

pub(crate) fn map(from: &[(&str, &str)]) -> BTreeMap<String, String> {
    from.iter()
        .map(|(name, content)| ((*name).into(), (*content).into()))
        .collect::<HashMap<_, _>>()
        .into_iter()
        .collect()
}
