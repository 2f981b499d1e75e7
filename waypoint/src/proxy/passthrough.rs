//! Connections that are no HTTP: carried as they are, where the rules allow it.

use std::sync::Arc;
use std::time::Duration;

use ambit_policy::Decision;
use ambit_policy::http::HttpRequest;
use ambit_tunnel::Meter;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::counted::Counted;
use crate::http::{ClientConnection, Target};
use crate::observe::{ConnectionRecord, Flag};
use crate::state::Endpoint;
use crate::upstream::{Destination, UpstreamIo};

/// Bytes that are read at once, each way.
const BUFFER: usize = 16 << 10;
/// Endpoints tried for one connection.
const ATTEMPTS: usize = 3;
/// How often a connection is held against policies that may have changed.
const LOOK: Duration = Duration::from_secs(2);

/// Connects `io` with an endpoint and copies both ways, `first` before the rest. Where it may not be, or no endpoint can be reached, the
/// client's stream ends.
pub(crate) async fn pass_through<IO>(client: ClientConnection, io: IO, first: Bytes)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(target) = client.target() else {
        return;
    };
    let mut record = client
        .proxy
        .observer
        .connection(&client.source, target.destination());
    let decision = decide(&client, &target);
    record.decided(&decision);
    if !decision.is_allowed() {
        return refuse(io).await;
    }
    let (mut upstream, endpoint) = match connect(&client, &target, &mut record).await {
        Ok(connected) => connected,
        Err(Unconnected::Denied) => return refuse(io).await,
        // The client sees a reset.
        Err(Unconnected::Unreachable) => return,
    };
    let copying = async {
        upstream.write_all(&first).await?;
        record.forward(first.len() as u64);
        let mut io = Counted::new(io, |bytes| record.forward(bytes));
        let mut upstream = Counted::new(upstream, |bytes| record.backward(bytes));
        tokio::io::copy_bidirectional_with_sizes(&mut io, &mut upstream, BUFFER, BUFFER).await
    };
    let ended = tokio::select! {
        // Nothing more is copied once policies deny it.
        biased;
        decision = denied(&client, &endpoint) => Err(decision),
        result = copying => Ok(result),
    };
    match ended {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => record.failed(Flag::UpstreamReset, error.to_string()),
        Err(decision) => record.decided(&decision),
    }
}

/// Decides by the rules for requests on a connection that is none.
fn decide(client: &ClientConnection, target: &Target) -> Decision {
    target.rules().evaluate(&HttpRequest {
        principal: Some(client.identity.principal()),
        attributes: None,
    })
}

/// Resolves when what was allowed is not any more.
async fn denied(client: &ClientConnection, endpoint: &Endpoint) -> Decision {
    loop {
        tokio::time::sleep(LOOK).await;
        // A service that is gone has no rules; what is open may end by itself.
        let Ok(target) = client.target() else {
            continue;
        };
        let decision = decide(client, &target);
        if !decision.is_allowed() {
            return decision;
        }
        let decision = client.decide_l4(endpoint);
        if !decision.is_allowed() {
            return decision;
        }
    }
}

/// Ends a stream that may not be. A reset might be taken for a failure of this replica, and another one be tried.
async fn refuse(mut io: impl AsyncWrite + Unpin) {
    if let Err(error) = io.shutdown().await {
        tracing::debug!(%error, "the client's stream ended first");
    }
}

enum Unconnected {
    Denied,
    Unreachable,
}

async fn connect(
    client: &ClientConnection,
    target: &Target,
    record: &mut ConnectionRecord,
) -> Result<(UpstreamIo, Endpoint), Unconnected> {
    let mut tried: Vec<Arc<str>> = Vec::new();
    loop {
        let Some(endpoint) = target.choose(&client.proxy, &tried) else {
            let rejection = target.no_endpoint();
            record.failed(rejection.flag, rejection.reason);
            return Err(Unconnected::Unreachable);
        };
        let decision = client.decide_l4(&endpoint);
        record.decided(&decision);
        if !decision.is_allowed() {
            return Err(Unconnected::Denied);
        }
        match client.proxy.upstream.connect(&Destination::of(&endpoint)).await {
            Ok(io) => {
                record.opened(&endpoint);
                return Ok((io, endpoint));
            }
            Err(failure) => {
                tried.push(Arc::clone(&endpoint.workload.uid));
                if tried.len() >= ATTEMPTS {
                    record.failed(Flag::ConnectFailure, failure.to_string());
                    return Err(Unconnected::Unreachable);
                }
            }
        }
    }
}
