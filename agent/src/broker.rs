//! The socket over which ztunnels receive the listeners of pods, and the seeds of their sockets. The messages are in
//! `crates/wire/proto/broker.proto`; `docs/protocols.md` describes the protocol.

mod peer;
pub(crate) mod session;

pub use peer::{PeerCheck, Refusal, ZtunnelPeers};

use crate::capture::{Handle, SessionId};
use crate::files::private_directory;
use crate::metrics::Metrics;
use ambit_runtime::{AcceptLoop, log_permit};
use ambit_wire::broker_channel::{Channel, Listener, PeerCredentials};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The maximum of open connections. A node has one or two ztunnels.
const MOST_CONNECTIONS: usize = 16;

/// The listening socket.
#[derive(Debug)]
pub struct Broker {
    listener: Listener,
    peers: Arc<dyn PeerCheck>,
    manager: Handle,
    metrics: Metrics,
    revision: String,
    next_id: AtomicU64,
}

impl Broker {
    /// Listens at `socket`. Its directory is created if needed, and gets mode 0750 and group `gid`.
    ///
    /// # Errors
    /// When the directory or the socket cannot be created.
    pub fn bind(
        socket: &Path,
        gid: u32,
        peers: Arc<dyn PeerCheck>,
        manager: Handle,
        metrics: Metrics,
        revision: String,
    ) -> io::Result<Self> {
        if let Some(directory) = socket.parent() {
            private_directory(directory, 0o750, Some(gid))?;
        }
        let listener = Listener::bind(socket)?;
        // A connect needs write permission on the socket; the directory excludes all other users.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))?;
        chown(socket, None, Some(gid))?;
        Ok(Self {
            listener,
            peers,
            manager,
            metrics,
            revision,
            next_id: AtomicU64::new(1),
        })
    }

    /// Serves ztunnels until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let broker = Arc::new(self);
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut accepting = AcceptLoop::new("broker");
        while let Some((channel, credentials)) = stop
            .run_until_cancelled(accepting.next(|| broker.listener.accept()))
            .await
        {
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                broker.metrics.refused("busy");
                if log_permit("broker", "busy") {
                    tracing::warn!(peer = ?credentials, "refused: too many connections to the broker");
                }
                continue;
            };
            let (broker, stop) = (Arc::clone(&broker), stop.clone());
            connections.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = broker.serve(channel, credentials) => {}
                }
                drop(slot);
            });
        }
        connections.close();
        connections.wait().await;
    }

    async fn serve(&self, channel: Channel, credentials: PeerCredentials) {
        if let Err(refusal) = self.peers.check(&channel, credentials).await {
            self.metrics.refused(refusal.label());
            if log_permit("broker", refusal.label()) {
                tracing::warn!(pid = credentials.pid, uid = credentials.uid, why = %refusal, "a client of the broker was refused");
            }
            return;
        }
        let id = SessionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        match session::converse(channel, id, &self.manager, &self.revision).await {
            Ok(()) => tracing::info!(pid = credentials.pid, "a ztunnel has closed its connection"),
            Err(e) => {
                self.metrics.refused("protocol");
                tracing::warn!(pid = credentials.pid, error = %e, "the connection with a ztunnel ended");
            }
        }
    }
}
