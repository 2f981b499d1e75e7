use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use futures::future::{pending, select_all};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, Stream, StreamExt as _};
use prost_types::Any;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{debug, warn};

use super::{Collection, PARTIAL, PartLimit, StoredResource};
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// One response holds at most so much (one resource may exceed the bytes).
const PART: PartLimit = PartLimit {
    resources: 5_000,
    bytes: 2 << 20,
};
const WILDCARD: &str = "*";

/// Decides what each client may see.
pub trait Source: Send + Sync + 'static {
    /// Who a client is; its text stands in logs.
    type Client: fmt::Display + Send + Sync + 'static;

    /// The resources of a type that `client` may see. An error ends its stream.
    fn collection(&self, client: &Self::Client, type_url: &str) -> Result<Arc<Collection>, Status>;

    /// Whether removals of this type are told only when the client is up to date in all its other types: for types that others refer
    /// to.
    fn removes_last(&self, _type_url: &str) -> bool {
        false
    }

    /// Called for each response: so many resources and removals of the type are on their way.
    fn sent(&self, _client: &Self::Client, _type_url: &str, _resources: usize) {}

    /// Called when a client could not apply a response; the reason has been logged.
    fn rejected(&self, _client: &Self::Client, _type_url: &str) {}
}

/// The server half of delta xDS on one stream: answers `requests` of `client`, until they end or `shutdown`.
///
/// Of each type one response at a time is under way; what changes until the client has acknowledged it goes into the next one. After a
/// NACK the client keeps what it has, and gets the resource again when it next changes.
pub fn serve<S: Source>(
    source: Arc<S>,
    client: S::Client,
    requests: impl Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Send + Unpin + 'static,
    shutdown: CancellationToken,
) -> BoxStream<'static, Result<DeltaDiscoveryResponse, Status>> {
    let session = Session {
        source,
        client,
        requests: Some(requests),
        types: Vec::new(),
        nonces: 0,
        shutdown,
    };
    stream::unfold(session, |mut session| async move {
        let next = session.next().await?;
        Some((next, session))
    })
    .boxed()
}

struct Session<S: Source, R> {
    source: Arc<S>,
    client: S::Client,
    /// `None` once the stream is over.
    requests: Option<R>,
    types: Vec<Subscribed>,
    nonces: u64,
    shutdown: CancellationToken,
}

impl<S, R> Session<S, R>
where
    S: Source,
    R: Stream<Item = Result<DeltaDiscoveryRequest, Status>> + Unpin,
{
    async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        loop {
            self.requests.as_ref()?;
            match self.respond() {
                Ok(None) => {}
                Ok(Some(response)) => return Some(Ok(response)),
                Err(status) => return self.end(status),
            }
            let Some(requests) = &mut self.requests else {
                return None;
            };
            let request = tokio::select! {
                request = requests.next() => Some(request?),
                () = any_changed(&mut self.types) => None,
                () = self.shutdown.cancelled() => {
                    return self.end(Status::unavailable("the control plane is shutting down"));
                }
            };
            match request
                .transpose()
                .and_then(|request| request.map_or(Ok(()), |r| self.take(r)))
            {
                Ok(()) => {}
                Err(status) => return self.end(status),
            }
        }
    }

    fn end(&mut self, status: Status) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        self.requests = None;
        Some(Err(status))
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let found = self.types.iter_mut().find(|t| t.type_url == request.type_url);
        let Some(subscribed) = found else {
            let collection = self.source.collection(&self.client, &request.type_url)?;
            debug!(client = %self.client, type_url = request.type_url, "subscribed");
            self.types.push(Subscribed::new(collection, request));
            return Ok(());
        };
        if subscribed.awaits(&request.response_nonce) {
            subscribed.outstanding = None;
            if let Some(error) = &request.error_detail {
                warn!(
                    client = %self.client, type_url = request.type_url, code = error.code, reason = error.message,
                    "the client rejected configuration and keeps what it had"
                );
                self.source.rejected(&self.client, &request.type_url);
            }
        }
        subscribed.change(
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
        );
        Ok(())
    }

    fn respond(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        for index in 0..self.types.len() {
            let removals = !self.source.removes_last(&self.types[index].type_url);
            if let Some(response) = self.respond_with(index, removals)? {
                return Ok(Some(response));
            }
        }
        for index in 0..self.types.len() {
            let mut others = self.types.iter().enumerate().filter(|(other, _)| *other != index);
            if !self.types[index].gone.is_empty()
                && others.all(|(_, other)| other.is_settled())
                && let Some(response) = self.respond_with(index, true)?
            {
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    fn respond_with(
        &mut self,
        index: usize,
        removals: bool,
    ) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let nonce = (self.nonces + 1).to_string();
        let response = self.types[index].respond(nonce, removals)?;
        if let Some(response) = &response {
            self.nonces += 1;
            let count = response.resources.len() + response.removed_resources.len();
            self.source.sent(&self.client, &response.type_url, count);
        }
        Ok(response)
    }
}

async fn any_changed(types: &mut [Subscribed]) {
    if types.is_empty() {
        return pending().await;
    }
    // A collection that will never change again (its owner is gone) must not spin.
    let waits = types.iter_mut().map(|t| {
        async {
            if t.changed.changed().await.is_err() {
                pending::<()>().await;
            }
        }
        .boxed()
    });
    select_all(waits).await;
}

/// The state of one type on one stream.
struct Subscribed {
    type_url: String,
    collection: Arc<Collection>,
    changed: watch::Receiver<u64>,
    wildcard: bool,
    names: HashSet<String>,
    /// Names subscribed to that have not been answered yet.
    unanswered: BTreeSet<String>,
    /// What the client said it holds, until it has been compared.
    held: HashMap<String, Option<u64>>,
    /// Removals to tell.
    gone: VecDeque<String>,
    /// Position in the collection's changes; `None` until the collection was ready.
    position: Option<Position>,
    /// Nonce of the response the client has not acknowledged.
    outstanding: Option<String>,
    /// Whether anything has been sent; the first response is sent even if it is empty.
    answered: bool,
}

struct Position {
    cursor: u64,
    /// Removals up to here were told by comparison with what the client holds.
    start: u64,
}

impl Subscribed {
    fn new(collection: Arc<Collection>, request: DeltaDiscoveryRequest) -> Self {
        let held = request.initial_resource_versions.into_iter();
        let mut subscribed = Self {
            type_url: request.type_url,
            changed: collection.subscribe(),
            collection,
            wildcard: request.resource_names_subscribe.is_empty(),
            names: HashSet::new(),
            unanswered: BTreeSet::new(),
            held: held
                .map(|(name, version)| (name, parse_version(&version)))
                .collect(),
            gone: VecDeque::new(),
            position: None,
            outstanding: None,
            answered: false,
        };
        subscribed.change(
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
        );
        subscribed
    }

    fn awaits(&self, nonce: &str) -> bool {
        self.outstanding.as_deref() == Some(nonce)
    }

    fn change(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        for name in subscribe {
            if name == WILDCARD {
                if !self.wildcard {
                    self.wildcard = true;
                    // From the beginning; `start` stays, so that removals of what was sent by name are still told.
                    if let Some(position) = &mut self.position {
                        position.cursor = 0;
                    }
                }
            } else if self.names.insert(name.clone()) {
                self.unanswered.insert(name);
            }
        }
        for name in unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            } else {
                self.names.remove(&name);
                self.unanswered.remove(&name);
            }
        }
    }

    /// Whether the client has acknowledged all there is, but for removals.
    fn is_settled(&self) -> bool {
        let caught_up = self
            .position
            .as_ref()
            .is_some_and(|p| p.cursor >= self.collection.latest());
        self.outstanding.is_none() && self.unanswered.is_empty() && caught_up
    }

    fn respond(&mut self, nonce: String, removals: bool) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        if self.outstanding.is_some() || !self.collection.is_ready() {
            return Ok(None);
        }
        self.changed.mark_unchanged();
        let (cursor, start) = self.position();
        let mut updated = self.answer_names();
        let subscribed = |name: &str| self.wildcard || self.names.contains(name);
        let wanted = |name: &str, version: Option<u64>| {
            subscribed(name) && (version.is_none() || self.held.get(name).copied().flatten() != version)
        };
        let limit = PartLimit {
            resources: PART.resources - updated.len(),
            bytes: PART.bytes,
        };
        let changes = self
            .collection
            .changes(cursor, start, wanted, limit)
            .map_err(|_| {
                Status::aborted("the client is too slow to follow the changes: open the stream again")
            })?;
        self.position = Some(Position {
            cursor: changes.cursor,
            start,
        });
        updated.extend(changes.updated);
        for name in updated
            .iter()
            .map(|r| &*r.name)
            .chain(changes.removed.iter().map(AsRef::as_ref))
        {
            self.held.remove(name);
        }
        if !self.gone.is_empty() {
            // Told as gone, but there again.
            let again: HashSet<&str> = updated.iter().map(|r| &*r.name).collect();
            self.gone.retain(|name| !again.contains(name.as_str()));
        }
        self.gone.extend(changes.removed.iter().map(ToString::to_string));
        let room = if removals {
            PART.resources.saturating_sub(updated.len())
        } else {
            0
        };
        let removed: Vec<_> = self.gone.drain(..room.min(self.gone.len())).collect();
        let complete = changes.complete && self.unanswered.is_empty() && (self.gone.is_empty() || !removals);
        if complete {
            self.held = HashMap::new();
        }
        if updated.is_empty() && removed.is_empty() && self.answered {
            return Ok(None);
        }
        self.answered = true;
        self.outstanding = Some(nonce.clone());
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: if complete {
                changes.cursor.to_string()
            } else {
                PARTIAL.to_owned()
            },
            resources: updated.into_iter().map(|r| self.encode(r)).collect(),
            type_url: self.type_url.clone(),
            removed_resources: removed,
            nonce,
        }))
    }

    /// Where this type stands; at the first call, compares what the client holds.
    fn position(&mut self) -> (u64, u64) {
        if let Some(Position { cursor, start }) = self.position {
            return (cursor, start);
        }
        let (gone, latest) = self.collection.absent(self.held.keys().map(String::as_str));
        let wanted = gone
            .into_iter()
            .filter(|name| self.wildcard || self.names.contains(name));
        self.gone = wanted.collect();
        // Names are answered one by one; only a wildcard goes through the whole collection.
        (if self.wildcard { 0 } else { latest }, latest)
    }

    /// What is now known under the names newly subscribed to; those without a resource count as removed.
    fn answer_names(&mut self) -> Vec<StoredResource> {
        let (mut updated, mut bytes) = (Vec::new(), 0);
        while updated.len() < PART.resources && bytes < PART.bytes {
            let Some(name) = self.unanswered.pop_first() else {
                break;
            };
            match self.collection.get(&name) {
                Some(stored) if self.held.get(&name).copied().flatten() == Some(stored.version) => {}
                Some(stored) => {
                    bytes += stored.bytes.len();
                    updated.push(stored);
                }
                None if self.gone.contains(&name) => {}
                None => self.gone.push_back(name),
            }
        }
        updated
    }

    fn encode(&self, stored: StoredResource) -> Resource {
        Resource {
            name: stored.name.to_string(),
            version: format!("{:016x}", stored.version),
            resource: Some(Any {
                type_url: self.type_url.clone(),
                value: stored.bytes.to_vec(),
            }),
            aliases: Vec::new(),
        }
    }
}

/// `None` for a version that is not of this server's making.
fn parse_version(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
