//! HBONE: HTTP/2 CONNECT streams in mutual TLS.
//!
//! [`HbonePool`] opens CONNECT streams over pooled connections; [`serve_hbone`] accepts them; [`copy_tunnel`] joins a stream with
//! a TCP connection.

mod account;
mod backlog;
mod client;
mod copy;
mod error;
mod gather;
mod inflow;
mod io;
mod keepalive;
mod memory;
mod outgoing;
mod pace;
mod places;
mod pool;
mod receiver;
mod server;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
mod turns;
mod windows;

use std::time::Duration;

pub use account::{Account, Payer};
pub use backlog::Backlog;
pub use copy::{Meter, RefusedTcp, copy_tcp, copy_tcp_unless_refused, copy_tunnel, copy_tunnel_after};
pub use error::{ConnectError, CopyError, ErrorCode, Http2Error, OpenError, StateError};
pub use inflow::Gone;
pub use io::HboneIo;
pub use memory::{Borrower, MemoryBudget};
pub use pool::{HbonePool, PoolKey};
pub use server::{ConnectRequest, HboneHandler, RequestRefusal, serve_hbone};
pub use stream::HboneStream;
pub use turns::{Absorb, Turning, Turns};

/// The window of every connection: the most that HTTP/2 allows, so that only streams are held back.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How HBONE connections behave; the defaults are in each field's text.
#[derive(Debug, Clone)]
pub struct HboneConfig {
    /// Largest flow-control window of a stream in bytes: what waits for one slow reader. By right a stream has HTTP/2's own of 64 KiB less one
    /// byte; what is more is borrowed from `memory`, once it is needed. Default 256 KiB.
    ///
    /// The connection has no window of its own: streams that share it are strangers to each other, and one whose reader stalls must not
    /// hold up another.
    pub stream_window: u32,
    /// Largest DATA frame accepted in bytes. Default 1 MiB.
    pub max_frame_size: u32,
    /// Bytes of a stream that wait for the connection to take them. Default 256 KiB.
    pub send_buffer: usize,
    /// What is borrowed for wide windows and long queues. Default: 256 MiB.
    pub memory: MemoryBudget,
    /// Streams on a connection before the client opens another one, and most that the server accepts twice over.
    /// Default 100.
    pub max_streams: u32,
    /// How long a connection without streams stays in the pool. Default 5 min.
    pub idle_timeout: Duration,
    /// Between PINGs. Default 10 s.
    pub ping_interval: Duration,
    /// A connection whose PING is not answered for so long is closed. Default 20 s.
    pub ping_timeout: Duration,
    /// For connecting, the TLS handshake and HTTP/2's preface together. Default 10 s.
    pub connect_timeout: Duration,
    /// For the answer to a CONNECT (the destination's proxy connects to the application meanwhile). Default 12 s.
    pub response_timeout: Duration,
}

impl Default for HboneConfig {
    fn default() -> Self {
        Self {
            stream_window: 256 << 10,
            max_frame_size: 1 << 20,
            send_buffer: 256 << 10,
            memory: MemoryBudget::new(256 << 20),
            max_streams: 100,
            idle_timeout: Duration::from_secs(300),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(12),
        }
    }
}

impl HboneConfig {
    /// What h2 may spend on small DATA frames that nobody has read, at 256 bytes a frame less what it carries; past it, it ends the
    /// connection (ENHANCE_YOUR_CALM). A frame takes some 270 bytes of memory besides. [`copy_tunnel`] takes frames out of h2 at every
    /// turn, however slow the reader; those that a [`HboneIo`] has not read, or that come before a CONNECT is answered, do count.
    /// h2's default, half the connection window, does not fit a connection without one; this covers a full window of frames of 52
    /// bytes on 16 streams.
    fn data_frame_budget(&self) -> usize {
        (self.stream_window as usize).saturating_mul(64)
    }
}
