//! The server without TLS, for tests of what it makes of bytes, and a way to run h2spec against a server.

pub mod h2spec;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::{HboneConfig, HboneHandler, Http2Error, server};

/// As [`serve_hbone`](crate::serve_hbone), for a peer that nobody has authenticated.
///
/// # Errors
/// When the connection fails or breaks the protocol.
pub async fn serve_unauthenticated<IO, H>(
    io: IO,
    config: &HboneConfig,
    drain: CancellationToken,
    handler: Arc<H>,
) -> Result<(), Http2Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    H: HboneHandler,
{
    let expires = SystemTime::now() + Duration::from_secs(24 * 3600);
    server::serve(io, expires, Arc::default(), config, drain, handler).await
}
