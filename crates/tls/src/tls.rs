//! TLS for HBONE: version 1.3 only, X25519MLKEM768 first, both sides authenticated by SPIFFE id.

mod verify;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use ambit_identity::{ParseIdentityError, SpiffeId};

pub use verify::IdentityMismatch;
pub(crate) use verify::{ExpectedPeer, MeshClientVerifier};

/// ALPN protocol of HBONE.
pub(crate) const ALPN: &[u8] = b"h2";

/// Why a certificate names no workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    /// No certificate was presented.
    #[error("no certificate")]
    NoCertificate,
    /// The certificate could not be read.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// An X.509-SVID has exactly one URI SAN.
    #[error("certificate has {0} URI subject alternative names, not one")]
    UriCount(usize),
    /// The URI SAN is not a workload's SPIFFE id.
    #[error(transparent)]
    Identity(#[from] ParseIdentityError),
}

/// The SPIFFE id that a certificate carries ([X.509-SVID]: its only URI SAN).
///
/// [X.509-SVID]: https://spiffe.io/docs/latest/spiffe-specs/x509-svid/
///
/// # Errors
/// When the certificate cannot be read, or has no, more than one, or another kind of URI SAN.
pub fn certificate_identity(certificate: &CertificateDer<'_>) -> Result<SpiffeId, PeerIdentityError> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref())
        .map_err(|error| PeerIdentityError::Malformed(error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| PeerIdentityError::Malformed(error.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => Ok(uri.parse()?),
        (first, more) => Err(PeerIdentityError::UriCount(usize::from(first.is_some()) + more)),
    }
}

/// The SPIFFE id of a connection's peer, once the handshake is over.
///
/// # Errors
/// As [`certificate_identity`], and when the peer presented no certificate.
pub fn peer_identity(connection: &rustls::CommonState) -> Result<SpiffeId, PeerIdentityError> {
    let certificates = connection.peer_certificates().unwrap_or_default();
    certificate_identity(certificates.first().ok_or(PeerIdentityError::NoCertificate)?)
}

/// When a connection's peer ceases to be who its certificate says; the epoch where that cannot be told.
pub fn peer_not_after(connection: &rustls::CommonState) -> SystemTime {
    let certificates = connection.peer_certificates().unwrap_or_default();
    let end = certificates.first().and_then(|certificate| {
        let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).ok()?;
        Some(time(parsed.validity().not_after))
    });
    end.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A time of a certificate.
pub(crate) fn time(of: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(of.timestamp()).unwrap_or_default())
}

/// The cryptography of every HBONE connection: aws-lc, TLS 1.3 suites, X25519MLKEM768 before X25519, nothing else.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let default = aws_lc_rs::default_provider();
        let cipher_suites = default
            .cipher_suites
            .iter()
            .copied()
            .filter(|suite| suite.version().version == rustls::ProtocolVersion::TLSv1_3)
            .collect();
        Arc::new(CryptoProvider {
            cipher_suites,
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            ..default
        })
    });
    Arc::clone(&PROVIDER)
}
