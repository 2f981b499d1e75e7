//! The descriptors that the node agent passes for a pod.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A pod's listeners, and the seeds of its other sockets.
#[derive(Debug)]
pub(crate) struct Handed {
    /// 15001, 15006, 15008.
    pub(crate) listeners: [OwnedFd; 3],
    /// IPv4, and IPv6 if the pod has it.
    pub(crate) seeds: Vec<Arc<Seed>>,
}

/// A seed listener and a seed socket of one IP version.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) listener: OwnedFd,
    pub(crate) socket: OwnedFd,
}

impl Handed {
    /// From the descriptors in the protocol's order; `None` if they are not five or seven.
    pub(crate) fn new(descriptors: Vec<OwnedFd>) -> Option<Self> {
        if !matches!(descriptors.len(), 5 | 7) {
            return None;
        }
        let mut descriptors = descriptors.into_iter();
        let listeners = [descriptors.next()?, descriptors.next()?, descriptors.next()?];
        let mut seeds = Vec::new();
        while let (Some(listener), Some(socket)) = (descriptors.next(), descriptors.next()) {
            seeds.push(Arc::new(Seed { listener, socket }));
        }
        Some(Self { listeners, seeds })
    }

    /// In the protocol's order.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let seeds = self
            .seeds
            .iter()
            .flat_map(|seed| [seed.listener.as_fd(), seed.socket.as_fd()]);
        self.listeners.iter().map(AsFd::as_fd).chain(seeds).collect()
    }
}
