//! A client's body, and what became of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::observe::BodyMeter;
use crate::received::{ReceiveError, Received};

/// What became of a request's body, for those who answer and report.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    answered: AtomicBool,
    stalled: AtomicBool,
    broken: AtomicBool,
    no_room: AtomicBool,
}

impl Upload {
    /// The answer has begun: the body may now take its time.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether the client sent nothing for too long.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Whether the client's side of the body failed.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Whether there was no room for what the client sent.
    pub(crate) fn has_no_room(&self) -> bool {
        self.no_room.load(Ordering::Relaxed)
    }
}

/// Why a body did not come to its end. The endpoint sees a request that breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the client sent nothing for {}s", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("the client's body: {0}")]
    Client(#[source] ReceiveError),
    #[error("the request is retried")]
    SentAgain(#[source] h2::Error),
}

/// A client's body, with an end to waiting for it.
pub(crate) struct ClientBody {
    incoming: Received,
    upload: Arc<Upload>,
    meter: BodyMeter,
    /// No end, where `None`.
    patience: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    pub(crate) fn new(
        incoming: Received,
        upload: Arc<Upload>,
        meter: BodyMeter,
        patience: Option<Duration>,
    ) -> Self {
        Self {
            incoming,
            upload,
            meter,
            patience,
            waiting: None,
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.upload.answered.load(Ordering::Relaxed)
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Some(patience) = self.patience else {
            return Poll::Pending;
        };
        let answered = self.is_answered();
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        while waiting.as_mut().poll(cx).is_ready() {
            if !answered {
                self.upload.stalled.store(true, Ordering::Relaxed);
                return Poll::Ready(BodyError::Stalled(patience));
            }
            waiting.as_mut().reset(Instant::now() + patience);
        }
        Poll::Pending
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            return self.poll_stalled(cx).map(|error| Some(Err(error)));
        };
        self.waiting = None;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.meter.read(data);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.upload.no_room.store(error.is_no_room(), Ordering::Relaxed);
                self.upload.broken.store(true, Ordering::Relaxed);
                Some(Err(BodyError::Client(error)))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
