//! Accepting connections, whatever the listener.

use std::io;
use std::time::Duration;

/// The pause after a failure of the listener. Most likely the process is out of descriptors; later some are free again.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections. An error of a single connection is skipped. While the listener fails (no descriptors, no
/// memory), connections wait in its queue: the loop pauses between attempts, and logs the first failure.
#[derive(Debug)]
pub struct AcceptLoop {
    listener: &'static str,
    failing: bool,
}

impl AcceptLoop {
    /// A loop for a listener with this name, which appears in the log.
    pub fn new(listener: &'static str) -> Self {
        Self {
            listener,
            failing: false,
        }
    }

    /// The next connection. `accept` is called until it succeeds.
    pub async fn next<A, F>(&mut self, accept: impl Fn() -> F) -> A
    where
        F: Future<Output = io::Result<A>>,
    {
        loop {
            match accept().await {
                Ok(accepted) => {
                    self.failing = false;
                    return accepted;
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    if !self.failing {
                        tracing::error!(
                            listener = self.listener,
                            %error,
                            "cannot accept; connections wait in the queue"
                        );
                    }
                    self.failing = true;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Errors of `accept` that concern a single connection, not the listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Instant;

    use super::*;

    /// EMFILE.
    const NO_DESCRIPTORS: i32 = 24;

    /// Fails twice, then accepts.
    fn failing(error: fn() -> io::Error) -> impl Fn() -> std::future::Ready<io::Result<()>> {
        let left = Cell::new(3);
        move || {
            left.set(left.get() - 1);
            std::future::ready(if left.get() > 0 { Err(error()) } else { Ok(()) })
        }
    }

    #[test]
    fn a_failed_connection_delays_nobody() {
        let mut accepting = AcceptLoop::new("test");
        let next = pin!(accepting.next(failing(|| io::ErrorKind::ConnectionAborted.into())));
        let polled = next.poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(()));
    }

    #[tokio::test]
    async fn a_failing_listener_pauses() {
        let mut accepting = AcceptLoop::new("test");
        let begun = Instant::now();
        accepting
            .next(failing(|| io::Error::from_raw_os_error(NO_DESCRIPTORS)))
            .await;
        assert!(begun.elapsed() >= 2 * PAUSE);
    }
}
