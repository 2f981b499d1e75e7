//! TLS streams as HBONE uses them.

use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server};

use super::{describe, peer_identity};
use crate::certificate::WorkloadCertificate;
use ambit_identity::SpiffeId;

/// rustls reads 4 KiB at a time; this reads more of what is there with one system call.
const READ_BUFFER: usize = 32 << 10;

/// What TLS runs over.
pub type Transport = BufReader<TcpStream>;

/// A connection as TLS reads it: buffered, so that one system call takes more than a record.
pub fn transport(tcp: TcpStream) -> Transport {
    BufReader::with_capacity(READ_BUFFER, tcp)
}

/// The server's end of an HBONE connection's TLS.
pub type ServerTlsStream = server::TlsStream<BufReader<TcpStream>>;

/// Accepts TLS as `certificate`'s identity, and learns the client's.
///
/// # Errors
/// Why the handshake failed, for people: the client presented no certificate, one of another mesh, or it does not speak TLS 1.3.
pub async fn accept_tls(
    tcp: TcpStream,
    certificate: &WorkloadCertificate,
) -> Result<(ServerTlsStream, SpiffeId), String> {
    // No buffer for whoever only connects.
    tcp.readable().await.map_err(|error| describe(&error))?;
    let acceptor = TlsAcceptor::from(certificate.server_config());
    let tls = acceptor
        .accept(transport(tcp))
        .await
        .map_err(|error| describe(&error))?;
    let identity = peer_identity(tls.get_ref().1).map_err(|error| error.to_string())?;
    Ok((tls, identity))
}
