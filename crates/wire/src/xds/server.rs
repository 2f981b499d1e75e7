mod hold;
mod subscribed;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{pending, select_all};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tracing::{debug, warn};

use subscribed::Subscribed;

use super::Collection;
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

/// The longest logged reason of a NACK, in bytes.
const LONGEST_REASON: usize = 1024;

/// Decides what each client may see.
pub trait Source: Send + Sync + 'static {
    /// The identity of a client. Its text appears in logs.
    type Client: fmt::Display + Send + Sync + 'static;

    /// The resources of a type that `client` may see. An error ends its stream.
    fn collection(&self, client: &Self::Client, type_url: &str) -> Result<Arc<Collection>, Status>;

    /// The rank of a type. Resources refer only to types of lower rank. A change in a lower rank is sent before changes
    /// that were published later in a higher rank.
    fn rank(&self, _type_url: &str) -> u8 {
        0
    }

    /// Whether removals of this type wait until the client has replied (ACK or NACK) to all changes of all its types
    /// that were published before the removal. This is for types that other types refer to.
    fn removes_last(&self, _type_url: &str) -> bool {
        false
    }

    /// The maximum of names of one type that `client` may subscribe to, or send as initial versions.
    fn most_names(&self, _client: &Self::Client) -> usize {
        usize::MAX
    }

    /// Called when a client exceeded its limit; its stream ends.
    fn limited(&self, _client: &Self::Client) {}

    /// Called for each response, with its number of resources and removals.
    fn sent(&self, _client: &Self::Client, _type_url: &str, _resources: usize) {}

    /// Called when a client has applied a response, so long after the first change in it was published.
    fn acknowledged(&self, _client: &Self::Client, _took: Duration) {}

    /// Called when a client could not apply a response; the reason has been logged.
    fn rejected(&self, _client: &Self::Client, _type_url: &str) {}
}

/// The server of delta xDS on one stream: responds to `requests` of `client` until they end, or until `shutdown`.
///
/// Each type has one response in flight at a time. Changes before its acknowledgement go into the next response. There
/// is one exception: when another type has changes, types that these may refer to (see [`Source::rank`]) are sent
/// first, at once. The order on the stream is sufficient, so no type waits for the acknowledgement of another. After a
/// NACK the client keeps its last applied version, and receives the resource again at its next change.
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
        shutdown: Box::pin(shutdown.cancelled_owned()),
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
    /// `None` after the stream has ended.
    requests: Option<R>,
    /// Lower ranks first.
    types: Vec<Subscribed>,
    nonces: u64,
    /// Waits all the time: streams that begin and end to wait with each response would contend for the token's lock.
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
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
                () = self.shutdown.as_mut() => {
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
        let most = self.source.most_names(&self.client);
        let names = request.resource_names_subscribe.len();
        let held = request.initial_resource_versions.len();
        let subscribed = self.types.iter().find(|t| t.type_url == request.type_url);
        if names + subscribed.map_or(0, Subscribed::names) > most || held > most {
            self.source.limited(&self.client);
            return Err(Status::resource_exhausted(format!(
                "{}: a client of this kind may name {most} resources",
                crate::clipped(&request.type_url, LONGEST_REASON)
            )));
        }
        let found = self.types.iter_mut().find(|t| t.type_url == request.type_url);
        let Some(subscribed) = found else {
            let collection = self.source.collection(&self.client, &request.type_url)?;
            debug!(client = %self.client, type_url = request.type_url, "subscribed");
            let rank = self.source.rank(&request.type_url);
            let removes_last = self.source.removes_last(&request.type_url);
            let place = self.types.partition_point(|t| t.rank <= rank);
            let subscribed = Subscribed::new(collection, rank, removes_last, request)?;
            self.types.insert(place, subscribed);
            return Ok(());
        };
        let answered = subscribed.acknowledge(&request.response_nonce);
        if answered.is_some() {
            subscribed.list(request.initial_resource_versions);
        }
        let refused = request.error_detail.as_ref();
        if let (Some(since), None) = (answered.as_ref().and_then(|answered| answered.since), refused) {
            self.source.acknowledged(&self.client, since.elapsed());
        }
        if let Some(error) = refused.filter(|_| answered.is_some()) {
            warn!(
                client = %self.client, type_url = request.type_url, code = error.code, reason = crate::clipped(&error.message, LONGEST_REASON),
                "the client rejected configuration and keeps the version before"
            );
            self.source.rejected(&self.client, &request.type_url);
        }
        subscribed.change(
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
        );
        Ok(())
    }

    /// The next response, if there is one to send now. Changes are sent in rounds. A round covers the changes that were
    /// published before it began, so a type that changes all the time does not delay others.
    fn respond(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        if let Some(response) = self.go_on()? {
            return Ok(Some(response));
        }
        // Types of higher rank come first here: resources that they refer to were published earlier, and so are in the
        // same round.
        self.types.iter_mut().rev().for_each(Subscribed::begin_round);
        self.go_on()
    }

    /// The next response of this round.
    fn go_on(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        loop {
            if let Some(response) = self.news()? {
                return Ok(Some(response));
            }
            if !self.release() {
                return Ok(None);
            }
        }
    }

    fn news(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        for index in 0..self.types.len() {
            if !self.types[index].has_news() {
                continue;
            }
            let rank = self.types[index].rank;
            for lower in 0..self.types.partition_point(|t| t.rank < rank) {
                if let Some(response) = self.respond_with(lower, Subscribed::go_ahead)? {
                    return Ok(Some(response));
                }
                // Something changed again since the round began, so its state as of this round cannot be sent any
                // more. A new round begins, with all types.
                if !self.types[lower].is_round_settled() {
                    return Ok(None);
                }
            }
            if let Some(response) = self.respond_with(index, Subscribed::respond)? {
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    /// Releases removals that have waited long enough. Returns whether there were any.
    fn release(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.types.len() {
            let Some(mut hold) = self.types[index].take_hold() else {
                continue;
            };
            // The type itself counts, too: when the client has replied to it, the client has subscribed to the others.
            let over = hold.is_over(&self.types);
            self.types[index].put_hold(hold, over);
            any |= over;
        }
        any
    }

    fn respond_with(
        &mut self,
        index: usize,
        respond: impl FnOnce(&mut Subscribed, u64) -> Result<Option<DeltaDiscoveryResponse>, Status>,
    ) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let response = respond(&mut self.types[index], self.nonces + 1)?;
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
    // A collection whose owner is gone never changes again, and must not cause a busy loop.
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
