//! The path of requests: plain TCP, or a CONNECT stream in HBONE.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ambit_bench::l7::CLIENT;
use ambit_hbone::{HboneConfig, HbonePool, PoolKey};
use ambit_tls::IdentityLease;
use anyhow::{Context, Result};
use http::uri::Authority as UriAuthority;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpStream;

use crate::authority::{Authority, identity};
use crate::http1::{Connection, Io};

/// How long to wait for the own certificate, which is made in this process.
const CERTIFICATE_LIMIT: Duration = Duration::from_secs(10);

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// What a ztunnel tells of the client's workload on each CONNECT.
const CLIENT_BAGGAGE: &str = "k8s.cluster.name=Kubernetes,k8s.namespace.name=bench,k8s.deployment.name=client,\
                              service.name=client,service.version=v1";

/// Where requests go.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The proxy, or the backend itself: IP:PORT
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// Speak HBONE, with a certificate of the authority in this folder
    #[arg(long, requires = "authority", requires = "peer")]
    pub(crate) hbone: Option<PathBuf>,
    /// What CONNECT asks for: IP:PORT
    #[arg(long)]
    pub(crate) authority: Option<SocketAddr>,
    /// Service account that the other end must have
    #[arg(long)]
    pub(crate) peer: Option<String>,
}

/// Opens connections.
pub(crate) enum Way {
    /// TCP.
    Plain(SocketAddr),
    /// CONNECT streams of one connection, as a ztunnel opens them for one client.
    Hbone {
        pool: HbonePool,
        lease: IdentityLease,
        key: PoolKey,
        authority: UriAuthority,
    },
}

impl Way {
    /// Prepares it: the certificate is there, nothing is connected.
    pub(crate) async fn new(options: &Options) -> Result<Self> {
        let Some(dir) = &options.hbone else {
            return Ok(Self::Plain(options.address));
        };
        let lease = Authority::open(dir)?.lease(CLIENT)?;
        lease.certificate(CERTIFICATE_LIMIT).await?;
        let authority = options.authority.context("--hbone needs --authority")?;
        let peer = options.peer.as_deref().context("--hbone needs --peer")?;
        let key = PoolKey {
            source: lease.identity().clone(),
            destination: Arc::new([identity(peer)?]),
            address: options.address,
            workload: "proxy".into(),
            pod: "load".into(),
        };
        Ok(Self::Hbone {
            pool: HbonePool::new(HboneConfig::default()),
            lease,
            key,
            authority: authority.to_string().parse()?,
        })
    }

    /// A new connection for HTTP/1.1.
    pub(crate) async fn open(&self) -> Result<Connection> {
        self.io().await.map(Connection::new)
    }

    /// A new connection.
    pub(crate) async fn io(&self) -> Result<Box<dyn Io>> {
        match self {
            Self::Plain(address) => Ok(Box::new(dial(*address).await?)),
            Self::Hbone {
                pool,
                lease,
                key,
                authority,
            } => {
                let address = key.address;
                let headers = HeaderMap::from_iter([(BAGGAGE, HeaderValue::from_static(CLIENT_BAGGAGE))]);
                let dial = move || dial(address);
                let stream = pool.open_with(key, lease, authority, &headers, dial).await?;
                Ok(Box::new(stream.into_io()))
            }
        }
    }
}

async fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
