//! One captured pod, as the ztunnel serves it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_hbone::Borrower;
use ambit_identity::{ParseIdentityError, SpiffeId};
use ambit_runtime::{Holder, Share, Shares};
use ambit_tls::{CertificateManager, IdentityLease};
use ambit_wire::broker::PodIdentity;
use ambit_wire::names::TRUST_DOMAIN;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::{Budget, Limits};
use crate::sockets::{PodSockets, Seed, StoreLimits};

/// The agent's record of the pod; replaced when the agent sends another.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub(crate) identity: PodIdentity,
    pub(crate) addresses: Vec<IpAddr>,
}

/// The peer that opens connections of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Asker {
    /// The pod's own applications.
    Pod,
    /// An unauthenticated peer, possibly before its handshake.
    Address(IpAddr),
    /// A peer with a certificate.
    Identity(SpiffeId),
}

/// A captured pod.
pub(crate) struct Pod {
    pub(crate) uid: Arc<str>,
    pub(crate) info: ArcSwap<PodInfo>,
    /// Its certificate.
    pub(crate) lease: ArcSwap<IdentityLease>,
    pub(crate) sockets: PodSockets,
    /// Open connections, and the accept loops.
    pub(crate) connections: TaskTracker,
    pub(crate) places: Shares<Asker>,
    /// Its connections that wait for a way past a guard.
    pub(crate) guarded: Budget,
    /// Budget of descriptors, shared by all pods.
    pub(crate) descriptors: Arc<Holder<Arc<str>>>,
    /// Budget of borrowed memory.
    pub(crate) memory: Borrower,
    /// Cancelled when the pod accepts no new connections.
    pub(crate) drain: CancellationToken,
    /// Cancelled when all connections are to end.
    pub(crate) kill: CancellationToken,
    plaintext_peers: PlaintextPeers,
    _descriptors: Share<Arc<str>>,
}

impl Pod {
    pub(crate) fn new(
        identity: PodIdentity,
        certificates: &CertificateManager,
        seeds: &[Arc<Seed>],
        stores: &StoreLimits,
        limits: &Limits,
        descriptors: Share<Arc<str>>,
        memory: Borrower,
    ) -> Result<Self, ParseIdentityError> {
        let uid: Arc<str> = identity.uid.as_str().into();
        let lease = certificates.lease(spiffe_id(&identity)?);
        Ok(Self {
            sockets: PodSockets::new(seeds, stores),
            uid,
            info: ArcSwap::from_pointee(PodInfo::new(identity)),
            lease: ArcSwap::from_pointee(lease),
            connections: TaskTracker::new(),
            places: Shares::new(limits.connections_per_pod),
            guarded: Budget::new(limits.guarded_per_pod),
            descriptors: Arc::clone(descriptors.holder()),
            memory,
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            plaintext_peers: PlaintextPeers::default(),
            _descriptors: descriptors,
        })
    }

    /// Takes over the agent's new record of a pod that is served already.
    pub(crate) fn update(
        &self,
        identity: PodIdentity,
        certificates: &CertificateManager,
    ) -> Result<(), ParseIdentityError> {
        let id = spiffe_id(&identity)?;
        if *self.lease.load().identity() != id {
            self.lease.store(Arc::new(certificates.lease(id)));
        }
        self.info.store(Arc::new(PodInfo::new(identity)));
        Ok(())
    }

    /// Marks the address of a plaintext peer as in use, towards a port of the pod, while the guard lives.
    pub(crate) fn plaintext_peer(&self, peer: SocketAddr, port: u16) -> PlaintextPeer {
        let peer = (peer, port);
        *self.plaintext_peers.lock().entry(peer).or_default() += 1;
        PlaintextPeer {
            peers: Arc::clone(&self.plaintext_peers),
            peer,
        }
    }

    /// Whether a live plaintext peer of this port has exactly this address: the pod's connection tracking could not
    /// tell a new connection from it apart.
    pub(crate) fn is_plaintext_peer(&self, address: SocketAddr, port: u16) -> bool {
        self.plaintext_peers.lock().contains_key(&(address, port))
    }
}

impl PodInfo {
    fn new(identity: PodIdentity) -> Self {
        let addresses = identity
            .addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
        Self { identity, addresses }
    }
}

fn spiffe_id(identity: &PodIdentity) -> Result<SpiffeId, ParseIdentityError> {
    let trust_domain = if identity.trust_domain.is_empty() {
        TRUST_DOMAIN
    } else {
        &identity.trust_domain
    };
    SpiffeId::new(trust_domain, &identity.namespace, &identity.service_account)
}

type PlaintextPeers = Arc<Mutex<HashMap<(SocketAddr, u16), usize>>>;

/// See [`Pod::plaintext_peer`].
pub(crate) struct PlaintextPeer {
    peers: PlaintextPeers,
    peer: (SocketAddr, u16),
}

impl Drop for PlaintextPeer {
    fn drop(&mut self) {
        let mut peers = self.peers.lock();
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}
