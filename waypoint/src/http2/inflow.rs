//! Bodies that arrive on a stream.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use ambit_hbone::{Absorb, Backlog, Turns};
use bytes::Bytes;
use futures::task::AtomicWaker;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::account::{Account, Held, NoRoom};

/// What a peer may still send on a stream while its caller's account is short: it is not stopped altogether.
const LEAST_WINDOW: isize = 16 << 10;

/// Why a body did not arrive to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InflowError {
    /// The peer reset the stream, or the connection ended.
    #[error("{0}")]
    Stream(#[source] h2::Error),
    /// The caller's account had no room for more of it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// The body of a message that arrives on a stream. Dropped before its end, it lets the stream be reset.
pub(crate) struct Inflow(Arc<Stream>);

/// What the reader of a stream and the task of its connection share.
struct Stream {
    state: Mutex<State>,
    arrival: Waker,
    reader: Arc<AtomicWaker>,
    account: Account,
}

struct State {
    recv: RecvStream,
    /// Taken out of h2, and not yet by the reader.
    backlog: Backlog,
    held: Held,
    /// Read, and not given back to the peer's window.
    owed: usize,
    end: Option<End>,
    /// Of the declared length: what the reader has not got yet.
    left: Option<u64>,
}

/// How the body ended, as far as it has not been read.
enum End {
    Whole,
    Trailers(HeaderMap),
    Failed(InflowError),
    Read,
}

impl Inflow {
    /// The body of a message with these headers, on the account of the caller: who sends the request, or gets the response.
    pub(crate) fn new(recv: RecvStream, headers: &HeaderMap, turns: &Turns, account: &Account) -> Self {
        let declared = headers.get(http::header::CONTENT_LENGTH);
        let left = match recv.is_end_stream() {
            true => Some(0),
            false => declared.and_then(|length| length.to_str().ok()?.parse().ok()),
        };
        let state = State {
            recv,
            backlog: Backlog::default(),
            held: account.nothing(),
            owed: 0,
            end: None,
            left,
        };
        let reader = Arc::<AtomicWaker>::default();
        let stream = Arc::new_cyclic(|weak: &Weak<Stream>| Stream {
            state: Mutex::new(state),
            arrival: turns.arrival(weak.clone(), Arc::clone(&reader)),
            reader,
            account: account.clone(),
        });
        stream.absorb();
        Self(stream)
    }

    /// Whether its end has arrived and been read.
    pub(crate) fn is_whole(&self) -> bool {
        let state = self.0.state.lock();
        let ended = match &state.end {
            Some(End::Whole | End::Read) => true,
            Some(End::Trailers(_) | End::Failed(_)) => false,
            None => state.recv.is_end_stream(),
        };
        ended && state.backlog.is_empty()
    }
}

impl Stream {
    /// Takes out of h2 what it has; whether there was any.
    fn take(&self, state: &mut State) -> bool {
        let mut cx = Context::from_waker(&self.arrival);
        let mut arrived = false;
        while state.end.is_none() {
            match state.receive(&mut cx) {
                Poll::Ready(Ok(data)) => match state.held.grow(data.len()) {
                    Ok(()) => state.backlog.push(data),
                    Err(no_room) => {
                        // Its window stays as it is, so that no more than that comes before the reader gives it up.
                        state.backlog = Backlog::default();
                        state.held.clear();
                        state.end = Some(End::Failed(no_room.into()));
                    }
                },
                Poll::Ready(Err(end)) => state.end = Some(end),
                Poll::Pending => break,
            }
            arrived = true;
        }
        arrived
    }
}

impl Absorb for Stream {
    fn absorb(&self) {
        if self.take(&mut self.state.lock()) {
            self.reader.wake();
        }
    }
}

impl State {
    /// The next bytes, or how they end.
    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        loop {
            return Poll::Ready(match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => continue,
                Some(Ok(data)) => Ok(data),
                // Whatever its reason: without END_STREAM what came is not complete. After it, h2 reports no reset here.
                Some(Err(error)) => Err(End::Failed(InflowError::Stream(error))),
                None => Err(match ready!(self.recv.poll_trailers(cx)) {
                    Ok(Some(trailers)) => End::Trailers(trailers),
                    Ok(None) => End::Whole,
                    Err(error) => End::Failed(InflowError::Stream(error)),
                }),
            });
        }
    }
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = InflowError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, InflowError>>> {
        let stream = &*self.0;
        let mut state = stream.state.lock();
        if state.backlog.is_empty() && state.end.is_none() {
            stream.reader.register(cx.waker());
            stream.take(&mut state);
        }
        if let Some(data) = state.backlog.pop() {
            let length = data.len();
            state.left = state.left.map(|left| left.saturating_sub(length as u64));
            state.held.shrink(length);
            // Only now may the peer send more.
            state.owed += length;
            let window = state.recv.flow_control().available_capacity();
            if window <= LEAST_WINDOW || !stream.account.is_short() {
                let owed = std::mem::take(&mut state.owed);
                if let Err(error) = state.recv.flow_control().release_capacity(owed) {
                    return Poll::Ready(Some(Err(InflowError::Stream(error))));
                }
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match state.end.take() {
            Some(End::Whole | End::Read) => {
                state.end = Some(End::Read);
                Poll::Ready(None)
            }
            Some(End::Trailers(trailers)) => {
                state.end = Some(End::Read);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(End::Failed(error)) => {
                state.end = Some(End::Read);
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole()
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.state.lock().left {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::new(),
        }
    }
}
