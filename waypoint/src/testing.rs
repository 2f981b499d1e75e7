//! A waypoint whose connections are in memory, and what it takes from a baggage: for tests of what it makes of bytes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateManager, ManagerConfig};
use ambit_wire::waypoint as wire;
use ambit_wire::workload::{Port, PortList, Workload};
use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::admission::Admission;
use crate::downstream::{ClientConnection, Served, serve};
use crate::http::{ClientStream, HttpTimeouts};
use crate::observe::Observer;
pub use crate::observe::baggage;
use crate::proxy::{Common, Proxy};
use crate::retries::RetryBudgets;
use crate::state::{AppProtocol, State};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const PORT: u16 = 80;
const HOST: &str = "server.shop.svc.cluster.local";

/// Serves one service, whose port is declared as HTTP/1.1, with one endpoint.
pub struct Waypoint {
    proxy: Arc<Proxy>,
    client: SpiffeId,
    endpoints: mpsc::UnboundedReceiver<DuplexStream>,
}

impl Waypoint {
    /// A waypoint that enforces `policies`. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When a policy is not understood.
    pub fn new(policies: Vec<wire::Policy>) -> Result<Self> {
        let ca = Arc::new(TestCa::new()?);
        let certificates = CertificateManager::new(ca, ManagerConfig::default());
        let (state, observer) = (Arc::new(State::new()), Observer::new()?);
        let names = policies.iter().map(|p| format!("{}/{}", p.namespace, p.name));
        let names = names.collect();
        let policies = policies.into_iter().map(TryInto::try_into);
        state.apply_policies(&[], policies.collect::<Result<_, _>>()?);
        let service = wire::Service {
            namespace: "shop".into(),
            name: "server".into(),
            hostname: HOST.into(),
            addresses: vec![SERVICE.octets().into()],
            ports: vec![wire::ServicePort {
                port: PORT.into(),
                protocol: AppProtocol::Http11.into(),
                ..Default::default()
            }],
            authorization: names,
            ..Default::default()
        };
        let key = format!("shop/{HOST}");
        let refused = state.apply_services(&[], [(key.clone(), service)]);
        ensure!(refused.is_empty(), "the service: {refused:?}");
        let ports = vec![Port {
            service_port: PORT.into(),
            target_port: 8080,
            ..Default::default()
        }];
        let ports = PortList {
            ports,
            ..Default::default()
        };
        let workload = Workload {
            uid: "cluster//Pod/shop/server".into(),
            name: "server".into(),
            namespace: "shop".into(),
            service_account: "server".into(),
            addresses: vec![ENDPOINT.octets().into()],
            services: BTreeMap::from([(key, ports)]),
            ..Default::default()
        };
        let (_, refused) = state.apply_workloads(&[], [(workload.uid.clone(), workload)]);
        ensure!(refused.is_empty(), "the workload: {refused:?}");
        let common = Common {
            state,
            observer,
            lease: certificates.lease(SpiffeId::new("cluster.local", "shop", "waypoint")?),
            // Whoever is silent is let go sooner.
            timeouts: HttpTimeouts {
                idle: Duration::from_secs(60),
                ..HttpTimeouts::default()
            },
            admission: Arc::new(Admission::of_process()),
            retries: RetryBudgets::default(),
            drain: CancellationToken::new(),
        };
        let proxy = Proxy::new(&common);
        let (sender, endpoints) = mpsc::unbounded_channel();
        let taken = proxy.upstream.endpoints().set(sender);
        taken.ok().context("a new proxy has no endpoints")?;
        Ok(Self {
            proxy,
            client: SpiffeId::new("cluster.local", "shop", "client")?,
            endpoints,
        })
    }

    /// Serves a client that speaks over `io`, until its connection ends; and has `endpoint` serve each connection to the endpoint.
    ///
    /// # Errors
    /// When there is no such service, which is a fault of this module.
    pub async fn serve<IO, E>(&mut self, io: IO, endpoint: impl Fn(DuplexStream) -> E) -> Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Future<Output = ()> + Send + 'static,
    {
        let peer = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), 40_000));
        let source = self.proxy.observer.source(self.client.clone(), peer, None);
        let found = self.proxy.state.service_at((SERVICE, PORT).into());
        let (entry, via) = found.context("the service is not there")?;
        let served = Served::Service {
            entry,
            port: PORT,
            via,
        };
        let holder = self.proxy.admission.bytes.holder(&self.client);
        let account = Account::new(holder, self.proxy.observer.overloads());
        let client = ClientConnection::new(&self.proxy, source, served, account);
        let serving = serve(client, Memory(io));
        tokio::pin!(serving);
        let mut running = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                () = &mut serving => break,
                Some(stream) = self.endpoints.recv() => { running.spawn(endpoint(stream)); }
            }
        }
        // Connections that are idle now would serve the next client.
        self.proxy.upstream.forget();
        while running.join_next().await.is_some() {}
        self.proxy.upstream.forget();
        Ok(())
    }
}

/// A stream that nobody resets.
struct Memory<IO>(IO);

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> ClientStream for Memory<IO> {
    fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn gone(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::pending()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Memory<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Memory<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
