use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;

/// Maximum length of a request, in bytes: an RSA key of 8192 bits takes about 3,000 in PEM.
const LONGEST: usize = 16 * 1024;

/// Why a certificate signing request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than any legitimate request.
    #[error("longer than {LONGEST} bytes")]
    TooLong,
    /// Not PEM with a PKCS#10 request in it.
    #[error("not a PKCS#10 request in PEM")]
    Malformed,
    /// An unsupported kind of key or signature.
    #[error(
        "key or signature algorithm not supported: take ECDSA P-256 or P-384, Ed25519, or RSA with SHA-2"
    )]
    Algorithm,
    /// The signature does not prove possession of the key; also RSA keys of less than 2048 bits.
    #[error("the signature does not verify (RSA keys must have 2048 bits or more)")]
    Signature,
}

/// The public key of a PKCS#10 request in PEM whose signature proves possession of the private key. Subject and
/// extensions of the request are ignored: the client's permissions decide what the certificate contains.
pub(super) fn verified_key(csr: &str) -> Result<SubjectPublicKeyInfo, RequestError> {
    if csr.len() > LONGEST {
        return Err(RequestError::TooLong);
    }
    let (_, pem) = parse_x509_pem(csr.as_bytes()).map_err(|_| RequestError::Malformed)?;
    // The second label is that of old OpenSSL.
    if !matches!(
        pem.label.as_str(),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"
    ) {
        return Err(RequestError::Malformed);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    let taken = [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_PKCS1_RSASSAPSS,
    ];
    if !taken.contains(&request.signature_algorithm.algorithm) {
        return Err(RequestError::Algorithm);
    }
    // Checked before the signature, so that an unknown curve is named in the error.
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| RequestError::Algorithm)?;
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    Ok(key)
}
