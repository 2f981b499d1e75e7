//! Makes sockets from a seed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, connect_unspec};
use socket2::{SockRef, Socket};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Seed;

/// A loopback connection is established when `connect` returns, unless the kernel has deferred the work, or another
/// ztunnel with the same seed accepted it.
const PATIENCE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Maker {
    seed: Arc<Seed>,
    /// The first socket made, from which the others are made: the seed's own socket is shared by all ztunnels.
    own: Mutex<Option<OwnedFd>>,
}

impl Maker {
    pub(super) fn new(seed: Arc<Seed>) -> Self {
        Self {
            seed,
            own: Mutex::new(None),
        }
    }

    /// A new socket. Retries while it is polled; dropping it has no effect on the next call.
    pub(super) async fn make(&self) -> io::Result<Socket> {
        let mut own = self.own.lock().await;
        let listener = self.seed.listener.as_fd();
        let address = SockRef::from(&listener).local_addr()?;
        loop {
            let from = own.as_ref().unwrap_or(&self.seed.socket).as_fd();
            if let Err(error) = SockRef::from(&from).connect(&address) {
                // Possibly one that another ztunnel began.
                let begun = [Errno::INPROGRESS, Errno::ALREADY, Errno::ISCONN];
                if !Errno::from_io_error(&error).is_some_and(|errno| begun.contains(&errno)) {
                    return Err(error);
                }
            }
            let accepted = accept(listener).await;
            connect_unspec(from)?;
            let Some(accepted) = accepted? else { continue };
            // Whoever connected it: without its connection it is a socket of this namespace like any other.
            connect_unspec(&accepted)?;
            if own.is_some() {
                return Ok(accepted.into());
            }
            *own = Some(accepted);
        }
    }
}

async fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => return Ok(Some(socket)),
            Err(Errno::AGAIN) if Instant::now() >= deadline => return Ok(None),
            Err(Errno::AGAIN) => tokio::time::sleep(LOOK).await,
            Err(Errno::CONNABORTED | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
