//! What takes HBONE for an endpoint.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{
    ConnectRequest, HboneConfig, HboneHandler, Meter, RequestRefusal, copy_tunnel, serve_hbone,
};
use ambit_identity::SpiffeId;
use ambit_tls::accept_tls;
use ambit_tls::testing::TestCa;
use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{WAIT, manager};

/// The ztunnel of an endpoint.
pub(in super::super) struct Ztunnel {
    pub(in super::super) peers: Arc<parking_lot::Mutex<Vec<SpiffeId>>>,
    /// How long it leaves new connections waiting.
    pub(in super::super) delay: Arc<parking_lot::Mutex<Duration>>,
    /// New connections wait while it is held.
    pub(in super::super) gate: Arc<tokio::sync::Mutex<()>>,
    /// New streams wait while it is held.
    pub(in super::super) streams: Arc<tokio::sync::Mutex<()>>,
    pub(in super::super) guard: Guard,
    stop: CancellationToken,
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Gateway {
    held: Arc<tokio::sync::Mutex<()>>,
    guard: Guard,
}

/// The name of a guard that denies everything, and how many streams it has denied.
type Guard = Arc<parking_lot::Mutex<(Option<&'static str>, usize)>>;

struct Unmetered;

impl Meter for Unmetered {
    fn forward(&self, _: u64) {}
    fn backward(&self, _: u64) {}
}

impl HboneHandler for Gateway {
    async fn connect(self: Arc<Self>, request: ConnectRequest) {
        drop(self.held.lock().await);
        let guard = {
            let mut guard = self.guard.lock();
            guard.1 += usize::from(guard.0.is_some());
            guard.0
        };
        if let Some(guard) = guard {
            let name = http::HeaderName::from_static(ambit_wire::names::HEADER_GUARD);
            return request.refuse_with(
                StatusCode::UNAUTHORIZED,
                name,
                http::HeaderValue::from_static(guard),
            );
        }
        match TcpStream::connect(request.authority()).await {
            Ok(tcp) => {
                let stream = request.accept().unwrap();
                copy_tunnel(tcp, stream, &Unmetered).await.ok();
            }
            Err(_) => request.refuse(StatusCode::SERVICE_UNAVAILABLE),
        }
    }

    fn refused(&self, _: &RequestRefusal) {}
}

impl Ztunnel {
    pub(super) async fn start(ca: &Arc<TestCa>, identity: SpiffeId, ip: IpAddr) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip, ambit_wire::names::PORT_HBONE))
            .await
            .unwrap();
        let lease = manager(ca).lease(identity);
        let peers = Arc::<parking_lot::Mutex<Vec<SpiffeId>>>::default();
        let delay = Arc::<parking_lot::Mutex<Duration>>::default();
        let (gate, streams) = (Arc::<tokio::sync::Mutex<()>>::default(), Arc::default());
        let held_streams = Arc::clone(&streams);
        let guard = Guard::default();
        let denying = Arc::clone(&guard);
        let stop = CancellationToken::new();
        let held = Arc::clone(&gate);
        let (seen, wait, stopped) = (Arc::clone(&peers), Arc::clone(&delay), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (lease, seen, stopped) = (lease.clone(), Arc::clone(&seen), stopped.clone());
                let (wait, held) = (*wait.lock(), Arc::clone(&held));
                let gateway = Arc::new(Gateway {
                    held: Arc::clone(&held_streams),
                    guard: Arc::clone(&denying),
                });
                tokio::spawn(stopped.run_until_cancelled_owned(async move {
                    tokio::time::sleep(wait).await;
                    drop(held.lock().await);
                    let certificate = lease.certificate(WAIT).await.unwrap();
                    let Ok((tls, peer)) = accept_tls(tcp, &certificate).await else {
                        return;
                    };
                    seen.lock().push(peer);
                    serve_hbone(tls, &HboneConfig::default(), CancellationToken::new(), gateway)
                        .await
                        .ok();
                }));
            }
        }));
        Self {
            peers,
            delay,
            gate,
            streams,
            guard,
            stop,
        }
    }
}
