//! A certificate authority in memory, for tests of this crate and of the proxies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;

use crate::{CertificateError, CertificateSource};
use ambit_identity::SpiffeId;

/// Signs whatever it is asked to, unless told otherwise.
#[derive(Debug)]
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    requests: AtomicUsize,
    lifetime: Mutex<Option<Duration>>,
    refusal: Mutex<Option<CertificateError>>,
}

impl TestCa {
    /// A CA with a new key and root.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self {
            issuer: Issuer::new(params, key),
            root,
            requests: AtomicUsize::new(0),
            lifetime: Mutex::new(None),
            refusal: Mutex::new(None),
        })
    }

    /// How often it was asked.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// How long its next certificates last, from now; without, from 2020 to 2120.
    pub fn set_lifetime(&self, lifetime: Option<Duration>) {
        *self.lifetime.lock() = lifetime;
    }

    /// What its next answers are, instead of certificates.
    pub fn set_refusal(&self, refusal: Option<CertificateError>) {
        *self.refusal.lock() = refusal;
    }

    fn issue(&self, identity: &SpiffeId, csr: &str) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        let params = &mut request.params;
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2120, 1, 1);
        if let Some(lifetime) = *self.lifetime.lock() {
            let now = std::time::SystemTime::now();
            params.not_before = now.into();
            params.not_after = (now + lifetime).into();
        }
        Ok(request.signed_by(&self.issuer)?.der().clone())
    }
}

#[async_trait::async_trait]
impl CertificateSource for TestCa {
    async fn sign(
        &self,
        identity: &SpiffeId,
        csr: String,
    ) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(refusal) = self.refusal.lock().clone() {
            return Err(refusal);
        }
        let leaf = self
            .issue(identity, &csr)
            .map_err(|error| CertificateError::Invalid(error.to_string()))?;
        Ok(vec![leaf, self.root.clone()])
    }
}
