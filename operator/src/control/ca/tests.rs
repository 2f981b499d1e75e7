use rcgen::{Certificate, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn request(algorithm: &'static SignatureAlgorithm) -> String {
    // A name and an authority's rights, asked for in vain.
    let mut params = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "someone else");
    let key = KeyPair::generate_for(algorithm).unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn identity() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "cart").unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
}

#[test]
fn issues_svid_for_each_kind_of_key_and_ignores_other_content() {
    let authority = CertificateAuthority::generate().unwrap();
    for algorithm in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
        &PKCS_RSA_SHA256,
    ] {
        let issued = authority
            .issue(&request(algorithm), &identity(), HOUR, DAY)
            .unwrap();
        assert_eq!(issued.chain.len(), 2);
        assert_eq!(issued.chain[1], authority.root_pem());
        let (leaf, root) = (der(&issued.chain[0]), der(&issued.chain[1]));
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let (_, root) = X509Certificate::from_der(&root).unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical);
        assert_eq!(
            names.value.general_names,
            [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart")]
        );
        assert_eq!(leaf.subject().iter().count(), 0);
        assert!(!leaf.is_ca());
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && extended.server_auth);
        let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        assert_eq!(life, (HOUR + BACKDATE).as_secs() as i64);
    }
}

#[test]
fn shortest_lifetime_applies_and_serials_differ() {
    let authority = CertificateAuthority::generate().unwrap();
    let csr = request(&PKCS_ECDSA_P256_SHA256);
    let now = SystemTime::now();
    let life = |requested, longest| {
        authority
            .issue(&csr, &identity(), requested, longest)
            .unwrap()
            .not_after
            .duration_since(now)
            .unwrap()
    };
    assert!(life(Duration::ZERO, HOUR) >= HOUR && life(Duration::ZERO, HOUR) < 2 * HOUR);
    assert!(life(10 * HOUR, HOUR) < 2 * HOUR);
    assert!(life(HOUR, 10 * HOUR) < 2 * HOUR);
    let beyond = authority
        .issue(&csr, &identity(), Duration::ZERO, 2 * ROOT_LIFE)
        .unwrap();
    assert_eq!(seconds(beyond.not_after), seconds(authority.not_after()));

    let serial = || {
        let chain = authority.issue(&csr, &identity(), HOUR, DAY).unwrap().chain;
        X509Certificate::from_der(&der(&chain[0]))
            .unwrap()
            .1
            .raw_serial()
            .to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn bad_requests_are_refused_with_reason() {
    let authority = CertificateAuthority::generate().unwrap();
    let refusal = |csr: &str| match authority.issue(csr, &identity(), HOUR, DAY) {
        Err(IssueError::Request(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(""), RequestError::Malformed);
    assert_eq!(
        refusal("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
        RequestError::Malformed
    );
    assert_eq!(refusal(authority.root_pem()), RequestError::Malformed);
    assert_eq!(refusal(&"x".repeat(LONG)), RequestError::TooLong);
    assert_eq!(
        refusal(&request(&rcgen::PKCS_ECDSA_P521_SHA512)),
        RequestError::Algorithm
    );
    assert_eq!(refusal(&someone_elses_key()), RequestError::Signature);
}

const LONG: usize = 20_000;

/// A request for a key that the caller does not have: the public key is changed after signing.
fn someone_elses_key() -> String {
    let csr = pem_contents(&request(&PKCS_ECDSA_P256_SHA256));
    let (mine, other) = (
        public_key(&csr),
        public_key(&pem_contents(&request(&PKCS_ECDSA_P256_SHA256))),
    );
    let at = csr.windows(mine.len()).position(|w| w == mine).unwrap();
    let mut forged = csr;
    forged[at..at + other.len()].copy_from_slice(&other);
    pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", forged))
}

fn pem_contents(text: &str) -> Vec<u8> {
    pem::parse(text).unwrap().into_contents()
}

fn public_key(csr: &[u8]) -> Vec<u8> {
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(csr).unwrap();
    request
        .certification_request_info
        .subject_pki
        .subject_public_key
        .data
        .to_vec()
}

fn intermediate() -> (CertificateAuthority, Certificate) {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&params, &root_key);
    let mut below = params.clone();
    below.distinguished_name.push(DnType::CommonName, "in between");
    let certificate = below.signed_by(&key, &issuer).unwrap();
    (
        CertificateAuthority::from_pem(&key.serialize_pem(), &certificate.pem(), &root.pem()).unwrap(),
        root,
    )
}

#[test]
fn under_an_intermediate_the_chain_leads_to_the_root() {
    let (authority, root) = intermediate();
    let issued = authority
        .issue(&request(&PKCS_ECDSA_P256_SHA256), &identity(), HOUR, DAY)
        .unwrap();
    assert_eq!(issued.chain.len(), 3);
    assert_eq!(der(&issued.chain[2]), *root.der());

    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .unwrap();
    let serving = authority
        .serving_certificate(&["ambit-control.ambit-system.svc".to_owned()])
        .unwrap();
    let name = ServerName::try_from("ambit-control.ambit-system.svc").unwrap();
    verifier
        .verify_server_cert(
            &serving.chain[0],
            &serving.chain[1..],
            &name,
            &[],
            UnixTime::now(),
        )
        .unwrap();
}

#[test]
fn key_and_certificate_must_belong_together() {
    let (one, other) = (
        CertificateAuthority::generate().unwrap(),
        CertificateAuthority::generate().unwrap(),
    );
    let error = CertificateAuthority::from_pem(&one.key_pem, &other.certificate_pem, &other.root_pem)
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "the key is not that of the certificate");
    let error = CertificateAuthority::from_pem("x", &one.certificate_pem, &one.root_pem)
        .err()
        .unwrap();
    assert!(error.to_string().starts_with("key cannot be read"), "{error}");
}
