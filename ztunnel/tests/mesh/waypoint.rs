//! A waypoint that says what it receives, instead of passing it on.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use ambit_hbone::{ConnectRequest, HboneConfig, HboneHandler, RequestRefusal, serve_hbone};
use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateManager, ManagerConfig, accept_tls};
use ambit_wire::names::PORT_HBONE;
use ambit_wire::workload::gateway_address::Destination;
use ambit_wire::workload::{GatewayAddress, NamespacedHostname, TunnelProtocol, Workload};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::agent::at;
use crate::control_plane::{endpoint_of, workload};
use crate::node::WAIT;

/// The name of the waypoint and of its service.
const WAYPOINT: &str = "waypoint";

/// What a CONNECT said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) authority: SocketAddr,
    pub(crate) client: String,
    pub(crate) baggage: String,
}

/// One replica. It greets with its name, then echoes.
pub(crate) struct Replica {
    heard: mpsc::UnboundedReceiver<Heard>,
    /// Takes nothing new.
    pub(crate) drain: CancellationToken,
    /// Dies without a word: its connections stay, and nothing more comes on them.
    pub(crate) freeze: CancellationToken,
    _alive: DropGuard,
}

impl Replica {
    /// Of the waypoint, by its certificate.
    pub(crate) async fn start(name: &'static str, ip: Ipv4Addr, ca: &Arc<TestCa>) -> Self {
        Self::start_as(WAYPOINT, name, ip, ca).await
    }

    pub(crate) async fn start_as(account: &str, name: &'static str, ip: Ipv4Addr, ca: &Arc<TestCa>) -> Self {
        let listener = TcpListener::bind(at(ip, PORT_HBONE)).await.unwrap();
        let lease = CertificateManager::new(Arc::clone(ca) as _, ManagerConfig::default())
            .lease(SpiffeId::new("cluster.local", "test", account).unwrap());
        let certificate = lease.certificate(WAIT).await.unwrap();
        let (tell, heard) = mpsc::unbounded_channel();
        let (drain, end) = (CancellationToken::new(), CancellationToken::new());
        let (draining, ended) = (drain.clone(), end.clone());
        let freeze = CancellationToken::new();
        let frozen = freeze.clone();
        tokio::spawn(async move {
            while let Some(Some(Ok((tcp, _)))) = ended
                .run_until_cancelled(draining.run_until_cancelled(listener.accept()))
                .await
            {
                let (certificate, tell) = (certificate.clone(), tell.clone());
                let (draining, ended) = (draining.clone(), ended.clone());
                let frozen = frozen.clone();
                let connection = async move {
                    if let Ok((tls, client)) = accept_tls(tcp, &certificate).await {
                        let client = client.to_string();
                        let handler = Arc::new(Handler { name, client, tell });
                        let config = HboneConfig::default();
                        let mut serving = pin!(serve_hbone(tls, &config, draining, handler));
                        if frozen.run_until_cancelled(&mut serving).await.is_none() {
                            std::future::pending().await
                        }
                    }
                };
                tokio::spawn(async move { ended.run_until_cancelled(connection).await });
            }
        });
        Self {
            heard,
            drain,
            freeze,
            _alive: end.drop_guard(),
        }
    }

    /// The next CONNECT.
    pub(crate) async fn heard(&mut self) -> Heard {
        tokio::time::timeout(WAIT, self.heard.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

struct Handler {
    name: &'static str,
    client: String,
    tell: mpsc::UnboundedSender<Heard>,
}

impl HboneHandler for Handler {
    async fn connect(self: Arc<Self>, request: ConnectRequest) {
        let baggage = request.headers().get("baggage");
        let heard = Heard {
            authority: request.authority(),
            client: self.client.clone(),
            baggage: baggage
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default(),
        };
        self.tell.send(heard).ok();
        let mut io = request.accept().unwrap().into_io();
        io.write_all(format!("{}\n", self.name).as_bytes()).await.ok();
        let (mut read, mut write) = tokio::io::split(io);
        tokio::io::copy(&mut read, &mut write).await.ok();
        write.shutdown().await.ok();
    }

    fn refused(&self, refusal: &RequestRefusal) {
        panic!("{refusal}");
    }
}

/// The binding to it.
pub(crate) fn binding() -> Option<GatewayAddress> {
    Some(GatewayAddress {
        destination: Some(Destination::Hostname(NamespacedHostname {
            namespace: "test".into(),
            hostname: format!("{WAYPOINT}.test.svc.cluster.local"),
        })),
        hbone_mtls_port: PORT_HBONE.into(),
    })
}

/// A replica as the control plane tells of it: not captured, so not said to speak HBONE.
pub(crate) fn replica(name: &str, ip: Ipv4Addr) -> Workload {
    Workload {
        service_account: WAYPOINT.into(),
        ..endpoint_of(
            workload(name, ip, TunnelProtocol::None),
            WAYPOINT,
            PORT_HBONE,
            PORT_HBONE,
        )
    }
}

/// Accepts connections, and says nothing ever.
pub(crate) async fn silent(ip: Ipv4Addr) {
    let listener = TcpListener::bind(at(ip, PORT_HBONE)).await.unwrap();
    tokio::spawn(async move {
        let mut held: Vec<TcpStream> = Vec::new();
        while let Ok((tcp, _)) = listener.accept().await {
            held.push(tcp);
        }
    });
}

/// Takes no connection, and does not refuse it either: its queue is full. Until what is returned is dropped.
pub(crate) async fn hanging(ip: Ipv4Addr) -> impl Sized {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&at(ip, PORT_HBONE).into()).unwrap();
    socket.listen(0).unwrap();
    let queued = TcpStream::connect(at(ip, PORT_HBONE)).await.unwrap();
    (socket, queued)
}
