//! Certificate signing requests: an accepted request proves that its sender has a key, and a certificate for that key
//! can be issued and read.
//!
//! Input: PEM, or DER that is put into PEM here.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, Issuer, KeyPair, PublicKeyData};

// The operator's own code, without its crate: that depends on a Kubernetes client, which takes half an hour to compile
// with instrumentation.
#[path = "../../operator/src/control/ca/request.rs"]
mod request;

static ISSUER: LazyLock<Issuer<'static, KeyPair>> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key");
    Issuer::new(CertificateParams::default(), key)
});

fuzz_target!(|data: &[u8]| {
    let text = match std::str::from_utf8(data) {
        Ok(text) if text.starts_with("-----") => text.to_owned(),
        _ => pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", data)),
    };
    let Ok(key) = request::verified_key(&text) else {
        return;
    };
    let certificate = CertificateParams::default().signed_by(&key, &*ISSUER);
    let certificate = certificate.expect("a certificate for a key that signs");
    let (_, read) = x509_parser::parse_x509_certificate(certificate.der()).expect("a certificate");
    assert_eq!(read.public_key().raw, key.subject_public_key_info());
});
