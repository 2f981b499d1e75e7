//! The connection to the control plane: a gRPC channel over TLS that trusts only the mesh root, and the token that
//! authenticates calls.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The keepalive interval. A control plane that no longer responds is detected within twice this time.
const KEEPALIVE: Duration = Duration::from_secs(5);
const WINDOW: u32 = 4 << 20;

/// Why a URL is not that of a control plane.
#[derive(Debug, thiserror::Error)]
pub enum ControlChannelError {
    /// Not a URL of the form `https://host[:port]`.
    #[error("control plane URL {url:?} is not of the form https://host[:port]")]
    Url {
        /// The text given.
        url: String,
    },
    /// The host is not valid in a certificate.
    #[error("control plane URL {url:?}: {source}")]
    Host {
        /// The text given.
        url: String,
        /// The error in the host.
        source: InvalidDnsNameError,
    },
    /// gRPC rejects the URL.
    #[error(transparent)]
    Endpoint(#[from] tonic::transport::Error),
}

/// A channel to the control plane at `url` (`https://host[:port]`, default port 443). It connects at first use, and
/// again after each loss. It requires TLS 1.3 and a certificate for the host of the URL under the roots in `root_cert`
/// (PEM). That file is read at each connect. A peer that no longer responds is detected within 10 s.
pub fn control_channel(url: &str, root_cert: &Path) -> Result<Channel, ControlChannelError> {
    let malformed = || ControlChannelError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| malformed())?;
    let host = uri
        .host()
        .filter(|_| uri.scheme_str() == Some("https"))
        .ok_or_else(malformed)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let server = Server {
        server_name: server_name(url, &host)?,
        host,
        port: uri.port_u16().unwrap_or(443),
        roots: Roots::File(root_cert.to_owned()),
    };
    channel(server, &uri)
}

/// A channel to the one replica at `address`. Its certificate must be for `name`, under `roots` (PEM).
pub fn control_channel_at(
    address: SocketAddr,
    name: &str,
    roots: &str,
) -> Result<Channel, ControlChannelError> {
    let url = format!("https://{name}:{}", address.port());
    let uri: Uri = url
        .parse()
        .map_err(|_| ControlChannelError::Url { url: url.clone() })?;
    let server = Server {
        server_name: server_name(&url, name)?,
        host: address.ip().to_string(),
        port: address.port(),
        roots: Roots::Pem(roots.to_owned()),
    };
    channel(server, &uri)
}

fn server_name(url: &str, host: &str) -> Result<ServerName<'static>, ControlChannelError> {
    ServerName::try_from(host.to_owned()).map_err(|source| ControlChannelError::Host {
        url: url.to_owned(),
        source,
    })
}

fn channel(server: Server, uri: &Uri) -> Result<Channel, ControlChannelError> {
    let server = Arc::new(server);
    let connector = tower::service_fn(move |_: Uri| {
        let server = Arc::clone(&server);
        async move { server.connect().await.map(TokioIo::new) }
    });
    // The connector does TLS, so the endpoint is plain for tonic. Requests have the scheme https.
    let plain = format!("http://{}", uri.authority().map_or("", |a| a.as_str()));
    let endpoint = Endpoint::from_shared(plain)?
        .origin(uri.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    Ok(endpoint.connect_with_connector_lazy(connector))
}

struct Server {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
    roots: Roots,
}

/// The source of the mesh root.
enum Roots {
    /// A file that is read at each connect.
    File(PathBuf),
    Pem(String),
}

impl Server {
    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let config = self.roots.client_config().await?;
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config))
            .connect(self.server_name.clone(), tcp)
            .await
    }
}

impl Roots {
    async fn client_config(&self) -> io::Result<ClientConfig> {
        let path = match self {
            Self::File(path) => path,
            Self::Pem(pem) => return client_config(pem.as_bytes()),
        };
        let failed = |e: io::Error| io::Error::new(e.kind(), format!("mesh root {}: {e}", path.display()));
        let pem = tokio::fs::read(path).await.map_err(failed)?;
        client_config(&pem).map_err(failed)
    }
}

fn client_config(root_pem: &[u8]) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(root_pem) {
        roots
            .add(certificate.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    if roots.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "holds no certificate"));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Authenticates each call (or stream) with the bearer token that is in the file at that moment, since projected
/// service-account tokens are rotated.
#[derive(Debug, Clone)]
pub struct TokenFile {
    path: Arc<Path>,
}

impl TokenFile {
    /// The token in the file at `path`, which is read at each call.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into().into(),
        }
    }

    /// The current token, without white space around it.
    pub fn read(&self) -> io::Result<String> {
        let token = std::fs::read_to_string(&self.path).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("service-account token {}: {e}", self.path.display()),
            )
        })?;
        Ok(token.trim().to_owned())
    }
}

impl Interceptor for TokenFile {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = self.read().map_err(|e| Status::unauthenticated(e.to_string()))?;
        let mut bearer = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Status::unauthenticated(format!("{} holds no token", self.path.display())))?;
        bearer.set_sensitive(true);
        request.metadata_mut().insert("authorization", bearer);
        Ok(request)
    }
}

#[cfg(test)]
mod tests;
