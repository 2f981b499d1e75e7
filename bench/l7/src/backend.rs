//! The other end: responds to every request with a few bytes, plain and in HBONE.

use std::io::Cursor;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ambit_bench::l7::{PEER_PATH, SERVER};
use ambit_hbone::{ConnectRequest, HboneConfig, HboneHandler, RequestRefusal, serve_hbone};
use ambit_identity::SpiffeId;
use ambit_tls::{IdentityLease, WorkloadCertificate, accept_tls};
use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authority::Authority;
use crate::{grpc, http1};

/// Bytes of a response's body.
const BODY: usize = 128;
const CERTIFICATE_LIMIT: Duration = Duration::from_secs(10);

/// Where to answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder of the certificate authority
    #[arg(long)]
    dir: PathBuf,
    /// Where HTTP/1.1 and gRPC are served in plaintext: IP:PORT
    #[arg(long)]
    http: SocketAddr,
    /// Where HBONE ends: IP:PORT
    #[arg(long)]
    hbone: SocketAddr,
}

/// Serves until the process is ended.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let backend = Backend::bind(options).await?;
    crate::waiting();
    backend.serve().await
}

/// Open ports and a certificate.
pub(crate) struct Backend {
    http: TcpListener,
    hbone: TcpListener,
    lease: IdentityLease,
    certificate: Arc<WorkloadCertificate>,
}

impl Backend {
    pub(crate) async fn bind(options: &Options) -> Result<Self> {
        let lease = Authority::open(&options.dir)?.lease(SERVER)?;
        Ok(Self {
            http: listen(options.http).await?,
            hbone: listen(options.hbone).await?,
            certificate: lease.certificate(CERTIFICATE_LIMIT).await?,
            lease,
        })
    }

    /// Answers for ever.
    pub(crate) async fn serve(&self) -> Result<()> {
        let connections = TaskTracker::new();
        let tunnels = |tcp| tunnels(tcp, Arc::clone(&self.certificate), self.lease.clone());
        tokio::try_join!(
            accept(&self.http, &connections, plain),
            accept(&self.hbone, &connections, tunnels)
        )
        .map(drop)
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// Gives each connection a task, which ends with it, or with the process.
async fn accept<F>(
    listener: &TcpListener,
    connections: &TaskTracker,
    serve: impl Fn(TcpStream) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    loop {
        let (tcp, peer) = listener.accept().await.context("cannot accept")?;
        tcp.set_nodelay(true)?;
        let serving = serve(tcp);
        connections.spawn(async move {
            if let Err(error) = serving.await {
                eprintln!("{peer}: {error:#}");
            }
        });
    }
}

async fn plain(tcp: TcpStream) -> Result<()> {
    answer(tcp, "").await
}

async fn tunnels(tcp: TcpStream, certificate: Arc<WorkloadCertificate>, lease: IdentityLease) -> Result<()> {
    // The lease keeps the certificate.
    let _lease = lease;
    let (tls, peer) = accept_tls(tcp, &certificate).await?;
    let handler = Arc::new(Handler { peer });
    serve_hbone(tls, &HboneConfig::default(), CancellationToken::new(), handler).await?;
    Ok(())
}

/// HTTP/1.1 or gRPC, as the client begins.
async fn answer(mut io: impl http1::Io, peer: &str) -> Result<()> {
    let mut begun = Vec::with_capacity(8 << 10);
    while begun.len() < grpc::PREFACE.len() && grpc::PREFACE.starts_with(&begun) {
        if io.read_buf(&mut begun).await? == 0 {
            return Ok(io.shutdown().await?);
        }
    }
    if begun.starts_with(grpc::PREFACE) {
        let (reader, writer) = tokio::io::split(io);
        return grpc::serve(tokio::io::join(Cursor::new(begun).chain(reader), writer)).await;
    }
    let body = http1::response(&".".repeat(BODY));
    Ok(http1::serve(io, begun, PEER_PATH, &http1::response(peer), &body).await?)
}

struct Handler {
    peer: SpiffeId,
}

impl HboneHandler for Handler {
    async fn connect(self: Arc<Self>, request: ConnectRequest) {
        match request.accept() {
            // Proxies end streams as they like when they are stopped.
            Ok(stream) => drop(answer(stream.into_io(), &self.peer.to_string()).await),
            Err(error) => eprintln!("{}: {error}", self.peer),
        }
    }

    fn refused(&self, refusal: &RequestRefusal) {
        eprintln!("{}: {refusal}", self.peer);
    }
}

#[cfg(test)]
mod tests;
