//! Why there is no TLS with a peer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::certificate::CertificateError;
use crate::tls::{IdentityMismatch, PeerIdentityError};

/// Why a handshake failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandshakeError {
    /// The peer is somebody else than it should be.
    #[error(transparent)]
    Mismatch(IdentityMismatch),
    /// The peer's certificate names no workload.
    #[error(transparent)]
    Identity(#[from] PeerIdentityError),
    /// The two do not agree in TLS: the peer has no certificate, one of another mesh or one that has ended, does not accept ours, or does not
    /// speak TLS 1.3.
    #[error(transparent)]
    Tls(TlsError),
    /// The connection failed.
    #[error("{0}")]
    Connection(Arc<io::Error>),
}

/// What TLS says of a failed handshake.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct TlsError(rustls::Error);

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let Some(verdict) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        else {
            return Self::Connection(Arc::new(error));
        };
        // Ours, where it was our verifier that refused.
        if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(other))) =
            verdict
        {
            if let Some(mismatch) = other.downcast_ref::<IdentityMismatch>() {
                return Self::Mismatch(mismatch.clone());
            }
            if let Some(identity) = other.downcast_ref::<PeerIdentityError>() {
                return Self::Identity(identity.clone());
            }
        }
        Self::Tls(TlsError(verdict.clone()))
    }
}

/// Why a peer was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcceptError {
    /// There is no certificate to speak as.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The peer took too long.
    #[error("no handshake within {}s", .0.as_secs_f32())]
    Timeout(Duration),
}
