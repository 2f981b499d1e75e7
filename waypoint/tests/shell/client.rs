//! Both ends of the way: a client that speaks HBONE, and an application.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{HboneConfig, HbonePool, PoolKey};
use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateManager, IdentityLease, ManagerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The service's virtual address.
const VIP: &str = "10.96.0.1:80";
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    pool: HbonePool,
    lease: IdentityLease,
    key: PoolKey,
}

impl Client {
    pub(crate) fn new(ca: &Arc<TestCa>, waypoint: SocketAddr, account: &str) -> Self {
        let of = |account| SpiffeId::new("cluster.local", "shop", account).unwrap();
        let manager = CertificateManager::new(Arc::clone(ca) as _, ManagerConfig::default());
        let key = PoolKey {
            source: of(account),
            destination: [of("waypoint")].into(),
            address: waypoint,
            workload: "waypoint".into(),
            pod: account.into(),
        };
        Self {
            pool: HbonePool::new(HboneConfig::default()),
            lease: manager.lease(key.source.clone()),
            key,
        }
    }

    /// A request over a connection of its own: status, head and body of the answer.
    pub(crate) async fn send(&mut self, method: &str, path: &str) -> (u16, String, String) {
        let address = self.key.address;
        let dial = move || TcpStream::connect(address);
        let stream = self
            .pool
            .open(&self.key, &self.lease, &VIP.parse().unwrap(), dial)
            .await
            .unwrap();
        exchange(stream.into_io(), method, path).await
    }
}

pub(crate) async fn get_plain(address: SocketAddr, path: &str) -> (u16, String) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (status, _, body) = exchange(tcp, "GET", path).await;
    (status, body)
}

async fn exchange(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
) -> (u16, String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
    let exchange = async {
        io.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

/// Answers with the request's method and path.
pub(crate) async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = tcp.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let line = head.split(" HTTP").next().unwrap();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{line}",
                    line.len()
                );
                tcp.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
    address
}
