//! What both of Ambit's proxies need to speak HBONE.
//!
//! - [`SpiffeId`]: who a workload is.
//! - [`CertificateManager`]: a certificate for each identity in use, asked of a [`CertificateSource`] ([`IstioCa`] speaks
//!   Istio's call), shared, renewed at half-life.
//! - [`WorkloadCertificate`]: the TLS configurations of an identity: version 1.3 only, X25519MLKEM768 first, both ends verified by
//!   SPIFFE id.
//! - [`HbonePool`] opens CONNECT streams over pooled connections; [`serve_hbone`] accepts them; [`copy_tunnel`] joins a stream with
//!   a TCP connection.
//! - [`prepare_socket`], [`raise_descriptor_limit`]: what they ask of the system for it.

mod certificate;
mod hbone;
mod identity;
mod socket;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;

pub use certificate::{
    CertificateDump, CertificateError, CertificateManager, CertificateSource, CertificateState, ChainDump,
    IdentityLease, IstioCa, ManagerConfig, WorkloadCertificate,
};
pub use hbone::{
    ConnectError, ConnectRequest, CopyError, HboneConfig, HboneHandler, HboneIo, HbonePool, HboneStream,
    Meter, OpenError, PoolKey, RequestRefusal, copy_tcp, copy_tunnel, serve_hbone,
};
pub use identity::{ParseIdentityError, SpiffeId};
pub use socket::{prepare_socket, raise_descriptor_limit};
pub use tls::{PeerIdentityError, ServerTlsStream, accept_tls, certificate_identity, peer_identity};
