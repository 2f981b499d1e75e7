//! What a client's connection may cost.

use std::time::Duration;

/// Bytes of a request's fields, and of HTTP/2's header list; more are answered with 431.
pub(crate) const MAX_HEAD: usize = 64 << 10;
/// Bytes of a request's whole head in HTTP/1. A target may have as many as `http::Uri` takes, 65,534; a longer one is answered with 414.
pub(crate) const MAX_WHOLE_HEAD: usize = 136 << 10;
/// Bytes of a response's head; one with more is answered for with 502.
pub(crate) const MAX_RESPONSE_HEAD: usize = 128 << 10;
/// Fields of an HTTP/1 head.
pub(crate) const MAX_FIELDS: usize = 1000;
/// Bytes of one connection that wait to be parsed or written, at most.
pub(crate) const MAX_BUFFER: usize = 144 << 10;
/// HTTP/2 streams that one connection has open at once, at most.
pub(crate) const MAX_STREAMS: u32 = 256;
/// HTTP/2 flow-control window of a stream: bytes that wait in the waypoint for a slow endpoint.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
/// HTTP/2 flow-control window of a client's connection.
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;
/// Bytes of one HTTP/2 stream that wait for a slow reader.
pub(crate) const SEND_BUFFER: usize = 256 << 10;
/// HTTP/2 streams that were reset before they were looked at; with one more the connection ends (GOAWAY ENHANCE_YOUR_CALM).
pub(crate) const MAX_PENDING_RESETS: usize = 20;
/// HTTP/2 streams that this end had to reset because of the client's errors; with one more the connection ends.
pub(crate) const MAX_ERROR_RESETS: usize = 256;
/// Requests that the client of an HTTP/2 connection gave up before their answer began, less those that were answered. With one more it
/// is told to use another connection (GOAWAY NO_ERROR); what is under way goes on: clients with deadlines come here, too, when an
/// endpoint stalls.
pub(crate) const MAX_ABANDONED: u32 = 500;
/// With one more than these the connection is cut. A client that keeps to the GOAWAY has at most [`MAX_STREAMS`] left to give up.
pub(crate) const MAX_ABANDONED_AT_ALL: u32 = 2 * MAX_ABANDONED;
/// Bytes of a request's body that are kept for another try; a longer body is sent once.
pub(crate) const MAX_REPLAY: usize = 64 << 10;

/// Times that tests shorten.
#[derive(Debug, Clone)]
pub struct HttpTimeouts {
    /// From the first byte of an HTTP/1 head to its last. Default 10 s, then the connection ends.
    pub head: Duration,
    /// Between two parts of a request's body, until the answer begins. Default 60 s, then 408. Calls of gRPC have deadlines of their
    /// own instead.
    pub body: Duration,
    /// For connecting to an endpoint where there is another one to try: a node that is gone does not answer. Default 2 s.
    pub connect: Duration,
    /// How long a connection to an endpoint takes new requests: then its endpoint gets another one, and whoever it speaks for has shown a new
    /// certificate. Default 1 h, less up to a fifth.
    pub age: Duration,
    /// For news of an endpoint that is not as it is known, where there is no other: one that is reached in plaintext and takes identities
    /// only, or one where nothing listens for HBONE any more. Default 5 s, then it is as it is known.
    pub skew: Duration,
    /// Between PINGs on an HTTP/2 connection to an endpoint without HBONE while requests are under way on it. Default 10 s; one that is not
    /// answered for twice as long ends the connection.
    pub ping: Duration,
    /// How long a client's connection lasts at least before it may be ended so that other replicas get their share. Default 10 s.
    pub settled: Duration,
    /// For the first bytes of a connection whose protocol nobody declared. Default 3 s, then it is passed through as it is.
    pub detect: Duration,
    /// How long a client's connection may be without requests. Default 1 h, then it ends.
    pub idle: Duration,
    /// How long an HTTP/2 client that was told to use another connection has to confirm that (PING), twice over, once nothing of its requests
    /// is under way. Default 10 s; then the connection ends.
    pub farewell: Duration,
    /// How long idle connections stay open for a last request when the waypoint drains. Default 3 s.
    pub drain_grace: Duration,
    /// How long WebSockets, and connections that are no HTTP, stay open once their destination is no longer served here. Default 30 s.
    pub drain_deadline: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(60),
            connect: Duration::from_secs(2),
            age: Duration::from_secs(3600),
            skew: ambit_mesh::SKEW_TIMEOUT,
            ping: Duration::from_secs(10),
            settled: Duration::from_secs(10),
            detect: Duration::from_secs(3),
            idle: Duration::from_secs(3600),
            farewell: Duration::from_secs(10),
            drain_grace: Duration::from_secs(3),
            drain_deadline: Duration::from_secs(30),
        }
    }
}
