//! Somebody who speaks to the control plane and to pods' HBONE ports without being a ztunnel.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_e2e::cluster::Cluster;
use ambit_e2e::mesh::{self, Pod};
use ambit_identity::SpiffeId;
use ambit_tls::WorkloadCertificate;
use ambit_wire::ca::IstioCertificateRequest;
use ambit_wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use ambit_wire::names::{PORT_CONTROL, PORT_HBONE, TOKEN_AUDIENCE};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use prost_types::value::Kind;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

const LIMIT: Duration = Duration::from_secs(10);
const CONTROL: &str = "ambit-control.ambit-system.svc";

/// The mesh's root certificate, as every namespace may read it.
pub(crate) fn root(cluster: &Cluster) -> Result<CertificateDer<'static>> {
    let map = cluster.get(&["configmap", "ambit-ca-root", "--namespace", mesh::NAMESPACE])?;
    let pem = map["data"]["root-cert.pem"]
        .as_str()
        .context("the ConfigMap has no root")?;
    Ok(CertificateDer::from_pem_slice(pem.as_bytes())?)
}

/// A token of a service account for the control plane, bound to a pod where one is given. The account is of that pod's
/// namespace, otherwise of Ambit's.
pub(crate) fn token(cluster: &Cluster, account: &str, audience: &str, pod: Option<&Pod>) -> Result<String> {
    let audience = format!("--audience={audience}");
    let namespace = pod.map_or(mesh::NAMESPACE, |pod| pod.namespace.as_str());
    let mut words = vec!["create", "token", account, "--namespace", namespace, &audience];
    let (name, uid);
    if let Some(pod) = pod {
        name = format!("--bound-object-name={}", pod.name);
        uid = format!("--bound-object-uid={}", pod.uid);
        words.extend(["--bound-object-kind=Pod", &name, &uid]);
    }
    Ok(cluster.run_kubectl(&words)?.trim().to_owned())
}

/// The token that a ztunnel has.
pub(crate) fn ztunnel_token(cluster: &Cluster, ztunnel: &Pod) -> Result<String> {
    token(cluster, "ambit-ztunnel", TOKEN_AUDIENCE, Some(ztunnel))
}

/// A channel to one replica of the control plane.
pub(crate) async fn control_plane(cluster: &Cluster) -> Result<Channel> {
    let replica = mesh::control_planes(cluster)?
        .into_iter()
        .find(|pod| pod.ready)
        .context("no control plane is Ready")?;
    let root = root(cluster)?;
    let tls = TlsConnector::from(Arc::new(server_trust(&root)?));
    let address = SocketAddr::from((replica.ip, PORT_CONTROL));
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::try_from(CONTROL).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    let endpoint = Endpoint::from_static("http://ambit-control").timeout(LIMIT);
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// Asks one replica of the control plane for a certificate of `identity`; the error is the control plane's own.
pub(crate) async fn certificate(
    cluster: &Cluster,
    token: &str,
    identity: &SpiffeId,
) -> Result<Result<WorkloadCertificate, tonic::Status>> {
    let channel = control_plane(cluster).await?;
    let key = rcgen::KeyPair::generate()?;
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)?
        .pem()?;
    let impersonated = prost_types::Value {
        kind: Some(Kind::StringValue(identity.to_string())),
    };
    let metadata = prost_types::Struct {
        fields: [("ImpersonatedIdentity".to_owned(), impersonated)].into(),
    };
    let mut request = tonic::Request::new(IstioCertificateRequest {
        csr,
        validity_duration: 3600,
        metadata: Some(metadata),
    });
    if !token.is_empty() {
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse()?);
    }
    let answer = match IstioCertificateServiceClient::new(channel)
        .create_certificate(request)
        .await
    {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    let pem = answer.cert_chain.join("\n");
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Ok(WorkloadCertificate::new(identity.clone(), key, chain, &[])?))
}

/// A certificate of the same identity from a CA of one's own; it trusts the mesh.
pub(crate) async fn foreign_certificate(
    cluster: &Cluster,
    identity: &SpiffeId,
) -> Result<WorkloadCertificate> {
    use ambit_tls::CertificateSource;
    let key = rcgen::KeyPair::generate()?;
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&key)?
        .pem()?;
    let chain = ambit_tls::testing::TestCa::new()?.sign(identity, csr).await?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(WorkloadCertificate::new(
        identity.clone(),
        key,
        chain,
        &[root(cluster)?],
    )?)
}

fn server_trust(root: &CertificateDer<'static>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Shows no certificate.
#[derive(Debug)]
struct Nameless;

impl ResolvesClientCert for Nameless {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// How a caller of a pod's HBONE port presents itself.
pub(crate) struct Caller {
    config: Arc<ClientConfig>,
}

impl Caller {
    /// With a certificate, towards a pod of this identity.
    pub(crate) fn new(certificate: &WorkloadCertificate, expected: &SpiffeId) -> Self {
        Self {
            config: certificate.client_config([expected.clone()].into()),
        }
    }

    /// The same without showing it.
    pub(crate) fn nameless(certificate: &WorkloadCertificate, expected: &SpiffeId) -> Self {
        let mut config = (*certificate.client_config([expected.clone()].into())).clone();
        config.client_auth_cert_resolver = Arc::new(Nameless);
        Self {
            config: Arc::new(config),
        }
    }

    /// Makes one request and returns the status of the response. From this machine, which is in no pod.
    pub(crate) async fn ask(&self, pod: Ipv4Addr, method: Method, authority: &str) -> Result<StatusCode> {
        timeout(LIMIT, self.exchange(pod, method, authority))
            .await
            .map_err(|_| anyhow!("no answer in {LIMIT:?}"))?
    }

    /// Opens a connection, and who drives it.
    pub(crate) async fn open(
        &self,
        pod: Ipv4Addr,
    ) -> Result<(SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>)> {
        let tcp = TcpStream::connect((pod, PORT_HBONE)).await.context("connect")?;
        let name = ServerName::IpAddress(std::net::IpAddr::V4(pod).into());
        let tls = TlsConnector::from(Arc::clone(&self.config))
            .connect(name, tcp)
            .await
            .context("TLS")?;
        let (sender, connection) = h2::client::handshake(tls).await.context("HTTP/2")?;
        Ok((sender, tokio::spawn(connection)))
    }

    async fn exchange(&self, pod: Ipv4Addr, method: Method, authority: &str) -> Result<StatusCode> {
        let (sender, driver) = self.open(pod).await?;
        let uri = if method == Method::CONNECT {
            authority.to_owned()
        } else {
            format!("http://{authority}/")
        };
        let request = Request::builder().method(method).uri(uri).body(())?;
        let mut sender = sender.ready().await.context("HTTP/2")?;
        let (answer, _body) = sender.send_request(request, true).context("request")?;
        let status = answer.await.context("answer")?.status();
        driver.abort();
        Ok::<_, anyhow::Error>(status)
    }

    /// Sends an HTTP/1.1 request through the tunnel to `authority` and returns what comes back.
    pub(crate) async fn get_through(&self, pod: Ipv4Addr, authority: &str) -> Result<String> {
        let (sender, driver) = self.open(pod).await?;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(authority)
            .body(())?;
        let (answer, mut body) = sender.ready().await?.send_request(request, false)?;
        body.send_data(
            Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            false,
        )?;
        let mut answer = answer.await?.into_body();
        let mut text = Vec::new();
        while let Some(data) = timeout(LIMIT, answer.data()).await? {
            text.extend_from_slice(&data?);
        }
        driver.abort();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
