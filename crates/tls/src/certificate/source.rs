//! Where certificates come from.

use rustls_pki_types::CertificateDer;

use ambit_identity::SpiffeId;

/// Why there is no certificate.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CertificateError {
    /// The CA refused the identity; asking again helps only when something changes (a pod becomes live, rights are given).
    #[error("the CA refused: {0}")]
    Refused(String),
    /// The CA could not be asked, or failed.
    #[error("the CA is unavailable: {0}")]
    Unavailable(String),
    /// What the CA sent, or the key made here, does not fit.
    #[error("the certificate is unusable: {0}")]
    Invalid(String),
    /// Nothing came within the time given.
    #[error("no certificate within {}s; last error: {}", .waited.as_secs_f32(), .last.as_deref().unwrap_or("none"))]
    Timeout {
        /// How long the caller waited.
        waited: std::time::Duration,
        /// What the last attempt said.
        last: Option<String>,
    },
    /// The manager has shut down.
    #[error("shutting down")]
    Closed,
}

impl CertificateError {
    /// [`CertificateError::Invalid`] with the words of `error`.
    pub fn invalid(error: impl std::fmt::Display) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// A certificate authority, as the manager sees it: signing requests in, chains out.
#[async_trait::async_trait]
pub trait CertificateSource: Send + Sync + 'static {
    /// Asks for a certificate of `identity` for the key that signed `csr` (PEM). The answer is leaf first, root last.
    ///
    /// # Errors
    /// When the CA refuses, cannot be reached, or answers nonsense.
    async fn sign(
        &self,
        identity: &SpiffeId,
        csr: String,
    ) -> Result<Vec<CertificateDer<'static>>, CertificateError>;
}
