//! Connections that are no HTTP: carried as they are, where the rules allow it.

use std::sync::Arc;

use ambit_policy::Connection;
use ambit_policy::http::HttpRequest;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::http::{ClientConnection, Target};
use crate::observe::{ConnectionRecord, Flag};
use crate::state::Endpoint;
use crate::upstream::{Destination, UpstreamIo};

/// Bytes that are read at once, each way.
const BUFFER: usize = 16 << 10;
/// Endpoints tried for one connection.
const ATTEMPTS: usize = 3;

/// Connects `io` with an endpoint and copies both ways, `first` before the rest. Where it may not be, or no endpoint can be reached, the
/// client's stream ends.
pub(crate) async fn pass_through<IO>(client: ClientConnection, mut io: IO, first: Bytes)
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
    let decision = target.rules().evaluate(&HttpRequest {
        principal: Some(client.identity.principal()),
        attributes: None,
    });
    record.decided(&decision);
    if !decision.is_allowed() {
        return refuse(io).await;
    }
    let (mut upstream, _endpoint) = match connect(&client, &target, &mut record).await {
        Ok(connected) => connected,
        Err(Unconnected::Denied) => return refuse(io).await,
        // The client sees a reset.
        Err(Unconnected::Unreachable) => return,
    };
    let result = async {
        upstream.write_all(&first).await?;
        upstream.flush().await?;
        tokio::io::copy_bidirectional_with_sizes(&mut io, &mut upstream, BUFFER, BUFFER).await
    };
    match result.await {
        Ok((forward, backward)) => {
            use ambit_tunnel::Meter;
            record.forward(forward + first.len() as u64);
            record.backward(backward);
        }
        Err(error) => record.failed(Flag::UpstreamReset, error.to_string()),
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
        let decision = client.proxy.state.decide_l4(
            &endpoint.workload,
            &Connection {
                principal: Some(client.identity.principal()),
                source: client.peer.ip(),
                destination: endpoint.target,
            },
        );
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
