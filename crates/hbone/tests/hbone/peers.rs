//! Who may talk to whom.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_hbone::{ConnectError, OpenError};
use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{HandshakeError, IdentityMismatch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Destination, GOAWAY, Source, WAIT, application, frame, id, manager, raw, tls};

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
    let OpenError::Connect(ConnectError::Tls {
        error: HandshakeError::Mismatch(IdentityMismatch::Unexpected { found, expected }),
        ..
    }) = error
    else {
        panic!("{error}")
    };
    assert_eq!((found, &*expected), (id("impostor"), &[id("server")][..]));
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

/// Short, but longer than a busy machine makes a handshake wait.
const LIFETIME: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_clients_streams_go_on_after_its_certificate_and_new_ones_need_another() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    // Has its certificate before that of the client below is made short-lived.
    Source::new(&ca, id("other"))
        .open(&server, address)
        .await
        .unwrap();
    ca.set_lifetime(Some(LIFETIME));
    let mut client = raw(&ca, &server).await;
    listener.accept().await.unwrap();
    let connect = || http::Request::connect(address.to_string()).body(()).unwrap();
    let (response, mut send) = client.send_request(connect(), false).unwrap();
    response.await.unwrap();
    let (mut application, _) = listener.accept().await.unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    // This client looks at no clock: it hears of it.
    let told = async {
        loop {
            let answer = async {
                client = client.clone().ready().await?;
                client.send_request(connect(), true)?.0.await
            };
            match answer.await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => break error.reason(),
            }
        }
    };
    let told = tokio::time::timeout(WAIT, told).await.unwrap();
    assert!(
        matches!(told, Some(h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM)),
        "{told:?}"
    );
    send.send_data("still here".into(), false).unwrap();
    application.read_exact(&mut [0; 10]).await.unwrap();
}

const RST_STREAM: u8 = 3;
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

#[tokio::test]
async fn a_client_that_does_not_heed_its_certificates_end_opens_nothing() {
    let ca = Arc::new(TestCa::new().unwrap());
    let mut server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    Source::new(&ca, id("other"))
        .open(&server, address)
        .await
        .unwrap();
    server.peers.recv().await.unwrap();
    ca.set_lifetime(Some(LIFETIME));
    let certificate = manager(&ca).lease(id("client")).certificate(WAIT).await.unwrap();
    let mut tls = tls(&certificate, &server).await;
    // Frames of its own making: the preface, SETTINGS, and no answer to anything that the server says.
    let connect = |stream: u8| {
        let authority = address.to_string();
        let mut fields = [&[0x02, 7][..], b"CONNECT", &[0x01, authority.len() as u8]].concat();
        fields.extend_from_slice(authority.as_bytes());
        let mut frame = vec![0, 0, fields.len() as u8, 1, 4, 0, 0, 0, stream];
        frame.extend_from_slice(&fields);
        frame
    };
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    tls.write_all(&connect(1)).await.unwrap();
    assert_eq!(server.peers.recv().await, Some(id("client")));
    let going = async { while frame(&mut tls).await.0 != GOAWAY {} };
    tokio::time::timeout(WAIT, going).await.unwrap();
    assert!(!certificate.is_valid(std::time::SystemTime::now()));
    tls.write_all(&connect(3)).await.unwrap();
    let refused = async {
        loop {
            let (kind, stream, payload) = frame(&mut tls).await;
            if stream == 3 {
                break (kind, payload);
            }
        }
    };
    let refused = tokio::time::timeout(WAIT, refused).await.unwrap();
    assert_eq!(refused, (RST_STREAM, REFUSED_STREAM.to_vec()));
    assert!(server.peers.try_recv().is_err());
}

#[tokio::test]
async fn a_servers_new_certificate_is_asked_for_when_the_old_one_ends() {
    let ca = Arc::new(TestCa::new().unwrap());
    let (listener, address) = application().await;
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let source = Source::new(&ca, id("client"));
    source.lease.certificate(WAIT).await.unwrap();
    ca.set_lifetime(Some(LIFETIME));
    let server = Destination::start(&ca, id("server")).await;
    let opening = async {
        while server.connections.load(Ordering::SeqCst) < 2 {
            source.open(&server, address).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(WAIT, opening).await.unwrap();
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
