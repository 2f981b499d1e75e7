//! Interim responses (1xx) on their way to a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode, Version};
use parking_lot::Mutex;

use super::headers::{self, REASON};
use super::io::Watch;
use crate::account::Parcel;

/// Interim responses to one request; further ones are dropped. They are not held back when the client does not read.
const MOST: u32 = 16;

/// The half of an HTTP/2 stream that responses go to.
pub(crate) type Respond = Arc<Mutex<SendResponse<Parcel>>>;

/// Takes interim responses to a client (RFC 9110 §15.2).
#[derive(Clone)]
pub(crate) struct Interim {
    to: To,
    left: Arc<AtomicU32>,
}

#[derive(Clone)]
enum To {
    /// Written by the connection's stream, as hyper has no way to.
    Http1(Arc<Watch>),
    Http2(Respond),
}

impl Interim {
    fn new(to: To) -> Self {
        let left = Arc::new(AtomicU32::new(MOST));
        Self { to, left }
    }

    /// To a client of HTTP/1; those of HTTP/1.0 do not know them.
    pub(crate) fn http1(watch: &Arc<Watch>, version: Version) -> Option<Self> {
        (version == Version::HTTP_11).then(|| Self::new(To::Http1(Arc::clone(watch))))
    }

    pub(crate) fn http2(respond: &Respond) -> Self {
        Self::new(To::Http2(Arc::clone(respond)))
    }

    /// Sends one, but for 101, which is a final response to a proxy.
    pub(crate) fn forward(&self, status: StatusCode, fields: &HeaderMap) {
        let left = |left: u32| left.checked_sub(1);
        if !status.is_informational()
            || status == StatusCode::SWITCHING_PROTOCOLS
            || self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left)
                .is_err()
        {
            return;
        }
        let mut fields = fields.clone();
        headers::remove_hop_by_hop(&mut fields, false);
        fields.remove(REASON);
        match &self.to {
            To::Http1(watch) => watch.interim(status, &fields),
            To::Http2(respond) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = fields;
                if let Err(error) = respond.lock().send_informational(response) {
                    tracing::debug!(%error, "an interim response was not sent");
                }
            }
        }
    }
}
