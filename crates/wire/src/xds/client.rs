use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::future::Future;
use std::time::Duration;

use prometheus::Registry;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::PARTIAL;
use super::client_metrics::{ClientMetrics, Termination};
use super::digest::{HeldDigests, bucket};
use crate::control_channel::TokenFile;
use crate::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// The maximum size of a response: foreign control planes send everything in one.
const MAX_RESPONSE: usize = 512 << 20;
/// A client that holds fewer resources lists them at once.
const FEWEST_IN_DIGESTS: usize = 1_024;
/// Resources that a NACK lists by name; further ones are counted.
const NAMES_IN_NACK: usize = 20;

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The resources' type.
    pub type_url: String,
    /// Their names; `None` for all resources of the type.
    pub names: Option<Vec<String>>,
}

impl Subscription {
    /// All resources of the type.
    pub fn wildcard(type_url: impl Into<String>) -> Self {
        Self {
            type_url: type_url.into(),
            names: None,
        }
    }
}

/// A new or changed resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// The server's version of it.
    pub version: String,
    /// The encoded message.
    pub bytes: Vec<u8>,
}

/// One response of the server: changes of one type, to be applied together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The resources' type.
    pub type_url: String,
    /// New and changed resources.
    pub added: Vec<Resource>,
    /// Names of removed resources. Some may never have existed here.
    pub removed: Vec<String>,
    /// Whether the client is up to date after this batch, as far as the server knows; otherwise more follows at once.
    /// An Ambit server splits large responses; every response of a foreign server is complete.
    pub complete: bool,
}

/// A rejected resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its name.
    pub name: String,
    /// The reason.
    pub reason: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// The receiver of what the control plane sends.
pub trait Handler: Send {
    /// Applies a batch, and returns the rejected resources. Their last applied versions must stay in force. All other
    /// resources of the batch count as applied.
    fn apply(&mut self, batch: Batch) -> impl Future<Output = Vec<Rejection>> + Send;
}

/// The state of the connection to the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// A stream is open, and the server has responded on it.
    Connected,
    /// No server has responded since the stream was lost, or since the start. `error` is the reason of the latest
    /// failure.
    Disconnected {
        /// Failed attempts in a row.
        attempts: u32,
        /// The reason of the latest failure.
        error: Option<String>,
    },
}

impl ConnectionState {
    /// Whether a control plane responds.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected)
    }
}

/// The client of delta xDS. It keeps one ADS stream open, subscribes to several types on it, and passes received
/// resources to a
/// [`Handler`]. After a loss it reconnects (exponential backoff with jitter, at most 5 s) and sends the versions that
/// it has, so that the server sends only differences.
pub struct Client<H> {
    service: AggregatedDiscoveryServiceClient<InterceptedService<Channel, TokenFile>>,
    node: Node,
    types: Vec<Type>,
    handler: H,
    state: watch::Sender<ConnectionState>,
    metrics: Option<ClientMetrics>,
}

struct Type {
    subscription: Subscription,
    /// Applied resources: name to version. A resource that was rejected the first time has an empty version, which no
    /// server uses: a fallback may be in force for it, so the server must report its removal.
    held: HashMap<String, String>,
    comparing: Comparing,
}

/// Whether the server has compared the digests that it was sent on this stream.
#[derive(Default)]
enum Comparing {
    #[default]
    No,
    /// They were sent, so many.
    Sent(usize),
    /// The server does not know digests, and sends everything: these have not been sent so far.
    Unconfirmed(HashSet<String>),
}

impl<H: Handler> Client<H> {
    /// A client that subscribes over `channel`, authenticated by `token`, as `node`.
    pub fn new(
        channel: Channel,
        token: TokenFile,
        node: Node,
        subscriptions: impl IntoIterator<Item = Subscription>,
        handler: H,
    ) -> Self {
        let types = subscriptions
            .into_iter()
            .map(|subscription| Type {
                subscription,
                held: HashMap::new(),
                comparing: Comparing::No,
            })
            .collect();
        Self {
            service: AggregatedDiscoveryServiceClient::with_interceptor(channel, token)
                .max_decoding_message_size(MAX_RESPONSE),
            node,
            types,
            handler,
            state: watch::Sender::new(ConnectionState::Disconnected {
                attempts: 0,
                error: None,
            }),
            metrics: None,
        }
    }

    /// Counts messages, their bytes and ends of streams in `registry`.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn register(&mut self, registry: &Registry) -> Result<(), prometheus::Error> {
        let types = self.types.iter().map(|t| t.subscription.type_url.as_str());
        self.metrics = Some(ClientMetrics::register(registry, types)?);
        Ok(())
    }

    /// The state of the connection, with its changes.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.subscribe()
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut attempts = 0;
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.stream() => ended,
            };
            let answered = self.state.borrow().is_connected();
            if answered {
                attempts = 0;
            }
            if let Some(metrics) = &self.metrics {
                metrics.terminated(Termination::of(&ended, answered));
            }
            attempts += 1;
            let delay = delay(attempts);
            warn!(error = describe(&ended), attempts, retry_in = ?delay, "no stream to the control plane");
            self.state.send_replace(ConnectionState::Disconnected {
                attempts,
                error: Some(describe(&ended)),
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// One stream, until it ends.
    async fn stream(&mut self) -> Status {
        let (requests, outgoing) = mpsc::channel(self.types.len() * 2 + 1);
        for (index, t) in self.types.iter_mut().enumerate() {
            let first = t.first_request((index == 0).then(|| self.node.clone()));
            if requests.send(first).await.is_err() {
                return Status::cancelled("the stream ended before it began");
            }
        }
        let mut responses = match self
            .service
            .delta_aggregated_resources(ReceiverStream::new(outgoing))
            .await
        {
            Ok(responses) => responses.into_inner(),
            Err(status) => return status,
        };
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Status::new(Code::Ok, "the control plane ended the stream"),
                Err(status) => return status,
            };
            if !self.state.borrow().is_connected() {
                info!("the control plane responds");
                self.state.send_replace(ConnectionState::Connected);
            }
            let Some(answer) = self.apply(response).await else {
                continue;
            };
            if requests.send(answer).await.is_err() {
                return Status::unavailable("the control plane closed its side");
            }
        }
    }

    /// Applies a response, and returns the reply.
    async fn apply(&mut self, response: DeltaDiscoveryResponse) -> Option<DeltaDiscoveryRequest> {
        let bytes = response.encoded_len();
        let DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url,
            mut removed_resources,
            nonce,
            comparison,
        } = response;
        let Some(t) = self
            .types
            .iter_mut()
            .find(|t| t.subscription.type_url == type_url)
        else {
            warn!(type_url, "the control plane sent a type without a subscription");
            return None;
        };
        if let Some(metrics) = &self.metrics {
            metrics.received(&type_url, bytes);
        }
        debug!(
            type_url,
            added = resources.len(),
            removed = removed_resources.len(),
            "configuration received"
        );
        let added: Vec<_> = resources.into_iter().map(Resource::from).collect();
        let versions: Vec<_> = added
            .iter()
            .map(|r| (r.name.clone(), r.version.clone()))
            .collect();
        let complete = system_version_info != PARTIAL;
        let listed = match comparison {
            Some(comparison) => t.listed(&comparison.differing),
            None => HashMap::new(),
        };
        removed_resources.extend(t.unconfirmed(&versions, complete));
        for name in &removed_resources {
            t.held.remove(name);
        }
        let batch = Batch {
            type_url: type_url.clone(),
            added,
            removed: removed_resources,
            complete,
        };
        let rejections = self.handler.apply(batch).await;
        for (name, version) in versions {
            if rejections.iter().any(|r| r.name == name) {
                t.held.entry(name).or_default();
            } else {
                t.held.insert(name, version);
            }
        }
        let error_detail = (!rejections.is_empty()).then(|| {
            for rejection in &rejections {
                warn!(
                    type_url,
                    resource = rejection.name,
                    reason = rejection.reason,
                    "configuration rejected"
                );
            }
            nack(&rejections)
        });
        Some(DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail,
            initial_resource_versions: listed.into_iter().collect(),
            ..Default::default()
        })
    }
}

impl Type {
    fn first_request(&mut self, node: Option<Node>) -> DeltaDiscoveryRequest {
        let mut request = DeltaDiscoveryRequest {
            node,
            type_url: self.subscription.type_url.clone(),
            resource_names_subscribe: self.subscription.names.clone().unwrap_or_default(),
            ..Default::default()
        };
        let held = self.held.iter();
        self.comparing = Comparing::No;
        if self.subscription.names.is_none() && held.len() >= FEWEST_IN_DIGESTS {
            let digests = HeldDigests::of(held.map(|(name, version)| (name.as_str(), version.as_str())));
            self.comparing = Comparing::Sent(digests.buckets());
            request.held_digests = digests.encode();
        } else {
            request.initial_resource_versions = held.map(|(n, v)| (n.clone(), v.clone())).collect();
        }
        request
    }

    /// What the client holds in the buckets that differ.
    fn listed(&mut self, differing: &[u32]) -> HashMap<String, String> {
        let Comparing::Sent(buckets) = std::mem::take(&mut self.comparing) else {
            return HashMap::new();
        };
        let differing: HashSet<usize> = differing.iter().map(|bucket| *bucket as usize).collect();
        if differing.is_empty() {
            return HashMap::new();
        }
        let held = self.held.iter();
        let listed = held.filter(|(name, _)| differing.contains(&bucket(name, buckets)));
        listed.map(|(n, v)| (n.clone(), v.clone())).collect()
    }

    /// Names that a server which does not know digests has not sent, once it has sent everything.
    fn unconfirmed(&mut self, versions: &[(String, String)], complete: bool) -> Vec<String> {
        if matches!(self.comparing, Comparing::Sent(_)) {
            self.comparing = Comparing::Unconfirmed(self.held.keys().cloned().collect());
        }
        let Comparing::Unconfirmed(names) = &mut self.comparing else {
            return Vec::new();
        };
        for (name, _) in versions {
            names.remove(name);
        }
        if !complete {
            return Vec::new();
        }
        let gone = std::mem::take(names).into_iter().collect();
        self.comparing = Comparing::No;
        gone
    }
}

impl From<discovery::Resource> for Resource {
    fn from(from: discovery::Resource) -> Self {
        Self {
            name: from.name,
            version: from.version,
            bytes: from.resource.map(|any| any.value).unwrap_or_default(),
        }
    }
}

fn nack(rejections: &[Rejection]) -> discovery::Status {
    let mut message = String::new();
    for rejection in rejections.iter().take(NAMES_IN_NACK) {
        let separator = if message.is_empty() { "" } else { "; " };
        // Writing to a string cannot fail.
        let _ = write!(message, "{separator}{rejection}");
    }
    if let Some(more) = rejections.len().checked_sub(NAMES_IN_NACK + 1) {
        let _ = write!(message, "; and {} more", more + 1);
    }
    discovery::Status {
        code: Code::InvalidArgument as i32,
        message,
    }
}

/// A random delay between a half and the whole of a value that doubles with each attempt.
fn delay(attempts: u32) -> Duration {
    let whole = FIRST_DELAY
        .saturating_mul(1 << (attempts - 1).min(10))
        .min(LONGEST_DELAY);
    whole.mul_f64(rand::random_range(0.5..=1.0))
}

/// The status with its causes, which tonic omits from its own text.
fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let this = error.to_string();
        if !text.contains(&this) {
            let _ = write!(text, ": {this}");
        }
        cause = error.source();
    }
    text
}
