//! Who may talk to whom.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ambit_tunnel::testing::TestCa;
use ambit_tunnel::{ConnectError, OpenError, SpiffeId};
use tokio::net::TcpStream;

use crate::support::{Destination, Source, application, id};

#[tokio::test]
async fn the_server_learns_who_calls() {
    let ca = Arc::new(TestCa::new().unwrap());
    let mut server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    Source::new(&ca, id("client"))
        .open(&server, address)
        .await
        .unwrap();
    assert_eq!(server.peers.recv().await, Some(id("client")));
}

#[tokio::test]
async fn a_server_with_another_identity_is_not_talked_to() {
    let ca = Arc::new(TestCa::new().unwrap());
    let mut server = Destination::start(&ca, id("impostor")).await;
    let (_listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let key = source.key(server.address, &id("server"), "w");
    let error = source.open_key(&key, address).await.unwrap_err();
    let OpenError::Connect(ConnectError::Tls { reason, .. }) = error else {
        panic!("{error}")
    };
    assert!(
        reason.contains("sa/impostor") && reason.contains("sa/server"),
        "{reason}"
    );
    assert!(server.peers.try_recv().is_err());
}

#[tokio::test]
async fn a_server_of_a_foreign_root_is_not_talked_to() {
    let ca = Arc::new(TestCa::new().unwrap());
    let foreign = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&foreign, id("server")).await;
    let (_listener, address) = application().await;
    let error = Source::new(&ca, id("client"))
        .open(&server, address)
        .await
        .unwrap_err();
    assert!(
        matches!(error, OpenError::Connect(ConnectError::Tls { .. })),
        "{error}"
    );
}

/// The server refuses the client's certificate only after the client's side of the handshake, so the client may see it as the
/// stream's failure.
async fn is_refused_by_the_server(ca: &Arc<TestCa>, client_ca: &Arc<TestCa>, client: SpiffeId) {
    let mut server = Destination::start(ca, id("server")).await;
    let (_listener, address) = application().await;
    let lease = crate::support::manager(client_ca).lease(client);
    let certificate = lease.certificate(crate::support::WAIT).await.unwrap();
    // A client that believes whatever the server says, so that only the server's verdict counts.
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let mut config = (*certificate.client_config([].into())).clone();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(believing::Anyone));
    let name = rustls_pki_types::ServerName::IpAddress(server.address.ip().into());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    if let Ok(tls) = connector.connect(name, tcp).await {
        let (sender, connection) = h2::client::handshake(tls).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::connect(address.to_string()).body(()).unwrap();
        let answer = async {
            let (response, _send) = sender.ready().await?.send_request(request, false)?;
            response.await
        };
        assert!(answer.await.is_err());
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    assert!(server.peers.try_recv().is_err());
}

#[tokio::test]
async fn a_client_of_a_foreign_root_is_refused() {
    let ca = Arc::new(TestCa::new().unwrap());
    let foreign = Arc::new(TestCa::new().unwrap());
    is_refused_by_the_server(&ca, &foreign, id("client")).await;
}

#[tokio::test]
async fn a_client_of_another_trust_domain_is_refused() {
    let ca = Arc::new(TestCa::new().unwrap());
    is_refused_by_the_server(
        &ca,
        &ca,
        SpiffeId::new("elsewhere.example", "test", "client").unwrap(),
    )
    .await;
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(believing::Anyone))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = rustls_pki_types::ServerName::IpAddress(server.address.ip().into());
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap();
    let (_sender, connection) = h2::client::handshake(tls).await.unwrap();
    assert!(connection.await.is_err());
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_key_exchange_is_post_quantum() {
    let ca = Arc::new(TestCa::new().unwrap());
    let certificate = crate::support::manager(&ca)
        .lease(id("server"))
        .certificate(crate::support::WAIT)
        .await
        .unwrap();
    let (client, server) = crate::support::tcp_pair().await;
    let name = rustls_pki_types::ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let connector = tokio_rustls::TlsConnector::from(certificate.client_config([id("server")].into()));
    let acceptor = tokio_rustls::TlsAcceptor::from(certificate.server_config());
    let (client, _server) =
        tokio::try_join!(connector.connect(name, client), acceptor.accept(server)).unwrap();
    let connection = client.get_ref().1;
    assert_eq!(
        connection.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(
        connection
            .negotiated_key_exchange_group()
            .map(|group| group.name()),
        Some(rustls::NamedGroup::X25519MLKEM768)
    );
}

mod believing {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    pub(super) struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
}
