//! The streams of ztunnels, agents and waypoints: the server's half is the control plane's own, the client's half
//! acknowledges what it is sent. There is no network in between; responses are encoded, as gRPC does.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use ambit_bench::Histogram;
use ambit_operator::control::{Sources, WaypointCollections, rank, removes_last};
use ambit_operator::index::SharedIndex;
use ambit_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ambit_wire::names::{
    TYPE_ADDRESS, TYPE_AUTHORIZATION, TYPE_ENROLLED_NAMESPACE, TYPE_NODE_CONFIG, TYPE_POD_CAPTURE,
    TYPE_WAYPOINT_BACKEND, TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_ROUTE, TYPE_WAYPOINT_SERVICE,
    TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD,
};
use ambit_wire::xds::{self, Collection, HeldDigests, PartLimit};
use anyhow::Result;
use futures::StreamExt as _;
use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Histograms that clients share, so that they seldom wait for each other.
const SHARDS: usize = 16;

/// A client of the control plane.
#[derive(Clone)]
pub(crate) enum Client {
    Ztunnel(String),
    Agent(String),
    Waypoint(String, WaypointCollections),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ztunnel(node) => write!(f, "ztunnel of {node}"),
            Self::Agent(node) => write!(f, "agent of {node}"),
            Self::Waypoint(namespace, _) => write!(f, "waypoint of {namespace}"),
        }
    }
}

impl Client {
    fn types(&self) -> &'static [&'static str] {
        match self {
            Self::Ztunnel(_) => &[TYPE_ADDRESS, TYPE_AUTHORIZATION],
            Self::Agent(_) => &[TYPE_POD_CAPTURE, TYPE_ENROLLED_NAMESPACE, TYPE_NODE_CONFIG],
            Self::Waypoint(..) => &[
                TYPE_WAYPOINT_SETTINGS,
                TYPE_WAYPOINT_SERVICE,
                TYPE_WAYPOINT_ROUTE,
                TYPE_WAYPOINT_BACKEND,
                TYPE_WAYPOINT_POLICY,
                TYPE_WORKLOAD,
                TYPE_AUTHORIZATION,
            ],
        }
    }
}

/// Which collection is whose, as the control plane has it.
struct Served(Arc<SharedIndex>);

impl xds::Source for Served {
    type Client = Client;

    fn collection(&self, client: &Client, type_url: &str) -> std::result::Result<Arc<Collection>, Status> {
        Ok(match (client, type_url) {
            (Client::Ztunnel(_), TYPE_ADDRESS) => self.0.addresses(),
            (Client::Ztunnel(node), TYPE_AUTHORIZATION) => self.0.authorizations(node),
            (Client::Agent(node), TYPE_POD_CAPTURE) => self.0.pod_captures(node),
            (Client::Agent(_), TYPE_ENROLLED_NAMESPACE) => self.0.enrolled_namespaces(),
            (Client::Agent(node), TYPE_NODE_CONFIG) => self.0.node_config(node),
            (Client::Waypoint(_, own), TYPE_WAYPOINT_SETTINGS) => Arc::clone(&own.settings),
            (Client::Waypoint(_, own), TYPE_WAYPOINT_SERVICE) => Arc::clone(&own.services),
            (Client::Waypoint(_, own), TYPE_WAYPOINT_ROUTE) => Arc::clone(&own.routes),
            (Client::Waypoint(_, own), TYPE_WAYPOINT_BACKEND) => Arc::clone(&own.backends),
            (Client::Waypoint(_, own), TYPE_WAYPOINT_POLICY) => Arc::clone(&own.policies),
            (Client::Waypoint(_, own), TYPE_WORKLOAD) => Arc::clone(&own.workloads),
            (Client::Waypoint(_, own), TYPE_AUTHORIZATION) => Arc::clone(&own.authorizations),
            _ => return Err(Status::permission_denied(type_url.to_owned())),
        })
    }

    fn rank(&self, type_url: &str) -> u8 {
        rank(type_url)
    }

    fn removes_last(&self, type_url: &str) -> bool {
        removes_last(type_url)
    }
}

/// Changes of a collection, and when each was due.
pub(crate) struct Log {
    pub(crate) collection: Arc<Collection>,
    changes: RwLock<Vec<(u64, Instant)>>,
}

impl Log {
    pub(crate) fn new(collection: Arc<Collection>) -> Arc<Self> {
        Arc::new(Self {
            collection,
            changes: RwLock::default(),
        })
    }

    /// Publishes a change by `change`, which was due at `due`.
    pub(crate) fn change(&self, due: Instant, change: impl FnOnce()) {
        let before = self.collection.latest();
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        changes.push((before + 1, due));
        drop(changes);
        change();
        if self.collection.latest() == before {
            let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
            changes.pop();
        }
    }

    /// When changes up to `cursor` were due; those before `next` have been read.
    fn until(&self, cursor: u64, next: &mut usize, mut each: impl FnMut(Instant)) {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        for (_, due) in changes[*next..].iter().take_while(|(first, _)| *first <= cursor) {
            each(*due);
            *next += 1;
        }
    }
}

/// The digests of everything in `collection`, as of a client that has it from before.
pub(crate) fn held(collection: &Collection) -> Result<Vec<u8>> {
    let all = PartLimit {
        resources: usize::MAX,
        bytes: usize::MAX,
        end: u64::MAX,
    };
    let all = collection
        .changes(0, u64::MAX, |_, _| true, all)?
        .updated
        .into_iter();
    let all: Vec<_> = all.map(|r| (r.name, format!("{:016x}", r.version))).collect();
    Ok(HeldDigests::of(all.iter().map(|(name, version)| (&**name, version.as_str()))).encode())
}

/// All clients of one replica.
pub(crate) struct Clients {
    served: Arc<Served>,
    shutdown: CancellationToken,
    shared: Arc<Counted>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// What all clients count.
#[derive(Default)]
struct Counted {
    waiting: AtomicUsize,
    synced: Notify,
    bytes: AtomicU64,
    responses: AtomicU64,
    acknowledged: [Mutex<Histogram>; SHARDS],
}

impl Clients {
    pub(crate) fn new(index: Arc<SharedIndex>) -> Self {
        Self {
            served: Arc::new(Served(index)),
            shutdown: CancellationToken::new(),
            shared: Arc::default(),
            tasks: Vec::new(),
        }
    }

    /// Opens the stream of a client, which holds what `held` is of, of the type `logged`. Times until it acknowledges
    /// changes of that type, which `log` has, are recorded.
    pub(crate) fn open(&mut self, client: Client, logged: &'static str, log: Arc<Log>, held: &[u8]) {
        let (replies, requests) = mpsc::unbounded_channel();
        for type_url in client.types() {
            self.shared.waiting.fetch_add(1, Ordering::Relaxed);
            let _ = replies.send(Ok(DeltaDiscoveryRequest {
                type_url: (*type_url).to_owned(),
                held_digests: if *type_url == logged {
                    held.to_vec()
                } else {
                    Vec::new()
                },
                ..Default::default()
            }));
        }
        let served = Arc::clone(&self.served);
        let requests = UnboundedReceiverStream::new(requests);
        let mut responses = xds::serve(served, client.clone(), requests, self.shutdown.clone());
        let shard = self.tasks.len() % SHARDS;
        let shared = Arc::clone(&self.shared);
        self.tasks.push(tokio::spawn(async move {
            let mut waiting: Vec<&str> = client.types().to_vec();
            let (mut next, mut buffer) = (0, Vec::new());
            while let Some(Ok(response)) = responses.next().await {
                buffer.clear();
                // A vector has room.
                let _ = response.encode(&mut buffer);
                shared.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                shared.responses.fetch_add(1, Ordering::Relaxed);
                let DeltaDiscoveryResponse {
                    type_url,
                    nonce,
                    system_version_info,
                    ..
                } = response;
                let complete = system_version_info.parse::<u64>().ok();
                if let Some(place) = waiting
                    .iter()
                    .position(|t| complete.is_some() && **t == *type_url)
                {
                    waiting.swap_remove(place);
                    if shared.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
                        shared.synced.notify_one();
                    }
                }
                if let Some(cursor) = complete.filter(|_| type_url == logged) {
                    let now = Instant::now();
                    let mut histogram = shared.acknowledged[shard]
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    log.until(cursor, &mut next, |due| {
                        histogram.record(now.saturating_duration_since(due))
                    });
                }
                let _ = replies.send(Ok(DeltaDiscoveryRequest {
                    type_url,
                    response_nonce: nonce,
                    ..Default::default()
                }));
                if buffer.capacity() > 1 << 16 {
                    buffer = Vec::new();
                }
            }
        }));
    }

    /// Waits until every client has all that there was for it.
    pub(crate) async fn in_sync(&self) {
        while self.shared.waiting.load(Ordering::Acquire) > 0 {
            self.shared.synced.notified().await;
        }
    }

    /// Bytes of all responses so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// All responses so far.
    pub(crate) fn responses(&self) -> u64 {
        self.shared.responses.load(Ordering::Relaxed)
    }

    /// From when changes were due until they were acknowledged, of all clients.
    pub(crate) fn acknowledged(&self) -> Histogram {
        let mut all = Histogram::default();
        for shard in &self.shared.acknowledged {
            all.merge(&shard.lock().unwrap_or_else(PoisonError::into_inner));
        }
        all
    }

    /// Ends all streams.
    pub(crate) async fn close(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}
