//! The mesh's certificate authority.

mod request;
mod store;

use std::time::{Duration, SystemTime};

use ambit_identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use request::RequestError;
pub use store::{StoreError, load_or_create, stored_root};

const DAY: Duration = Duration::from_secs(24 * 3600);
const ROOT_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Clocks of nodes may be behind ours by this much.
const BACKDATE: Duration = Duration::from_secs(120);

/// Why key and certificates cannot be used as a certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The text is not PEM, or has other content.
    #[error("{what} cannot be read: {why}")]
    Unreadable {
        /// The text concerned.
        what: &'static str,
        /// The cause.
        why: String,
    },
    /// Key and certificate do not belong together, or the certificate is not an authority's.
    #[error("{0}")]
    Unfit(&'static str),
    /// A certificate could not be created.
    #[error(transparent)]
    Generate(#[from] rcgen::Error),
}

/// Why no certificate is issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is invalid.
    #[error("certificate signing request: {0}")]
    Request(#[from] RequestError),
    /// The authority's own certificate has expired, or signing failed.
    #[error("{0}")]
    Authority(String),
}

/// A certificate authority: its key, its certificate, and its root (its own certificate, unless the key is an
/// intermediate's).
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
    certificate_pem: String,
    root_pem: String,
    not_after: SystemTime,
}

/// A leaf certificate and its chain to the root.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM, leaf first, root last.
    pub chain: Vec<String>,
    /// When the leaf expires.
    pub not_after: SystemTime,
}

/// The control plane's serving certificate.
pub(super) struct ServingCertificate {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl CertificateAuthority {
    /// A new self-signed P-256 authority, valid for ten years.
    pub fn generate() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Ambit");
        params
            .distinguished_name
            .push(DnType::CommonName, "Ambit mesh root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial());
        let now = SystemTime::now();
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + ROOT_LIFE).into();
        let certificate = params.self_signed(&key)?.pem();
        Self::from_pem(&key.serialize_pem(), &certificate, &certificate)
    }

    /// An authority from PEM: its PKCS#8 key, its certificate (for an intermediate, followed by those above it), and
    /// the root.
    pub fn from_pem(key_pem: &str, certificate_pem: &str, root_pem: &str) -> Result<Self, AuthorityError> {
        let unreadable = |what| {
            move |e: &dyn std::fmt::Display| AuthorityError::Unreadable {
                what,
                why: e.to_string(),
            }
        };
        let key = KeyPair::from_pem(key_pem).map_err(|e| unreadable("key")(&e))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| unreadable("certificate")(&e))?;
        CertificateDer::from_pem_slice(root_pem.as_bytes())
            .map_err(|e| unreadable("root certificate")(&e))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|e| unreadable("certificate")(&e))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::Unfit("the key is not that of the certificate"));
        }
        if !parsed.is_ca() {
            return Err(AuthorityError::Unfit(
                "the certificate is not a certificate authority's",
            ));
        }
        let expiry = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        Ok(Self {
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(expiry),
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            key_pem: key_pem.to_owned(),
            certificate_pem: certificate_pem.to_owned(),
            root_pem: root_pem.to_owned(),
        })
    }

    /// The root, PEM, which the whole mesh trusts.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// When the authority's certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Issues an X.509-SVID for `identity` and the key that signed the request `csr` (PEM, PKCS#10). All other content
    /// of the request is ignored. It is valid for `requested` (zero: no request), at most for `longest`, and not beyond
    /// the authority.
    pub fn issue(
        &self,
        csr: &str,
        identity: &SpiffeId,
        requested: Duration,
        longest: Duration,
    ) -> Result<Issued, IssueError> {
        let key = request::verified_key(csr)?;
        let life = if requested.is_zero() {
            longest
        } else {
            requested.min(longest)
        };
        let uri = identity.to_string().try_into().map_err(authority_error)?;
        let usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let (leaf, not_after) = self.sign(&key, vec![SanType::URI(uri)], usages, life)?;
        let mut chain = vec![leaf];
        if self.certificate_pem.trim() != self.root_pem.trim() {
            chain.push(self.certificate_pem.clone());
        }
        chain.push(self.root_pem.clone());
        Ok(Issued { chain, not_after })
    }

    /// A certificate for a TLS server under `names`, with a new key, for a day.
    pub(super) fn serving_certificate(&self, names: &[String]) -> Result<ServingCertificate, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(authority_error)?;
        let names = names
            .iter()
            .map(|name| name.as_str().try_into().map(SanType::DnsName));
        let names = names.collect::<Result<_, _>>().map_err(authority_error)?;
        let (leaf, _) = self.sign(&key, names, vec![ExtendedKeyUsagePurpose::ServerAuth], DAY)?;
        let chain = format!("{leaf}\n{}", self.certificate_pem);
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>();
        Ok(ServingCertificate {
            chain: chain.map_err(authority_error)?,
            key: PrivateKeyDer::try_from(key.serialize_der()).map_err(authority_error)?,
        })
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        life: Duration,
    ) -> Result<(String, SystemTime), IssueError> {
        let now = SystemTime::now();
        if self.not_after <= now {
            return Err(IssueError::Authority(
                "the mesh's certificate authority has expired".to_owned(),
            ));
        }
        let not_after = (now + life).min(self.not_after);
        let mut params = CertificateParams::default();
        // Without a subject the alternative name is critical (RFC 5280 §4.2.1.6), as X.509-SVID §4.1 asks for.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial());
        params.not_before = (now - BACKDATE).into();
        params.not_after = not_after.into();
        let certificate = params.signed_by(key, &self.issuer).map_err(authority_error)?;
        Ok((certificate.pem(), not_after))
    }
}

/// 20 octets at most, positive, not zero (RFC 5280 §4.1.2.2).
fn random_serial() -> SerialNumber {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&serial)
}

fn authority_error(error: impl std::fmt::Display) -> IssueError {
    IssueError::Authority(error.to_string())
}

#[cfg(test)]
mod tests;
