//! Certificates of workloads, and TLS as the mesh speaks it.
//!
//! - [`CertificateManager`]: a certificate for each identity in use, asked of a [`CertificateSource`], shared, renewed at half-life.
//! - [`WorkloadCertificate`]: the TLS configurations of an identity: version 1.3 only, X25519MLKEM768 first, both ends verified by
//!   SPIFFE id.

mod certificate;
mod clock;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;

pub use certificate::{
    CertificateDump, CertificateError, CertificateManager, CertificateSource, CertificateState, ChainDump,
    IdentityLease, ManagerConfig, WorkloadCertificate,
};
pub use clock::WallClock;
pub use tls::{
    AcceptError, ClientTlsStream, HandshakeError, IdentityMismatch, PeerIdentityError, ServerTlsStream,
    TlsError, accept_peer, accept_tls, certificate_identity, connect_tls, peer_identity, peer_not_after,
};
