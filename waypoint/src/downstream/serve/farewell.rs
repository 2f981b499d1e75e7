//! The end of an HTTP/2 connection whose client was told to use another one (GOAWAY).
//!
//! h2 ends it when the client has answered the PING that goes with GOAWAY, which a client may never do. A client that is slow to read gets
//! the PING late, and must get all that comes before it. So the wait is over only where nothing of any request is under way, and nothing that
//! was said to the client waits here.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What is done with the connection at the end of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Wait,
    /// It ends here, without the client's word.
    Close,
    /// The client does not even take the end of it.
    Cut,
}

/// Counts periods.
pub(super) struct Farewell {
    period: Duration,
    /// Once the client has been told.
    ends: Option<Instant>,
    /// There was nothing under way at the end of the last period, and no request has come since.
    quiet: bool,
    closed: bool,
}

impl Farewell {
    pub(super) fn new(period: Duration) -> Self {
        Self {
            period,
            ends: None,
            quiet: false,
            closed: false,
        }
    }

    /// The client has been told.
    pub(super) fn begin(&mut self) {
        self.ends.get_or_insert_with(|| Instant::now() + self.period);
    }

    /// A request has come.
    pub(super) fn request(&mut self) {
        self.quiet = false;
    }

    /// Resolves at the end of a period.
    pub(super) async fn period(&self) {
        match self.ends {
            Some(end) => sleep_until(end).await,
            None => std::future::pending().await,
        }
    }

    /// A period is over, at whose end nothing is under way, or something is.
    pub(super) fn over(&mut self, nothing: bool) -> Next {
        self.ends = Some(Instant::now() + self.period);
        let quiet = std::mem::replace(&mut self.quiet, nothing) && nothing;
        if self.closed {
            return Next::Cut;
        }
        self.closed = quiet;
        if quiet { Next::Close } else { Next::Wait }
    }
}
