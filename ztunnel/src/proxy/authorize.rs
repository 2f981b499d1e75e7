//! Authorization of inbound connections, when they are made and when policy changes.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::CopyError;
use ambit_identity::SpiffeId;
use ambit_policy::{Connection, Decision};
use tokio::sync::watch;

use super::Proxy;
use crate::observe::{Peer, Record, Refusal, Reporter, Traffic};
use crate::pod::Pod;
use ambit_mesh::Workload;

/// An inbound connection before and while it is served.
pub(super) struct Attempt<'a> {
    pub(super) proxy: &'a Arc<Proxy>,
    pub(super) pod: &'a Arc<Pod>,
    pub(super) peer: SocketAddr,
    /// The client's identity, proven by HBONE; `None` for plaintext.
    pub(super) principal: Option<&'a SpiffeId>,
    /// The application's address in the pod.
    pub(super) destination: SocketAddr,
    /// Notified of changes that may alter the decision, from before the decision is made: between the decision and
    /// [`Attempt::proceed`] the proxy connects to the application, which may take long.
    pub(super) changes: watch::Receiver<u64>,
}

impl Attempt<'_> {
    /// The control plane's workload for the pod: it has the policies that apply. A new pod may not have a workload yet,
    /// so this waits for a while.
    pub(super) async fn workload(&self) -> Result<Arc<Workload>, Refusal> {
        let mut changes = self.proxy.state.addresses_changed();
        let find = async {
            loop {
                changes.borrow_and_update();
                if let Some(workload) = self.current_workload() {
                    return Some(workload);
                }
                changes.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(self.proxy.limits.workload_timeout, find).await;
        found.ok().flatten().ok_or(Refusal::UnknownWorkload)
    }

    /// The pod's workload. Another workload may have had the address before, or may have it since.
    fn current_workload(&self) -> Option<Arc<Workload>> {
        let info = self.pod.info.load();
        let at_address = self.proxy.state.workload(self.destination.ip());
        at_address.filter(|workload| {
            workload.name == info.identity.name && workload.namespace == info.identity.namespace
        })
    }

    /// The decision of the policies in force; counts what audit policies would deny.
    pub(super) fn decide(&self, workload: &Workload) -> Decision {
        let connection = Connection {
            principal: self.principal.map(SpiffeId::principal),
            source: self.peer.ip(),
            destination: self.destination,
        };
        self.proxy.state.decide(workload, &connection)
    }

    /// Counts and logs what audit policies would deny.
    pub(super) fn report_audit(&self, workload: &Workload, decision: &Decision) {
        for policy in &decision.audited {
            self.proxy.metrics.audited(policy, &workload.namespace);
            tracing::info!(
                policy,
                src.addr = %self.peer,
                src.identity = self.principal.map(tracing::field::display),
                dst.addr = %self.destination,
                dst.identity = %workload.identity,
                "audit: would be denied"
            );
        }
    }

    pub(super) fn record(&self, workload: &Arc<Workload>) -> Record {
        let traffic = Traffic {
            reporter: Reporter::Destination,
            source: Peer {
                address: self.peer,
                identity: self.principal.cloned(),
                workload: self.proxy.state.workload(self.peer.ip()),
                pod: None,
            },
            destination: Peer {
                address: self.destination,
                identity: Some(workload.identity.clone()),
                workload: Some(Arc::clone(workload)),
                pod: Some(self.pod.info.load_full()),
            },
            hbone: self.principal.map(|_| self.destination),
            service: self.proxy.state.service_of(workload, self.destination.port()),
        };
        Record::open(&self.proxy.metrics, self.proxy.access_log, traffic)
    }

    /// Copies until the end, or until policy denies the connection.
    pub(super) async fn proceed(
        &self,
        record: Record,
        copy: impl AsyncFnOnce(&Record) -> Result<(), CopyError>,
    ) {
        let mut changes = self.changes.clone();
        let denied = async {
            loop {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let Some(workload) = self.current_workload() else {
                    continue;
                };
                let decision = self.decide(&workload);
                if !decision.is_allowed() {
                    return decision;
                }
            }
        };
        let result = tokio::select! {
            // No more bytes are copied after a denial.
            biased;
            decision = denied => Err(decision),
            result = copy(&record) => Ok(result),
        };
        match result {
            Ok(Ok(())) => record.end(None),
            Ok(Err(error)) => record.end(Some(&error)),
            Err(decision) => record.deny(&decision),
        }
    }
}

#[cfg(test)]
mod tests;
