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

/// A connection over the loopback stands when `connect` returns, unless the kernel has put the work off, or another ztunnel that has
/// the same seed accepted it.
const PATIENCE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Maker {
    seed: Arc<Seed>,
    /// The first socket made, from which the others are: the seed's own is every ztunnel's.
    own: Mutex<Option<OwnedFd>>,
}

impl Maker {
    pub(super) fn new(seed: Arc<Seed>) -> Self {
        Self {
            seed,
            own: Mutex::new(None),
        }
    }

    /// A new socket. It tries for as long as it is polled; a drop leaves nothing that the next call minds.
    pub(super) async fn make(&self) -> io::Result<Socket> {
        let mut own = self.own.lock().await;
        let listener = self.seed.listener.as_fd();
        let address = SockRef::from(&listener).local_addr()?;
        loop {
            let from = own.as_ref().unwrap_or(&self.seed.socket).as_fd();
            if let Err(error) = SockRef::from(&from).connect(&address) {
                // Also one that somebody else began.
                let begun = [Errno::INPROGRESS, Errno::ALREADY, Errno::ISCONN];
                if !Errno::from_io_error(&error).is_some_and(|errno| begun.contains(&errno)) {
                    return Err(error);
                }
            }
            let accepted = accept(listener).await;
            connect_unspec(from)?;
            let Some(accepted) = accepted? else { continue };
            // Whoever connected: without its connection it is a socket of this namespace like any other.
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
