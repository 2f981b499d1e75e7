//! The nftables table of the node for kubelet probes.

use crate::netlink::{self, NetlinkError};
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often the table is applied again, in case another program flushed it.
const REPAIR: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// Maintains the table `ip ambit_node` in the namespace of this process (the node's).
#[derive(Debug, Default)]
pub struct Probes {
    wanted: Mutex<Wanted>,
    /// The applied table; locked during a change.
    current: tokio::sync::Mutex<Option<BTreeSet<SocketAddrV4>>>,
    changed: Notify,
}

#[derive(Debug, Default, Clone)]
struct Wanted {
    probes: BTreeSet<SocketAddrV4>,
    /// Whether the table is to be absent.
    removed: bool,
}

impl Probes {
    /// A keeper without a table: where the node's own namespace is not to be touched.
    pub fn disabled() -> Self {
        let wanted = Wanted {
            removed: true,
            ..Wanted::default()
        };
        Self {
            wanted: Mutex::new(wanted),
            ..Self::default()
        }
    }

    /// Sets the probed addresses and ports.
    pub fn want(&self, probes: BTreeSet<SocketAddrV4>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.probes != probes {
            wanted.probes = probes;
            self.changed.notify_one();
        }
    }

    /// Applies the desired table, and returns when it is in force.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn settle(&self) -> Result<(), NetlinkError> {
        let mut current = self.current.lock().await;
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if wanted.removed || current.as_ref() == Some(&wanted.probes) {
            return Ok(());
        }
        let probes: Vec<_> = wanted.probes.iter().copied().collect();
        // A few messages to the kernel take less time than a switch to another thread.
        match &*current {
            Some(_) => netlink::set_probes(&probes)?,
            None => netlink::install_node_table(&probes)?,
        }
        *current = Some(wanted.probes);
        Ok(())
    }

    /// Removes the table, until [`Self::restore`].
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn remove(&self) -> Result<(), NetlinkError> {
        let mut current = self.current.lock().await;
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).removed = true;
        *current = None;
        netlink::remove_node_table()
    }

    /// Permits the table again.
    pub fn restore(&self) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).removed = false;
        self.changed.notify_one();
    }

    /// Maintains the table until `stop`, and leaves it in force.
    pub async fn keep(&self, stop: CancellationToken) {
        loop {
            let next = match self.settle().await {
                Ok(()) => REPAIR,
                Err(e) => {
                    tracing::warn!(error = %e, "the node's probe rules could not be set; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(next) => *self.current.lock().await = None,
            }
        }
    }
}
