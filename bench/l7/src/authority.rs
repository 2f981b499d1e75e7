//! The certificate authority of a benchmark: its key lies in a file, so that load, backend and control plane are of one
//! mesh.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ambit_bench::l7::{NAMESPACE, TRUST_DOMAIN, WAYPOINT, files};
use ambit_identity::SpiffeId;
use ambit_tls::{CertificateError, CertificateManager, CertificateSource, IdentityLease, ManagerConfig};
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Signs what its own processes ask it to.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
}

impl Authority {
    /// Makes a new one, and a certificate for the proxy, in `dir`.
    pub(crate) fn create(dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key)?.pem();
        write(dir, files::ROOT, &root)?;
        write(dir, files::ROOT_KEY, &key.serialize_pem())?;
        write(dir, files::TOKEN, "none")?;
        let authority = Self {
            issuer: Issuer::new(params, key),
            root_pem: root,
        };
        let (certificate, key) =
            authority.issue(SanType::URI(identity(WAYPOINT)?.to_string().try_into()?))?;
        write(dir, files::CERTIFICATE, &certificate)?;
        write(dir, files::KEY, &key)
    }

    /// The one in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let root_pem = read(dir, files::ROOT)?;
        let key = KeyPair::from_pem(&read(dir, files::ROOT_KEY)?)?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&root_pem, key)?,
            root_pem,
        })
    }

    /// The root certificate.
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A certificate for an address, and its key, PEM.
    pub(crate) fn server(&self, ip: IpAddr) -> Result<(String, String)> {
        self.issue(SanType::IpAddress(ip))
    }

    /// A certificate of `identity` for the key of a signing request, PEM.
    pub(crate) fn sign(&self, identity: &SpiffeId, csr: &str) -> Result<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        let name = SanType::URI(identity.to_string().try_into()?);
        complete(&mut request.params, name);
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// A lease on the certificate of a service account, which this authority issues.
    pub(crate) fn lease(self, service_account: &str) -> Result<IdentityLease> {
        let manager = CertificateManager::new(Arc::new(self), ManagerConfig::default());
        Ok(manager.lease(identity(service_account)?))
    }

    fn issue(&self, name: SanType) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        complete(&mut params, name);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

#[async_trait::async_trait]
impl CertificateSource for Authority {
    async fn sign(
        &self,
        identity: &SpiffeId,
        csr: String,
    ) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        let chain = Authority::sign(self, identity, &csr)
            .map_err(|error| CertificateError::Invalid(error.to_string()))?;
        [chain.as_str(), self.root_pem()]
            .into_iter()
            .map(|pem| {
                CertificateDer::from_pem_slice(pem.as_bytes())
                    .map_err(|error| CertificateError::Invalid(error.to_string()))
            })
            .collect()
    }
}

/// The SPIFFE id of one of the benchmark's service accounts.
pub(crate) fn identity(service_account: &str) -> Result<SpiffeId> {
    Ok(SpiffeId::new(TRUST_DOMAIN, NAMESPACE, service_account)?)
}

fn complete(params: &mut CertificateParams, name: SanType) {
    params.subject_alt_names = vec![name];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    // Nothing is renewed while something is measured.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
}

fn read(dir: &Path, name: &str) -> Result<String> {
    let path = dir.join(name);
    fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; `ambit-bench-l7 setup` makes it", path.display()))
}

fn write(dir: &Path, name: &str, content: &str) -> Result<()> {
    let path = dir.join(name);
    fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn authority_issues_certificates_of_one_mesh() {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path()).unwrap();
        let lease = Authority::open(dir.path()).unwrap().lease("client").unwrap();
        let certificate = lease.certificate(Duration::from_secs(10)).await.unwrap();
        assert_eq!(certificate.identity(), &identity("client").unwrap());
        let root = fs::read(dir.path().join(files::ROOT)).unwrap();
        assert_eq!(
            certificate.roots(),
            [CertificateDer::from_pem_slice(&root).unwrap()]
        );
        let proxy = fs::read(dir.path().join(files::CERTIFICATE)).unwrap();
        let proxy = CertificateDer::from_pem_slice(&proxy).unwrap();
        assert_eq!(
            ambit_tls::certificate_identity(&proxy).unwrap(),
            identity("waypoint").unwrap()
        );
    }

    #[test]
    fn missing_authority_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = Authority::open(dir.path()).map(drop).unwrap_err().to_string();
        assert!(error.contains("setup"), "{error}");
    }
}
