//! Connections that become WebSocket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::Response;
use http::header::UPGRADE;
use http::response::Parts;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::connection::ClientConnection;
use super::response::{Link, ResponseBody, UpstreamBody};
use crate::observe::{Flag, RequestRecord};
use crate::proxy::Counted;
use crate::upstream::UpstreamIo;

/// Bytes that are read at once, each way.
const BUFFER: usize = 16 << 10;

/// An endpoint's side of an upgraded connection, which waits for the client's side.
pub(super) struct Upgrade {
    io: UpstreamIo,
    /// What the endpoint said already.
    first: Bytes,
    record: Option<RequestRecord>,
}

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
) -> Response<ResponseBody> {
    let (link, record) = body.into_link();
    if let Some(Link::Http1(connection)) = link {
        let (io, first) = connection.into_upgraded().await;
        client.upgrade(Upgrade { io, first, record });
    }
    Response::from_parts(parts, ResponseBody::empty())
}

impl Upgrade {
    /// Carries bytes both ways until both have ended.
    pub(super) async fn run<IO: AsyncRead + AsyncWrite + Unpin>(self, mut client: IO, said: Bytes) {
        let Self {
            io: mut endpoint,
            first,
            record,
        } = self;
        let received = record.as_ref().map(RequestRecord::received).unwrap_or_default();
        let sent = AtomicU64::new(first.len() as u64);
        received.fetch_add(said.len() as u64, Ordering::Relaxed);
        let result = async {
            client.write_all(&first).await?;
            endpoint.write_all(&said).await?;
            let mut client = Counted::new(client, |bytes| {
                received.fetch_add(bytes, Ordering::Relaxed);
            });
            let mut endpoint = Counted::new(endpoint, |bytes| {
                sent.fetch_add(bytes, Ordering::Relaxed);
            });
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER).await
        }
        .await;
        let Some(mut record) = record else {
            return;
        };
        record.sent(sent.into_inner());
        if let Err(error) = result {
            record.failed(Flag::UpstreamReset, format!("WebSocket: {error}"));
        }
        record.end();
    }
}
