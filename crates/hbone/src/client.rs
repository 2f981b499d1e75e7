//! One HBONE connection as its client sees it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;
use std::time::{Duration, SystemTime};

use h2::Reason;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::gather::gather;
use super::keepalive::{Ended, ping_until_dead};
use super::memory::Borrower;
use super::outgoing::{Closer, Closing, Payload, Sender};
use super::pace::Pace;
use super::places::{ConnectionState, StreamPermit};
use super::receiver::Receiver;
use super::turns::Turns;
use super::windows::{Credit, Windows};
use super::{CONNECTION_WINDOW, HboneConfig, HboneStream, OpenError};

/// How many streams a peer allows that has not said it yet; no peer says so. One is opened then, and the others wait for its word.
const UNSETTLED: usize = usize::MAX - 1;

/// A pooled connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Payload>,
    closing: Arc<Closing>,
    turns: Turns,
    windows: Arc<Windows>,
    pub(super) state: Arc<ConnectionState>,
    pub(super) made: Instant,
}

/// What a stream is opened with.
#[derive(Debug)]
pub(super) struct Reserved {
    permit: StreamPermit,
    credit: Arc<Credit>,
}

/// Until when something is waited for, and how long that was at the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) until: Instant,
    pub(super) whole: Duration,
}

impl Limit {
    pub(super) fn of(whole: Duration) -> Self {
        let until = Instant::now() + whole;
        Self { until, whole }
    }
}

impl Connection {
    /// A place on this connection, if it takes streams and has one left.
    pub(super) fn reserve(&self) -> Option<Reserved> {
        // What the peer allows: a stream past that would wait in the queue behind the others' end.
        let allowed = match self.sender.current_max_send_streams() {
            UNSETTLED => 1,
            allowed => u32::try_from(allowed).unwrap_or(u32::MAX),
        };
        let permit = self.state.reserve(allowed)?;
        let credit = self.windows.open()?;
        Some(Reserved { permit, credit })
    }

    /// Sends CONNECT and awaits the answer.
    pub(super) async fn connect(
        &self,
        authority: &http::uri::Authority,
        headers: &http::HeaderMap,
        reserved: Reserved,
        limit: Limit,
    ) -> Result<HboneStream, OpenError> {
        let Reserved { permit, credit } = reserved;
        let mut uri = http::uri::Parts::default();
        uri.authority = Some(authority.clone());
        let mut request = http::Request::new(());
        *request.method_mut() = http::Method::CONNECT;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers.clone();
        *request.uri_mut() =
            http::Uri::from_parts(uri).map_err(|_| OpenError::Authority(authority.clone()))?;
        let exchange = async {
            let mut sender = self.sender.clone().ready().await.map_err(unsent)?;
            let (response, send) = sender.send_request(request, false).map_err(unsent)?;
            let response = response.await.map_err(|error| {
                // A server that is going away says which streams it has not looked at: those may be sent again.
                let unseen = error.is_remote()
                    && (error.reason() == Some(Reason::REFUSED_STREAM)
                        || (error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)));
                if unseen {
                    unsent(error)
                } else {
                    OpenError::Stream(error.into())
                }
            })?;
            Ok((response, send))
        };
        match tokio::time::timeout_at(limit.until, exchange).await {
            Ok(Ok((response, send))) if response.status().is_success() => Ok(HboneStream {
                status: response.status(),
                send: Sender::new(send, Arc::clone(&self.closing)),
                recv: Receiver::new(response.into_body(), credit),
                turns: self.turns.clone(),
                permit: Some(permit),
            }),
            Ok(Ok((response, _))) => Err(OpenError::Refused {
                status: response.status(),
                headers: Box::new(response.into_parts().0.headers),
            }),
            Ok(Err(error)) => {
                if matches!(error, OpenError::Unsent(_)) {
                    self.state.close();
                }
                Err(error)
            }
            Err(_) => {
                // It may hang: others shall not wait on it too.
                self.state.close();
                Err(OpenError::ResponseTimeout(limit.whole))
            }
        }
    }
}

fn unsent(error: h2::Error) -> OpenError {
    OpenError::Unsent(error.into())
}

/// Opens HTTP/2 over `io`. The second value drives the connection and must be polled until it ends; it calls `retire` when the
/// connection takes no new streams, to be let go of: HTTP/2 ends with the last stream once nobody can open another.
pub(super) async fn handshake<IO>(
    io: IO,
    config: &HboneConfig,
    memory: Borrower,
    expires: SystemTime,
    retire: impl Fn() + Send + 'static,
) -> Result<(Connection, impl Future<Output = ()> + Send + 'static), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, outgoing) = gather(io);
    let windows = Windows::new(memory.clone(), config.stream_window);
    let (sender, mut connection) = h2::client::Builder::new()
        .initial_max_send_streams(UNSETTLED)
        .initial_window_size(windows.initial())
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(config.max_frame_size)
        .max_send_buffer_size(config.send_buffer)
        .data_frame_budget(config.data_frame_budget())
        // Frames of streams that were given up here and are forgotten count, and the thousandth would end the connection.
        .max_local_error_reset_streams(None)
        .max_header_list_size(16 << 10)
        .header_table_size(0)
        .enable_push(false)
        .handshake::<_, Payload>(io)
        .await?;
    let state = ConnectionState::new(config.max_streams, expires);
    let closer = Closer::new(memory);
    let closing = closer.shared();
    let turns = Turns::default();
    let (taken, turning) = (turns.clone(), turns.turning());
    let driver = {
        let (state, windows) = (Arc::clone(&state), Arc::clone(&windows));
        let (interval, timeout, idle) = (config.ping_interval, config.ping_timeout, config.idle_timeout);
        async move {
            let _turning = turning;
            let Some(pings) = connection.ping_pong() else {
                return;
            };
            let (watched, ticked) = (Arc::clone(&state), Arc::clone(&windows));
            let tick = move || {
                ticked.tick();
                if watched.has_been_idle(idle) {
                    watched.close();
                }
                if watched.is_open() {
                    return true;
                }
                retire();
                watched.has_streams()
            };
            let pings = ping_until_dead(pings, interval, timeout, tick);
            tokio::pin!(pings);
            let (mut told, mut settled, mut pace) = (false, false, Pace::default());
            loop {
                let ended = std::future::poll_fn(|cx| {
                    ready!(pace.poll_turn(cx, state.streams()));
                    let ended = taken.poll(cx, |cx| {
                        let mut ended = Pin::new(&mut connection).poll(cx);
                        while ended.is_pending()
                            && (closer.reset_written()
                                || windows.poll(cx, |size| connection.set_initial_window_size(size).is_ok()))
                        {
                            ended = Pin::new(&mut connection).poll(cx);
                        }
                        ended
                    });
                    if ended.is_pending() {
                        outgoing.flush(cx);
                    }
                    if !settled && connection.max_concurrent_send_streams() != UNSETTLED {
                        settled = true;
                        state.settle();
                    }
                    ended
                });
                tokio::select! {
                    result = ended => {
                        tracing::debug!(error = ?result.err(), "connection ended");
                        break;
                    }
                    ended = &mut pings, if !told => match ended {
                        // No stream is left, and the pool has let go of it: HTTP/2 ends it.
                        Ended::Told => told = true,
                        Ended::Closed => told = true,
                        Ended::Unanswered => {
                            tracing::info!(timeout_seconds = timeout.as_secs(), "peer does not respond to PING: closing");
                            break;
                        }
                    },
                }
            }
            state.close();
            state.settle();
        }
    };
    let made = Instant::now();
    let connection = Connection {
        sender,
        closing,
        turns,
        windows,
        state,
        made,
    };
    Ok((connection, driver))
}
