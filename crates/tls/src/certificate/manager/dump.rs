//! What the config dump shows of certificates.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Status;
use ambit_identity::SpiffeId;

/// An identity that is in use.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDump {
    /// Whose.
    pub identity: SpiffeId,
    /// Where it stands.
    pub state: CertificateState,
    /// What the last attempt to get one said, when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The certificate held.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub chain: Option<ChainDump>,
}

/// Whether there is a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum CertificateState {
    /// Held and valid.
    Available,
    /// Asked for, not held yet.
    Initializing,
    /// None is valid and the last attempt failed.
    Unavailable,
}

/// A certificate's public half.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainDump {
    /// The leaf's, hexadecimal.
    pub serial_number: String,
    /// Seconds since 1970.
    pub valid_from: u64,
    /// Seconds since 1970.
    pub expiration_time: u64,
    /// PEM, leaf first.
    pub cert_chain: Vec<String>,
    /// PEM.
    pub root_certs: Vec<String>,
}

pub(super) fn dump(identity: &SpiffeId, status: &Status, now: SystemTime) -> CertificateDump {
    let state = match (status.valid(now), &status.failure) {
        (Some(_), _) => CertificateState::Available,
        (None, Some(_)) => CertificateState::Unavailable,
        (None, None) => CertificateState::Initializing,
    };
    let pem =
        |der: &rustls_pki_types::CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref()));
    CertificateDump {
        identity: identity.clone(),
        state,
        error: status.failure.as_ref().map(ToString::to_string),
        chain: status.certificate.as_ref().map(|certificate| ChainDump {
            serial_number: certificate.serial().to_owned(),
            valid_from: seconds(certificate.not_before()),
            expiration_time: seconds(certificate.not_after()),
            cert_chain: certificate.chain().iter().map(pem).collect(),
            root_certs: certificate.roots().iter().map(pem).collect(),
        }),
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs())
        .unwrap_or_default()
}
