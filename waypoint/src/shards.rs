//! All workers of the waypoint together: what they accept, and how they end.

use std::sync::Arc;
use std::time::Duration;

use ambit_runtime::{AcceptLoop, Shards};
use futures::future::join_all;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::observe::Observer;
use crate::proxy::{Common, Proxy};

/// The workers: each client's HBONE connection, its streams, the requests on them and the connections to endpoints that they use stay on
/// one.
pub(crate) struct Proxies {
    pub(crate) shards: Shards<Arc<Proxy>>,
    pub(crate) observer: Arc<Observer>,
    pub(crate) admission: Arc<Admission>,
    drain: CancellationToken,
}

impl Proxies {
    /// Serves what `common` says until its `drain` is cancelled.
    pub(crate) fn new(workers: &Shards, common: &Common) -> Self {
        Self {
            shards: workers.each(|| Proxy::new(common)),
            observer: Arc::clone(&common.observer),
            admission: Arc::clone(&common.admission),
            drain: common.drain.clone(),
        }
    }

    /// What each worker has.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Proxy>> {
        self.shards.iter()
    }

    /// Accepts HBONE connections until `drain` is cancelled, and gives each to a worker.
    pub(crate) async fn accept(&self, listener: TcpListener) {
        let accepting = async {
            let mut accepting = AcceptLoop::new("hbone");
            loop {
                let (tcp, peer) = accepting.next(|| listener.accept()).await;
                self.admit(tcp, peer);
            }
        };
        self.drain.run_until_cancelled(accepting).await;
        self.iter().for_each(|proxy| proxy.drain());
    }

    /// Lets go of the connections to workloads that are gone or live elsewhere now. Requests on them go on.
    pub(crate) fn evict_workload(&self, workload: &str) {
        self.iter()
            .for_each(|proxy| proxy.upstream.evict_workload(workload));
    }

    /// Connections over HBONE that take new streams.
    pub(crate) fn hbone_connections(&self) -> usize {
        self.iter().map(|proxy| proxy.upstream.hbone_connections()).sum()
    }

    /// Once `drain` is cancelled: resolves when the last request has ended, or at the deadline, which ends all that is left. Returns
    /// how many HBONE connections that were.
    pub(crate) async fn drained(&self, deadline: Duration) -> usize {
        self.iter().for_each(|proxy| proxy.drain());
        let ended = join_all(self.iter().map(|proxy| proxy.drained()));
        if tokio::time::timeout(deadline, ended).await.is_ok() {
            return 0;
        }
        let left = self.iter().map(|proxy| proxy.connections.len()).sum();
        self.observer.cut();
        self.iter().for_each(|proxy| proxy.kill());
        join_all(self.iter().map(|proxy| proxy.connections.wait())).await;
        left
    }
}
