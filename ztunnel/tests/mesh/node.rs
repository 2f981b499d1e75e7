//! A node: ztunnel, agent, and pods that make connections.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ambit_tls::testing::TestCa;
use ambit_wire::broker_channel::Listener;
use ambit_wire::control_channel::TokenFile;
use ambit_wire::names::{PORT_ADMIN, PORT_INBOUND, PORT_METRICS, PORT_OUTBOUND, PORT_READY};
use ambit_ztunnel::{Config, Limits, OriginalDestination, Parts, Ztunnel};
use clap::Parser;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::agent::{Agent, at, identity, listen, listeners};
use crate::control_plane::ControlPlane;

pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// An address that no other test has.
pub(crate) fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    Ipv4Addr::new(
        127,
        77,
        std::process::id() as u8,
        NEXT.fetch_add(1, Ordering::SeqCst),
    )
}

/// Where redirected connections were going, by the client's address.
type Redirected = Arc<Mutex<HashMap<SocketAddr, SocketAddr>>>;

pub(crate) struct Node {
    pub(crate) ztunnel: Ztunnel,
    pub(crate) agent: Agent,
    pub(crate) broker: Listener,
    redirected: Redirected,
    metrics: SocketAddr,
    admin: SocketAddr,
    ready: SocketAddr,
    _directory: TempDir,
}

impl Node {
    pub(crate) async fn start(control_plane: &ControlPlane, ca: &Arc<TestCa>) -> Self {
        let limits = Limits {
            connect_timeout: Duration::from_secs(3),
            ..Limits::default()
        };
        Self::with(control_plane, ca, limits).await
    }

    pub(crate) async fn with(control_plane: &ControlPlane, ca: &Arc<TestCa>, limits: Limits) -> Self {
        let redirected = Redirected::default();
        let lookup = Arc::clone(&redirected);
        let original_destination: OriginalDestination = Arc::new(move |tcp| {
            let known = lookup.lock().unwrap().get(&tcp.peer_addr()?).copied();
            known.map_or_else(|| tcp.local_addr(), Ok)
        });
        let node = Self::start_parts(control_plane, ca, limits, Some(original_destination)).await;
        Self { redirected, ..node }
    }

    /// Without an `original_destination`, the kernel is asked.
    pub(crate) async fn start_parts(
        control_plane: &ControlPlane,
        ca: &Arc<TestCa>,
        limits: Limits,
        original_destination: Option<OriginalDestination>,
    ) -> Self {
        // AMBIT_LOG shows what the ztunnels of a failing test say.
        let filter = tracing_subscriber::EnvFilter::from_env("AMBIT_LOG");
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer();
        log.try_init().ok();
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "token").unwrap();
        let socket = directory.path().join("broker.sock");
        let broker = listen(&socket);
        let own = address();
        let data = tokio::runtime::Handle::current();
        let [metrics, admin, ready] = [PORT_METRICS, PORT_ADMIN, PORT_READY].map(|port| at(own, port));
        let config = Config::parse_from([
            "ambit-ztunnel",
            "--broker-socket",
            socket.to_str().unwrap(),
            "--metrics-address",
            &metrics.to_string(),
            "--admin-address",
            &admin.to_string(),
            "--ready-address",
            &ready.to_string(),
            "--drain-deadline",
            "20",
        ]);
        let real = Parts::of(&config, data.clone()).unwrap();
        let parts = Parts {
            control_plane: control_plane.channel(),
            token: TokenFile::new(token),
            certificates: Arc::clone(ca) as _,
            original_destination: original_destination.unwrap_or(real.original_destination),
            limits,
            data,
        };
        let ztunnel = Ztunnel::start(config, parts).await.unwrap();
        let agent = Agent::accept(&broker).await;
        let redirected = Redirected::default();
        Self {
            ztunnel,
            agent,
            broker,
            redirected,
            metrics,
            admin,
            ready,
            _directory: directory,
        }
    }

    /// Captures a pod `name` at `ip`.
    pub(crate) async fn capture(&mut self, name: &str, ip: Ipv4Addr) {
        self.agent.add(identity(name, ip), &listeners(ip)).await;
    }

    /// Ends the agent's snapshot and waits until the node is ready.
    pub(crate) async fn ready(&self) {
        self.agent.snapshot_done().await;
        until("ready", async || {
            get(self.ready, "/healthz/ready").await.starts_with("ready")
        })
        .await;
    }

    pub(crate) async fn readiness(&self) -> String {
        get(self.ready, "/healthz/ready").await
    }

    async fn redirect(&self, ip: Ipv4Addr, to: SocketAddr, listener: SocketAddr) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&at(ip, 0).into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        let from = socket.local_addr().unwrap().as_socket().unwrap();
        self.redirected.lock().unwrap().insert(from, to);
        // A reset that comes at once is seen by the first read, as one that comes later.
        let _ = socket.connect(&listener.into());
        let tcp = TcpStream::from_std(socket.into()).unwrap();
        tokio::time::timeout(WAIT, tcp.writable()).await.unwrap().unwrap();
        tcp
    }

    /// A connection that the pod at `ip` makes, as its redirection passes it to the ztunnel.
    pub(crate) async fn connect(&self, ip: Ipv4Addr, to: SocketAddr) -> TcpStream {
        self.redirect(ip, to, at(ip, PORT_OUTBOUND)).await
    }

    /// A plaintext connection from `from` to the application at `to`, as the redirection of that pod passes it to the
    /// ztunnel.
    pub(crate) async fn connect_plaintext(&self, from: Ipv4Addr, to: SocketAddr) -> TcpStream {
        let std::net::IpAddr::V4(pod) = to.ip() else {
            panic!("IPv4 only")
        };
        self.redirect(from, to, at(pod, PORT_INBOUND)).await
    }

    pub(crate) async fn metrics(&self) -> String {
        get(self.metrics, "/metrics").await
    }

    /// The sum of a metric's series that have all these parts in their labels.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let metrics = self.metrics().await;
        let series = metrics
            .lines()
            .filter(|line| line.starts_with(name) && labels.iter().all(|l| line.contains(l)));
        series
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    pub(crate) async fn until_metric(&self, name: &str, labels: &[&str], value: u64) {
        until(&format!("{name} {labels:?} = {value}"), async || {
            self.metric(name, labels).await == value
        })
        .await;
    }

    pub(crate) async fn config_dump(&self) -> serde_json::Value {
        serde_json::from_str(&get(self.admin, "/config_dump").await).unwrap()
    }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    tcp.read_to_string(&mut response).await.unwrap();
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Waits for a condition that other tasks bring about.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

/// An application that greets with its name and its peer's address, then echoes.
pub(crate) async fn echo(name: &'static str, ip: Ipv4Addr) -> SocketAddr {
    let listener = TcpListener::bind(at(ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, peer)) = listener.accept().await {
            tokio::spawn(async move {
                tcp.write_all(format!("{name} {}\n", peer.ip()).as_bytes())
                    .await
                    .ok();
                let (mut read, mut write) = tcp.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
                write.shutdown().await.ok();
            });
        }
    });
    address
}

/// The greeting of [`echo`]; an error when the connection was reset.
pub(crate) async fn greeting(tcp: &mut TcpStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    let read = async {
        loop {
            match tcp.read_u8().await? {
                b'\n' => return Ok(String::from_utf8_lossy(&line).into_owned()),
                byte => line.push(byte),
            }
        }
    };
    tokio::time::timeout(WAIT, read).await.unwrap()
}

/// Says something and hears it back.
pub(crate) async fn talk(tcp: &mut TcpStream, words: &str) {
    tcp.write_all(words.as_bytes()).await.unwrap();
    let mut heard = vec![0; words.len()];
    tokio::time::timeout(WAIT, tcp.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard, words.as_bytes());
}
