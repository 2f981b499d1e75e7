//! A workload's certificate and what TLS needs of it, built once when it arrives.

mod manager;
mod source;

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::{self, ALPN, ExpectedPeer, MeshClientVerifier, PeerIdentityError, certificate_identity};
use ambit_identity::SpiffeId;

pub use manager::{
    CertificateDump, CertificateManager, CertificateState, ChainDump, IdentityLease, ManagerConfig,
};
pub use source::{CertificateError, CertificateSource};

/// A certificate, its key, and the TLS configurations made from them.
pub struct WorkloadCertificate {
    identity: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    root_certificates: Vec<CertificateDer<'static>>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    roots: Arc<RootCertStore>,
    server: Arc<ServerConfig>,
    client: ClientConfig,
}

impl std::fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl WorkloadCertificate {
    /// Puts together what a CA answered. `certificates` are leaf first and root last, as `IstioCertificateService` sends
    /// them; further `roots` are trusted besides.
    ///
    /// # Errors
    /// When the chain is shorter than two, is not for `identity` or not for `key`, or cannot be read.
    pub fn new(
        identity: SpiffeId,
        key: PrivateKeyDer<'static>,
        mut certificates: Vec<CertificateDer<'static>>,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, CertificateError> {
        let root = certificates.pop().filter(|_| !certificates.is_empty());
        let root =
            root.ok_or_else(|| CertificateError::invalid("the chain has fewer than two certificates"))?;
        let leaf = &certificates[0];
        let found = certificate_identity(leaf)
            .map_err(|error: PeerIdentityError| CertificateError::invalid(error))?;
        if found != identity {
            return Err(CertificateError::invalid(format!("it is for {found}")));
        }
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(CertificateError::invalid)?;
        let serial = parsed.raw_serial_as_string();
        let not_before = tls::time(parsed.validity().not_before);
        let not_after = tls::time(parsed.validity().not_after);

        let others = roots
            .iter()
            .filter(|other| **other != root)
            .cloned()
            .collect::<Vec<_>>();
        let mut root_certificates = vec![root];
        root_certificates.extend(others);
        let mut store = RootCertStore::empty();
        for certificate in &root_certificates {
            store
                .add(certificate.clone())
                .map_err(CertificateError::invalid)?;
        }
        let store = Arc::new(store);

        let provider = tls::provider();
        let signing_key = provider
            .key_provider
            .load_private_key(key)
            .map_err(CertificateError::invalid)?;
        let certified = CertifiedKey::new(certificates.clone(), signing_key);
        certified.keys_match().map_err(CertificateError::invalid)?;
        let certified = Arc::new(rustls::sign::SingleCertAndKey::from(certified));

        let verifier = MeshClientVerifier::new(Arc::clone(&store), identity.trust_domain())
            .map_err(CertificateError::invalid)?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(CertificateError::invalid)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&certified) as _);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Connections are pooled and last: resumption would save little, and tickets would outlive the certificate.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let nobody = ExpectedPeer {
            roots: Arc::clone(&store),
            expected: Arc::new([]),
        };
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(CertificateError::invalid)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(nobody))
            .with_client_cert_resolver(certified);
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;

        Ok(Self {
            identity,
            chain: certificates,
            root_certificates,
            serial,
            not_before,
            not_after,
            roots: store,
            server: Arc::new(server),
            client,
        })
    }

    /// Whose certificate it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The mesh's roots, as the CA gave them.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.root_certificates
    }

    /// Start of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf's serial number, hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Whether it can be used at that time.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        now < self.not_after
    }

    /// TLS as an HBONE server: clients of the mesh root and of this identity's trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// TLS as an HBONE client of a server that must be one of `expected`.
    pub fn client_config(&self, expected: Arc<[SpiffeId]>) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        let verifier = ExpectedPeer {
            roots: Arc::clone(&self.roots),
            expected,
        };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }
}
