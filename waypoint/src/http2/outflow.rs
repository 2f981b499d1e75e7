//! Bodies that are sent on a stream.

use std::error::Error;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::account::{Outbox, Parcel};
use crate::http::headers::clean_trailers;

/// Why a body was not sent to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutflowError {
    /// The peer reset the stream, or the connection ended.
    #[error("the stream ended: {0}")]
    Stream(#[source] h2::Error),
    /// The body broke off; so the stream has been reset.
    #[error("the body was cut: {0}")]
    Body(String),
}

/// Sends `body` to its end, through the `outbox`. Dropped before, the stream is reset.
///
/// # Errors
/// When either of both ends before.
pub(crate) async fn send_body<B>(
    body: B,
    stream: SendStream<Parcel>,
    outbox: Outbox,
) -> Result<(), OutflowError>
where
    B: Body<Data = Bytes>,
    B::Error: Error + 'static,
{
    let mut body = pin!(body);
    let mut sending = Sending(Some(stream));
    std::future::poll_fn(|cx| {
        let Some(stream) = &mut sending.0 else {
            return Poll::Ready(Ok(()));
        };
        let sent = ready!(poll_send(body.as_mut(), stream, &outbox, cx));
        sending.0 = None;
        Poll::Ready(sent)
    })
    .await
}

/// A stream that is reset with what it has queued when it is given up: h2 would keep that until its peer's window opens.
struct Sending(Option<SendStream<Parcel>>);

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            stream.send_reset(Reason::CANCEL);
        }
    }
}

fn poll_send<B>(
    mut body: Pin<&mut B>,
    stream: &mut SendStream<Parcel>,
    outbox: &Outbox,
    cx: &mut Context<'_>,
) -> Poll<Result<(), OutflowError>>
where
    B: Body<Data = Bytes>,
    B::Error: Error + 'static,
{
    loop {
        // Nothing is taken from the body before some of it can be sent: what waits, waits at its sender.
        stream.reserve_capacity(1);
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(ended(stream, error, cx))),
                None => return Poll::Ready(Err(ended(stream, Reason::CANCEL.into(), cx))),
            }
        }
        let next = outbox.poll_room(cx).map(|()| body.as_mut().poll_frame(cx));
        let Poll::Ready(Poll::Ready(frame)) = next else {
            return match stream.poll_reset(cx) {
                Poll::Ready(Ok(reason)) => Poll::Ready(Err(OutflowError::Stream(reason.into()))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(OutflowError::Stream(error))),
                Poll::Pending => Poll::Pending,
            };
        };
        let sent = match frame {
            None => return Poll::Ready(sent(stream.send_data(outbox.parcel(Bytes::new()), true))),
            Some(Err(error)) => {
                stream.send_reset(reason(&error));
                return Poll::Ready(Err(OutflowError::Body(error.to_string())));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    // Frames without bytes say nothing, and peers bound their number.
                    if data.is_empty() && !last {
                        continue;
                    }
                    stream.send_data(outbox.parcel(data), last).map(|()| last)
                }
                Err(frame) => match frame.into_trailers() {
                    Ok(mut trailers) => {
                        clean_trailers(&mut trailers);
                        stream.send_trailers(trailers).map(|()| true)
                    }
                    Err(_) => continue,
                },
            },
        };
        match sent {
            Ok(true) => return Poll::Ready(Ok(())),
            Ok(false) => {}
            Err(error) => return Poll::Ready(Err(ended(stream, error, cx))),
        }
    }
}

fn sent(result: Result<(), h2::Error>) -> Result<(), OutflowError> {
    result.map_err(OutflowError::Stream)
}

/// Why nothing can be sent: the peer's reset, if there was one. h2 says of a stream that is reset only that it is.
fn ended(stream: &mut SendStream<Parcel>, error: h2::Error, cx: &mut Context<'_>) -> OutflowError {
    OutflowError::Stream(match stream.poll_reset(cx) {
        Poll::Ready(Ok(reason)) => reason.into(),
        Poll::Ready(Err(error)) => error,
        Poll::Pending => error,
    })
}

/// The reason of the reset of a stream whose body broke off: the one that the body's own stream was reset with. Peers take
/// NO_ERROR for an end.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let reason = error.downcast_ref().and_then(h2::Error::reason);
        if let Some(reason) = reason.filter(|reason| *reason != Reason::NO_ERROR) {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
