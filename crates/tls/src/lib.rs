//! Certificates of workloads, and TLS as the mesh speaks it.
//!
//! - [`CertificateManager`]: a certificate for each identity in use, asked of a [`CertificateSource`], shared, renewed at half-life.
//! - [`WorkloadCertificate`]: the TLS configurations of an identity: version 1.3 only, X25519MLKEM768 first, both ends verified by
//!   SPIFFE id.

mod certificate;
mod clock;
mod error;
mod handshake;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;

pub use certificate::{
    CertificateDump, CertificateError, CertificateManager, CertificateSource, CertificateState, ChainDump,
    IdentityLease, ManagerConfig, WorkloadCertificate,
};
pub use clock::WallClock;
pub use error::{AcceptError, HandshakeError, TlsError};
pub use handshake::{ClientTlsStream, ServerTlsStream, accept_peer, accept_tls, connect_tls};
pub use tls::{IdentityMismatch, PeerIdentityError, certificate_identity, peer_identity, peer_not_after};
