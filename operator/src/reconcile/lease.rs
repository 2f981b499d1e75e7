//! Leader election by a Lease, as in Kubernetes' own components: a replica may take a lease that, by its own clock, was
//! not renewed for the whole duration.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{ReconcileError, is_conflict, is_not_found};

/// How long a lease is valid without renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How long a holder continues after the beginning of its last successful renewal: another may take the lease
/// [`DURATION`] after that.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed or tried.
const PERIOD: Duration = Duration::from_secs(2);

/// Whether this replica leads.
pub type Leadership = watch::Receiver<bool>;

/// The lease, as this replica sees it.
pub struct Lease {
    api: Api<LeaseObject>,
    name: String,
    identity: String,
    leading: watch::Sender<bool>,
    /// The last state seen, and when: its age by this replica's own clock.
    seen: Option<(Option<String>, Instant)>,
}

impl Lease {
    /// The lease `name` in `namespace`, for the replica `identity`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> (Self, Leadership) {
        let (leading, leadership) = watch::channel(false);
        let api = Api::namespaced(client, namespace);
        (
            Self {
                api,
                name: name.to_owned(),
                identity: identity.to_owned(),
                leading,
                seen: None,
            },
            leadership,
        )
    }

    /// From the end of `ready` on (a replica that could not write would only keep the lease from others), tries to get
    /// the lease while `may` allows it, and holds it until `stop`; then releases it.
    pub async fn run(
        mut self,
        ready: impl Future<Output = ()>,
        may: impl Fn() -> bool,
        stop: CancellationToken,
    ) {
        if stop.run_until_cancelled(ready).await.is_none() {
            return;
        }
        // When the request that last renewed the lease began, while this replica leads.
        let mut renewed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let may = renewed.is_some() || may();
            let turn = timeout_at(renewed.unwrap_or(began) + RENEW_DEADLINE, self.turn(may));
            match stop.run_until_cancelled(turn).await {
                None => break,
                Some(Ok(Ok(true))) => {
                    renewed = Some(began);
                    self.lead(true);
                }
                Some(Ok(Ok(false))) => {
                    renewed = None;
                    self.lead(false);
                }
                Some(Ok(Err(error))) => warn!(%error, "cannot renew the lease; will try again"),
                Some(Err(_)) => warn!("the API server does not respond; will try to get the lease again"),
            }
            let deadline = renewed.map(|at| at + RENEW_DEADLINE);
            let next = Instant::now() + PERIOD;
            let pause = sleep_until(deadline.map_or(next, |deadline| deadline.min(next)));
            if stop.run_until_cancelled(pause).await.is_none() {
                break;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                renewed = None;
                self.lead(false);
            }
        }
        if *self.leading.borrow() {
            self.lead(false);
            match timeout(RENEW_DEADLINE, self.release()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "could not release the lease; it expires by itself"),
                Err(_) => debug!("the API server does not respond; the lease expires by itself"),
            }
        }
    }

    fn lead(&self, leads: bool) {
        let changed = self
            .leading
            .send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            info!(lease = %self.name, identity = %self.identity, leads, "leadership changed");
        }
    }

    /// One attempt; takes the lease only if it `may`. Returns whether this replica holds the lease now.
    async fn turn(&mut self, may: bool) -> Result<bool, ReconcileError> {
        let what = || format!("lease {}", self.name);
        let lease = match self.api.get(&self.name).await {
            Ok(lease) => lease,
            Err(error) if is_not_found(&error) && !may => return Ok(false),
            Err(error) if is_not_found(&error) => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..Default::default()
                };
                let lease = LeaseObject {
                    metadata,
                    spec: Some(self.spec(0)),
                };
                return match self.api.create(&PostParams::default(), &lease).await {
                    Ok(_) => Ok(true),
                    Err(error) if is_conflict(&error) => Ok(false),
                    Err(error) => Err(ReconcileError::api(what())(error)),
                };
            }
            Err(error) => return Err(ReconcileError::api(what())(error)),
        };
        let version = lease.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let ours = holder == self.identity;
        let age = self.seen.as_ref().map_or(Duration::ZERO, |(_, at)| at.elapsed());
        if !ours && (!may || !holder.is_empty() && age < DURATION) {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or_default() + i32::from(!ours);
        let mut next = self.spec(transitions);
        if ours {
            next.acquire_time = spec.acquire_time;
        }
        let lease = LeaseObject {
            spec: Some(next),
            ..lease
        };
        // The resource version makes this fail if another replica was faster.
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(ReconcileError::api(what())(error)),
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(transitions),
            ..Default::default()
        }
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let mut lease = self.api.get(&self.name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = Some(String::new());
            self.api
                .replace(&self.name, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
