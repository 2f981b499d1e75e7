//! Refusals in the log and the metrics, with both addresses.

use std::net::SocketAddr;

use ambit_identity::SpiffeId;
use ambit_runtime::log_permit;

use super::{Direction, Proxy};
use crate::observe::Refusal;
use crate::pod::Pod;

/// A connection to one of a pod's listeners.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) pod: &'a Pod,
    pub(super) direction: Direction,
    pub(super) peer: SocketAddr,
    pub(super) local: Option<SocketAddr>,
    /// The peer's proven identity.
    pub(super) identity: Option<&'a SpiffeId>,
}

impl Arrival<'_> {
    /// Counts and logs the refusal (of many refusals of one peer only some are logged); `detail` has more than the
    /// kind, if known.
    pub(super) fn refused(&self, refusal: Refusal, detail: Option<&str>) {
        self.proxy.metrics.refused(self.direction, refusal);
        let subject = match self.identity {
            Some(identity) => identity.to_string(),
            None => self.peer.ip().to_string(),
        };
        if !log_permit(&subject, refusal.reason()) {
            return;
        }
        let pod = self.pod.info.load();
        tracing::warn!(
            src.addr = %self.peer,
            src.identity = self.identity.map(display),
            dst.addr = self.local.map(display),
            dst.workload = pod.identity.name,
            dst.namespace = pod.identity.namespace,
            direction = self.direction.name(),
            detail,
            "refused: {refusal}"
        );
    }
}
