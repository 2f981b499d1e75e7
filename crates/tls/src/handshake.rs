//! Handshakes, and the streams that they lead to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::certificate::{IdentityLease, WorkloadCertificate};
use crate::error::{AcceptError, HandshakeError};
use crate::tls::peer_identity;
use ambit_identity::SpiffeId;

/// rustls reads 4 KiB at a time; this reads more of what is there with one system call.
const READ_BUFFER: usize = 32 << 10;

/// The client's end of an HBONE connection's TLS.
pub type ClientTlsStream = client::TlsStream<BufReader<TcpStream>>;

/// The server's end of an HBONE connection's TLS.
pub type ServerTlsStream = server::TlsStream<BufReader<TcpStream>>;

fn transport(tcp: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(READ_BUFFER, tcp)
}

/// Opens TLS as `certificate`'s identity with the server at `address`, which must be one of `expected`.
///
/// # Errors
/// When the handshake fails.
pub async fn connect_tls(
    tcp: TcpStream,
    address: IpAddr,
    certificate: &WorkloadCertificate,
    expected: Arc<[SpiffeId]>,
) -> Result<ClientTlsStream, HandshakeError> {
    let connector = TlsConnector::from(certificate.client_config(expected));
    let name = ServerName::IpAddress(address.into());
    Ok(connector.connect(name, transport(tcp)).await?)
}

/// Accepts TLS as `certificate`'s identity, and learns the client's.
///
/// # Errors
/// When the handshake fails: the client presents no certificate or one of another mesh, or it does not speak TLS 1.3.
pub async fn accept_tls(
    tcp: TcpStream,
    certificate: &WorkloadCertificate,
) -> Result<(ServerTlsStream, SpiffeId), HandshakeError> {
    // No buffer for whoever only connects.
    tcp.readable().await?;
    let acceptor = TlsAcceptor::from(certificate.server_config());
    let tls = acceptor.accept(transport(tcp)).await?;
    let identity = peer_identity(tls.get_ref().1)?;
    Ok((tls, identity))
}

/// As [`accept_tls`], with the certificate of `lease`, which is waited for as long as the peer's handshake may take then.
///
/// # Errors
/// When there is no certificate, the handshake fails, or the client does not end it `within` that time.
pub async fn accept_peer(
    tcp: TcpStream,
    lease: &IdentityLease,
    within: Duration,
) -> Result<(ServerTlsStream, SpiffeId), AcceptError> {
    let certificate = lease.certificate(within).await?;
    match timeout(within, accept_tls(tcp, &certificate)).await {
        Ok(accepted) => Ok(accepted?),
        Err(_) => Err(AcceptError::Timeout(within)),
    }
}
