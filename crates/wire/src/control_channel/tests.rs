use std::error::Error as _;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::client::GrpcService as _;

use super::*;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn acceptor(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()])
        .unwrap()
        .signed_by(&key, authority)
        .unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.into()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Connects, as the first call would; what went wrong, with all causes.
async fn connect(channel: &Channel) -> Result<(), String> {
    let mut channel = channel.clone();
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .map_err(|e| e.to_string())?;
    let request = http::Request::builder()
        .uri("/x/y")
        .body(tonic::body::Body::empty())
        .unwrap();
    channel.call(request).await.map(drop).map_err(|e| {
        let mut text = e.to_string();
        let mut cause = e.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    })
}

async fn server(
    name: &str,
) -> (
    String,
    CertifiedIssuer<'static, KeyPair>,
    tokio::task::JoinHandle<()>,
) {
    let (authority, listener) = (authority(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let acceptor = acceptor(&authority, name);
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let task = tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(tls) = acceptor.accept(tcp).await else {
                continue;
            };
            tokio::spawn(
                tonic::transport::Server::builder()
                    .add_routes(tonic::service::Routes::default())
                    .serve_with_incoming(tokio_stream::once(Ok::<_, io::Error>(tls))),
            );
        }
    });
    (url, authority, task)
}

fn root_file(directory: &TempDir, authority: &CertifiedIssuer<'static, KeyPair>) -> PathBuf {
    let path = directory.path().join("root-cert.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    path
}

#[tokio::test]
async fn the_root_is_read_again_at_each_connect() {
    let (url, right, task) = server("localhost").await;
    let directory = TempDir::new().unwrap();
    let channel = control_channel(&url, &directory.path().join("root-cert.pem")).unwrap();
    let error = connect(&channel).await.unwrap_err();
    assert!(error.contains("root-cert.pem"), "{error}");

    root_file(&directory, &authority());
    let error = connect(&channel).await.unwrap_err();
    assert!(error.contains("invalid peer certificate"), "{error}");

    root_file(&directory, &right);
    connect(&channel).await.unwrap();
    task.abort();
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (url, authority, task) = server("other.example").await;
    let directory = TempDir::new().unwrap();
    let channel = control_channel(&url, &root_file(&directory, &authority)).unwrap();
    let error = connect(&channel).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    task.abort();
}

#[tokio::test]
async fn only_https_urls_with_a_host_are_taken() {
    for url in ["http://localhost:1", "localhost:15012", "https://", ""] {
        assert!(control_channel(url, Path::new("/none")).is_err(), "{url}");
    }
    control_channel("https://[::1]:15012", Path::new("/none")).unwrap();
}
