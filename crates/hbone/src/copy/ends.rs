//! How copies end, and what they tell of.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// After one side has failed, what it said before is still passed on; the other side gets this long to take it.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);

/// Told of every chunk copied.
pub trait Meter: Sync {
    /// Bytes of the first argument of a copy that went to the second.
    fn forward(&self, bytes: u64);
    /// Bytes that came back.
    fn backward(&self, bytes: u64);
}

/// What the two directions of a copy tell each other.
#[derive(Default)]
pub(super) struct Ends {
    /// The stream's receiving half has ended.
    pub(super) received_all: AtomicBool,
    /// The TCP connection has failed: an end of what is read from it is no end of what was meant to be said.
    pub(super) tcp_failed: AtomicBool,
}

/// Resolves when a connection has failed, even while it is neither read nor written, as while it is half-closed.
pub(super) async fn gone(socket: &TcpStream) {
    if socket.ready(Interest::ERROR).await.is_err() {
        // The runtime is going.
        std::future::pending::<()>().await;
    }
}

/// Why a connection has failed.
pub(super) fn failure(socket: &TcpStream) -> io::Error {
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => error,
        // Somebody else has been told.
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}
