//! Connections that are no HTTP: carried as they are, where the rules allow it.

use std::sync::Arc;

use ambit_hbone::Meter;
use ambit_identity::SpiffeId;
use ambit_policy::Decision;
use ambit_policy::http::HttpRequest;
use ambit_runtime::Share;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connection::{ClientConnection, Target};
use super::counted::{Counted, End, client_gone, is_clients};
use super::held::Revoked;
use super::skew;
use crate::admission::COPYING;
use crate::http::ClientStream;
use crate::http::headers::OVERLOADED;
use crate::observe::{ConnectionRecord, Flag, Refusal};
use crate::state::{Endpoint, RuleSet};
use crate::upstream::{Destination, UpstreamIo};

/// Bytes that are read at once, each way.
const BUFFER: usize = 16 << 10;
/// Endpoints tried for one connection.
const ATTEMPTS: usize = 3;

/// Connects `io` with an endpoint and copies both ways, `said` before the rest of what the client says. Where it may not be, or no
/// endpoint can be reached, the client's stream ends.
pub(crate) async fn pass_through<IO>(client: ClientConnection, io: IO, said: Bytes)
where
    IO: ClientStream,
{
    let Ok(target) = client.target() else {
        return;
    };
    let mut record = record(&client, &target);
    let decision = decide(&client, &target);
    record.decided(&decision);
    if !decision.is_allowed() {
        return refuse(io).await;
    }
    let decide = |target: &Target| decide(&client, target);
    pass_to(&client, &target, record, io, said, decide).await;
}

/// The same with an endpoint of `target`, for a connection that may be. It is ended once `decide` denies it, which is asked about the
/// service that the client connected to.
pub(super) async fn pass_to<IO>(
    client: &ClientConnection,
    target: &Target,
    mut record: ConnectionRecord,
    io: IO,
    said: Bytes,
    decide: impl Fn(&Target) -> Decision,
) where
    IO: ClientStream,
{
    match connect(client, target, Some(&mut record)).await {
        Ok(opened) => opened.carry(client, record, io, said, Bytes::new(), decide).await,
        Err(Unconnected::Denied) => refuse(io).await,
        // The client sees a reset.
        Err(Unconnected::Unreachable) => {}
    }
}

pub(super) fn record(client: &ClientConnection, target: &Target) -> ConnectionRecord {
    client
        .proxy
        .observer
        .connection(&client.source, target.destination())
}

/// Decides by the rules for requests on a connection that is none.
pub(super) fn decide(client: &ClientConnection, target: &Target) -> Decision {
    let evaluate = |rules: &RuleSet| {
        rules.evaluate(&HttpRequest {
            principal: Some(client.identity.principal()),
            attributes: None,
        })
    };
    let decision = evaluate(target.connection_rules(client.identity.namespace()));
    // What a route sends to a backend might be for any rule of the backend's own routes.
    match target.own_routes() {
        Some(own) if decision.is_allowed() => evaluate(&own.connections),
        _ => decision,
    }
}

/// Ends a stream that may not be. A reset might be taken for a failure of this replica, and another one be tried.
pub(super) async fn refuse(mut io: impl AsyncWrite + Unpin) {
    if let Err(error) = io.shutdown().await {
        tracing::debug!(%error, "the client's stream ended first");
    }
}

/// A connection to an endpoint on which nothing has been said by the client.
pub(crate) struct Opened {
    upstream: UpstreamIo,
    endpoint: Endpoint,
    /// As long as the client has said nothing.
    silent: Option<Share<SpiffeId>>,
}

impl Opened {
    /// Connects on behalf of a client that has said nothing, if it may say anything but HTTP: the endpoint may be the one to speak first.
    /// Nothing of it is recorded. Where there are as many of them as there may be, there is none for this client: it has to speak first.
    pub(crate) async fn quietly(client: &ClientConnection) -> Option<Self> {
        let target = client.target().ok()?;
        if !decide(client, &target).is_allowed() {
            return None;
        }
        let proxy = &client.proxy;
        let Some(place) = proxy.admission.silent.take(&client.identity) else {
            proxy.observer.refused(Refusal::Silent);
            return None;
        };
        let mut opened = connect(client, &target, None).await.ok()?;
        opened.silent = Some(place);
        Some(opened)
    }

    /// What the endpoint says first; nothing, when it ends.
    pub(crate) async fn hear(&mut self) -> Bytes {
        let mut heard = BytesMut::with_capacity(BUFFER);
        // An end by failure shows again when more is read.
        let _ = self.upstream.read_buf(&mut heard).await;
        heard.freeze()
    }

    /// Carries a connection that has turned out to be no HTTP.
    pub(crate) async fn pass_through<IO>(
        mut self,
        client: ClientConnection,
        io: IO,
        said: Bytes,
        heard: Bytes,
    ) where
        IO: ClientStream,
    {
        self.silent = None;
        let Ok(target) = client.target() else {
            return;
        };
        let mut record = record(&client, &target);
        let decision = decide(&client, &target);
        record.decided(&decision);
        if !decision.is_allowed() {
            return refuse(io).await;
        }
        record.opened(&self.endpoint);
        let decide = |target: &Target| decide(&client, target);
        self.carry(&client, record, io, said, heard, decide).await;
    }

    async fn carry<IO>(
        self,
        client: &ClientConnection,
        mut record: ConnectionRecord,
        io: IO,
        said: Bytes,
        heard: Bytes,
        decide: impl Fn(&Target) -> Decision,
    ) where
        IO: ClientStream,
    {
        let Self {
            upstream, endpoint, ..
        } = self;
        let Some(_held) = client.account.admit(COPYING) else {
            return record.failed(Flag::Overloaded, OVERLOADED);
        };
        let gone = io.gone();
        let copying = async {
            let mut io = Counted::new(io, End::Client, |bytes| record.forward(bytes));
            let mut upstream = Counted::new(upstream, End::Endpoint, |bytes| record.backward(bytes));
            upstream.write_all(&said).await?;
            record.forward(said.len() as u64);
            io.write_all(&heard).await?;
            record.backward(heard.len() as u64);
            tokio::io::copy_bidirectional_with_sizes(&mut io, &mut upstream, BUFFER, BUFFER).await
        };
        let ended = tokio::select! {
            // Nothing more is copied once policies deny it.
            biased;
            revoked = client.until_revoked(&endpoint, decide) => Err(revoked),
            result = copying => Ok(result),
            () = gone => Ok(Err(client_gone())),
        };
        match ended {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if is_clients(&error) => record.left(error.to_string()),
            Ok(Err(error)) => record.failed(Flag::UpstreamReset, error.to_string()),
            Err(Revoked::Denied(decision)) => record.decided(&decision),
            Err(Revoked::Unserved) => record.failed(Flag::Cut, Revoked::UNSERVED),
        }
    }
}

enum Unconnected {
    Denied,
    Unreachable,
}

async fn connect(
    client: &ClientConnection,
    target: &Target,
    mut record: Option<&mut ConnectionRecord>,
) -> Result<Opened, Unconnected> {
    let mut tried: Vec<Arc<str>> = Vec::new();
    let (mut attempts, mut leaving) = (0, None);
    loop {
        let Some(endpoint) = target.choose(&client.proxy, &tried) else {
            let rejection = target.no_endpoint();
            if let Some(record) = record {
                record.failed(rejection.flag, rejection.reason);
            }
            return Err(Unconnected::Unreachable);
        };
        let decision = client.decide_l4(&endpoint.workload, endpoint.target);
        if let Some(record) = &mut record {
            record.decided(&decision);
        }
        if !decision.is_allowed() {
            return Err(Unconnected::Denied);
        }
        if skew::has_joined(&client.proxy, target, &endpoint, &mut tried).await {
            continue;
        }
        let destination = Destination::of(&endpoint);
        let connecting = client.proxy.upstream.connect(&destination);
        attempts += 1;
        let last = attempts >= ATTEMPTS;
        match target
            .hasten(&client.proxy, &endpoint, &tried, last, connecting)
            .await
        {
            Ok(upstream) => {
                upstream.paid_by(&client.account);
                endpoint.in_use.succeeded();
                if let Some(record) = record {
                    record.opened(&endpoint);
                }
                let silent = None;
                return Ok(Opened {
                    upstream,
                    endpoint,
                    silent,
                });
            }
            Err(failure) => {
                if failure.is_absence() {
                    endpoint.in_use.failed();
                }
                if failure.is_nobody_there()
                    && (last || !target.has_another(&client.proxy, &endpoint, &tried))
                    && skew::has_left(&client.proxy, &endpoint, &mut tried, &mut leaving).await
                {
                    continue;
                }
                tried.push(Arc::clone(&endpoint.workload.uid));
                if last {
                    if let Some(record) = record {
                        record.failed(Flag::ConnectFailure, failure.to_string());
                    }
                    return Err(Unconnected::Unreachable);
                }
            }
        }
    }
}
