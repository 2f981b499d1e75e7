//! Connections that become WebSocket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::Response;
use http::header::UPGRADE;
use http::response::Parts;
use tokio::io::AsyncWriteExt;

use super::asked::Asked;
use super::connection::ClientConnection;
use super::counted::{Counted, End, client_gone, is_clients};
use super::held::Revoked;
use super::response::{Link, ResponseBody, UpstreamBody};
use super::upgrade::Upgrade;
use crate::admission::COPYING;
use crate::http::ClientStream;
use crate::observe::{Flag, RequestRecord};

/// Bytes that are read at once, each way.
const BUFFER: usize = 16 << 10;

/// Whether an endpoint agrees to WebSocket.
pub(super) fn is_answer(parts: &Parts) -> bool {
    parts
        .headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Takes the endpoint's side out of HTTP, for the connection to go on with once the client has its answer.
pub(super) async fn begin(
    client: &Arc<ClientConnection>,
    parts: Parts,
    body: UpstreamBody,
    asked: Box<Asked>,
) -> Response<ResponseBody> {
    let (link, record, from) = body.into_link();
    if let Some(Link::Http1(connection)) = link {
        let (io, first) = connection.into_upgraded().await;
        client.upgrade(Upgrade {
            io,
            first,
            record,
            asked,
            from,
        });
    }
    Response::from_parts(parts, ResponseBody::empty())
}

/// Carries bytes both ways until both have ended, or until the rules deny what they allowed before, or the time is over for which it may
/// outlive its destination: then the client's stream and the endpoint's are cut.
pub(super) async fn run<IO>(upgrade: Upgrade, client: &ClientConnection, io: IO, said: Bytes)
where
    IO: ClientStream,
{
    let gone = io.gone();
    let Upgrade {
        io: endpoint,
        first,
        record,
        asked,
        from,
    } = upgrade;
    // Too late to refuse it.
    let _held = client.account.hold_anyway(COPYING);
    let received = record
        .as_ref()
        .map(RequestRecord::request_body)
        .unwrap_or_default();
    let sent = AtomicU64::new(first.len() as u64);
    received.read_bytes(said.len() as u64);
    let copying = async {
        let mut io = Counted::new(io, End::Client, |bytes| {
            received.read_bytes(bytes);
        });
        let mut endpoint = Counted::new(endpoint, End::Endpoint, |bytes| {
            sent.fetch_add(bytes, Ordering::Relaxed);
        });
        io.write_all(&first).await?;
        endpoint.write_all(&said).await?;
        tokio::io::copy_bidirectional_with_sizes(&mut io, &mut endpoint, BUFFER, BUFFER).await
    };
    let ended = tokio::select! {
        // Nothing more is copied once policies deny it.
        biased;
        revoked = client.until_revoked(&from, |target| asked.decide_at(client, target)) => Err(revoked),
        result = copying => Ok(result),
        () = gone => Ok(Err(client_gone())),
    };
    let Some(mut record) = record else {
        return;
    };
    record.sent_bytes(sent.into_inner());
    match ended {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if is_clients(&error) => record.left(format!("WebSocket: {error}")),
        Ok(Err(error)) => record.failed(Flag::UpstreamReset, format!("WebSocket: {error}")),
        Err(Revoked::Denied(decision)) => record.decided(&decision),
        Err(Revoked::Unserved) => record.failed(Flag::Cut, Revoked::UNSERVED),
    }
    record.end();
}
