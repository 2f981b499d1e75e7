//! The accepting side of HBONE.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::gather::gather;
use super::keepalive::{Ended, ping_until_dead};
use super::outgoing::{Closer, Closing, Payload, Sender};
use super::pace::Pace;
use super::receiver::Receiver;
use super::turns::Turns;
use super::windows::{Credit, Windows};
use super::{CONNECTION_WINDOW, HboneConfig, HboneStream, Http2Error};
use ambit_tls::{WallClock, peer_identity, peer_not_after};

/// Of an authority that is none, so much is kept: it is a stranger's text, and ends in the log.
const LONGEST_AUTHORITY: usize = 128;

/// Of a method that is not served, so much is said.
const LONGEST_METHOD: usize = 32;

/// For the last words to a peer that may be gone.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why a request was answered without the handler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestRefusal {
    /// Only CONNECT is served (405).
    #[error("the method is {}, not CONNECT", clip(.0.as_str()))]
    Method(Method),
    /// The authority, of which this is the beginning, is not `<ip>:<port>` (400).
    #[error("the authority {0:?} is not an IP address and port")]
    Authority(String),
}

impl RequestRefusal {
    /// What the client is answered.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Authority(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// The beginning of what a method is called, which consists of ASCII.
fn clip(method: &str) -> &str {
    method.get(..LONGEST_METHOD).unwrap_or(method)
}

/// Takes the CONNECT requests of one connection.
pub trait HboneHandler: Send + Sync + 'static {
    /// Serves a request until its stream has ended. Runs on a task of its own.
    fn connect(self: Arc<Self>, request: ConnectRequest) -> impl Future<Output = ()> + Send;

    /// Hears of a request that was refused.
    fn refused(&self, refusal: &RequestRefusal);
}

/// A CONNECT that awaits its answer; dropping it resets the stream.
#[derive(Debug)]
pub struct ConnectRequest {
    authority: SocketAddr,
    headers: HeaderMap,
    respond: SendResponse<Payload>,
    body: Receiver,
    closing: Arc<Closing>,
    turns: Turns,
}

impl ConnectRequest {
    /// Where the client wants to be connected to.
    pub fn authority(&self) -> SocketAddr {
        self.authority
    }

    /// What the client said besides.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Resolves when the client has given the stream up, or its connection has ended: whatever it asked for is for nothing.
    pub async fn gone(&mut self) {
        std::future::poll_fn(|cx| {
            self.body.collect(cx);
            // An error of the connection is an end, too.
            self.respond.poll_reset(cx).map(|_| ())
        })
        .await;
    }

    /// Answers 200.
    ///
    /// # Errors
    /// When the stream or its connection is gone.
    pub fn accept(self) -> Result<HboneStream, Http2Error> {
        self.accept_with(StatusCode::OK)
    }

    /// Answers with a success of another kind, which the client [sees](HboneStream::status).
    ///
    /// # Errors
    /// When the stream or its connection is gone.
    pub fn accept_with(mut self, status: StatusCode) -> Result<HboneStream, Http2Error> {
        let send = self.respond.send_response(response(status), false)?;
        Ok(HboneStream {
            status,
            send: Sender::new(send, self.closing),
            recv: self.body,
            turns: self.turns,
            permit: None,
        })
    }

    /// Answers with another status, and ends the stream.
    pub fn refuse(mut self, status: StatusCode) {
        refuse(&mut self.respond, response(status));
    }

    /// Answers with another status and a field that says why, and ends the stream.
    pub fn refuse_with(mut self, status: StatusCode, name: HeaderName, why: HeaderValue) {
        let mut response = response(status);
        response.headers_mut().insert(name, why);
        refuse(&mut self.respond, response);
    }
}

fn response(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

fn refuse(respond: &mut SendResponse<Payload>, response: Response<()>) {
    if let Err(error) = respond.send_response(response, true) {
        tracing::debug!(%error, "stream ended before it was refused");
    }
}

/// Serves HTTP/2 over `tls` until the peer closes it. When `drain` is cancelled, or the peer's certificate ends, the peer is told to
/// open no more streams (GOAWAY), and the connection ends with its last one. So is a peer that has had no stream for twice the idle time of
/// `config`. Dropping the future ends all at once.
///
/// A stream that the client has reset counts until its handler has ended. As many of both as `config` lets be open are served; the next are
/// refused (REFUSED_STREAM), and a client that has had as many refused again is ended (ENHANCE_YOUR_CALM). A stream is refused, too, while the
/// connection's windows are wide and [`HboneConfig::memory`] has nothing left for one more: over another connection it is taken.
///
/// Streams that come after the certificate's end are refused (REFUSED_STREAM, so that they may be tried on another connection:
/// [RFC 9113 §8.7]), whether or not the peer heeds the GOAWAY; those that are open go on.
///
/// [RFC 9113 §8.7]: https://www.rfc-editor.org/rfc/rfc9113#section-8.7
///
/// # Errors
/// When the connection fails or breaks the protocol.
pub async fn serve_hbone<IO, H>(
    tls: TlsStream<IO>,
    config: &HboneConfig,
    drain: CancellationToken,
    handler: Arc<H>,
) -> Result<(), Http2Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    H: HboneHandler,
{
    let expires = peer_not_after(tls.get_ref().1);
    let peer = peer_identity(tls.get_ref().1).map_or_else(|_| Arc::default(), |id| id.principal().into());
    serve(tls, expires, peer, config, drain, handler).await
}

/// Serves HTTP/2 over what `io` is, whose `peer` (empty: nobody knows who it is) may be served until `expires`.
pub(super) async fn serve<IO, H>(
    io: IO,
    expires: SystemTime,
    peer: Arc<str>,
    config: &HboneConfig,
    drain: CancellationToken,
    handler: Arc<H>,
) -> Result<(), Http2Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    H: HboneHandler,
{
    let memory = config.memory.borrower(&peer);
    let windows = Windows::new(memory.clone(), config.stream_window);
    let (io, outgoing) = gather(io);
    let max_streams = config.max_streams.saturating_mul(2);
    let handshake = h2::server::Builder::new()
        .initial_window_size(windows.initial())
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(config.max_frame_size)
        .max_send_buffer_size(config.send_buffer)
        .data_frame_budget(config.data_frame_budget())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(16 << 10)
        .handshake::<_, Payload>(io);
    let mut connection = match tokio::time::timeout(config.connect_timeout, handshake).await {
        Ok(connection) => connection?,
        Err(_) => return Err(Http2Error::reset(Reason::SETTINGS_TIMEOUT)),
    };
    let tick = || {
        windows.tick();
        true
    };
    let dead = connection
        .ping_pong()
        .map(|pings| ping_until_dead(pings, config.ping_interval, config.ping_timeout, tick));
    let dead = async {
        match dead {
            Some(dead) => dead.await,
            None => std::future::pending().await,
        }
    };
    let told_to_end = async {
        tokio::select! {
            () = drain.cancelled() => {}
            () = WallClock::default().reached(expires) => tracing::debug!("the peer's certificate has \
                 expired: no more streams"),
        }
    };
    tokio::pin!(dead, told_to_end);
    let mut streams = JoinSet::new();
    let closer = Closer::new(memory);
    let turns = Turns::default();
    let turning = turns.turning();
    let (mut draining, mut pinging) = (false, true);
    let (mut refused, mut idle_since) = (0, Instant::now());
    // A client that keeps connections for later lets go of them long before.
    let idle_timeout = config.idle_timeout.saturating_mul(2);
    let mut pace = Pace::default();
    let result = loop {
        let open = streams.len();
        let accept = std::future::poll_fn(|cx| {
            ready!(pace.poll_turn(cx, open));
            let accepted = turns.poll(cx, |cx| {
                let mut accepted = connection.poll_accept(cx);
                while accepted.is_pending()
                    && (closer.reset_written()
                        || windows.poll(cx, |size| connection.set_initial_window_size(size).is_ok()))
                {
                    accepted = connection.poll_accept(cx);
                }
                accepted
            });
            if accepted.is_pending() {
                outgoing.flush(cx);
            }
            accepted
        });
        let idle = async { tokio::time::sleep_until(idle_since + idle_timeout).await };
        tokio::select! {
            accepted = accept => match accepted {
                Some(Ok((_, mut respond))) if SystemTime::now() >= expires => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                }
                Some(Ok((_, mut respond))) if is_full(&mut streams, max_streams) => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    refused += 1;
                    if refused > max_streams {
                        tracing::info!(limit = max_streams, "the peer repeatedly resets streams and \
                             opens others: closing");
                        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                        refused = 0;
                    }
                }
                Some(Ok((request, mut respond))) => {
                    (refused, idle_since) = (0, Instant::now());
                    match windows.open() {
                        Some(credit) => {
                            let shared = (closer.shared(), turns.clone());
                            dispatch(&mut streams, &handler, request, respond, credit, shared);
                        }
                        None => respond.send_reset(Reason::REFUSED_STREAM),
                    }
                },
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(()),
            },
            ended = &mut dead, if pinging => {
                pinging = false;
                if ended == Ended::Unanswered {
                    tracing::info!("peer does not respond to PING: closing");
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    let gone = std::future::poll_fn(|cx| {
                        while let Some(Ok(_)) = ready!(connection.poll_accept(cx)) {}
                        Poll::Ready(())
                    });
                    // It may read, though it does not answer.
                    let _ = tokio::time::timeout(GOODBYE, gone).await;
                    break Ok(());
                }
            }
            () = &mut told_to_end, if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = idle, if !draining && streams.is_empty() => {
                draining = true;
                connection.graceful_shutdown();
            }
            Some(_) = streams.join_next(), if !streams.is_empty() => idle_since = Instant::now(),
        }
    };
    drop(connection);
    drop(closer);
    drop(turning);
    // The streams hear of the connection's end by themselves, and pass it on to their other side.
    while streams.join_next().await.is_some() {}
    result
}

/// Whether as many requests are being served as there may be streams.
fn is_full(streams: &mut JoinSet<()>, max_streams: u32) -> bool {
    while streams.try_join_next().is_some() {}
    streams.len() >= max_streams as usize
}

fn dispatch<H: HboneHandler>(
    streams: &mut JoinSet<()>,
    handler: &Arc<H>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Payload>,
    credit: Arc<Credit>,
    (closing, turns): (Arc<Closing>, Turns),
) {
    match authority(&request) {
        Ok(authority) => {
            let (head, body) = request.into_parts();
            let request = ConnectRequest {
                authority,
                headers: head.headers,
                respond,
                body: Receiver::new(body, credit),
                closing,
                turns,
            };
            let span = tracing::debug_span!("hbone-stream", %authority);
            streams.spawn(Arc::clone(handler).connect(request).instrument(span));
        }
        Err(refusal) => {
            refuse(&mut respond, response(refusal.status()));
            handler.refused(&refusal);
        }
    }
}

fn authority(request: &Request<RecvStream>) -> Result<SocketAddr, RequestRefusal> {
    if request.method() != Method::CONNECT {
        return Err(RequestRefusal::Method(request.method().clone()));
    }
    let authority = request
        .uri()
        .authority()
        .map(http::uri::Authority::as_str)
        .unwrap_or_default();
    authority
        .parse()
        .map_err(|_| RequestRefusal::Authority(authority.chars().take(LONGEST_AUTHORITY).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_method_is_clipped() {
        let method = Method::from_bytes("M".repeat(10_000).as_bytes()).unwrap();
        assert!(RequestRefusal::Method(method).to_string().len() < 100);
        let get = RequestRefusal::Method(Method::GET);
        assert_eq!(get.to_string(), "the method is GET, not CONNECT");
    }
}
