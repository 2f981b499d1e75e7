//! Follows the load of waypoints at each replica of the control plane.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_wire::loads::loads_client::LoadsClient;
use ambit_wire::loads::{SpreadRequest, WatchRequest};
use ambit_wire::{ControlChannelError, TokenFile, control_channel_at};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tracing::{debug, info};

use super::LoadTable;
use crate::reconcile::{Leadership, Objects};

/// Changes of pods within this time are handled together.
const SETTLE: Duration = Duration::from_millis(100);
/// Pause before a replica is called again.
const PAUSE: Duration = Duration::from_millis(200);
/// A replica that has just started is called within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Time for a replica to accept the call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a replica to take what waypoints are to be told; reports wait meanwhile.
const SPREAD_TIMEOUT: Duration = Duration::from_secs(1);

/// How to reach the replicas of the control plane.
#[derive(Clone, Debug)]
pub struct ControlPlanes {
    /// The namespace of their pods.
    pub namespace: String,
    /// The name in their certificates.
    pub name: String,
    /// Their port.
    pub port: u16,
    /// The mesh's root certificate, PEM.
    pub root_certificate: String,
    /// The token of this process.
    pub token: TokenFile,
}

/// Updates a [`LoadTable`] from the control planes, while this process leads.
pub struct LoadFollower {
    planes: ControlPlanes,
    objects: Arc<Objects>,
    table: Arc<LoadTable>,
    leadership: Leadership,
}

impl LoadFollower {
    /// `objects` has the pods of the control plane.
    pub fn new(
        planes: ControlPlanes,
        objects: Arc<Objects>,
        table: Arc<LoadTable>,
        leadership: Leadership,
    ) -> Self {
        Self {
            planes,
            objects,
            table,
            leadership,
        }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut leadership = self.leadership.clone();
        loop {
            let leads = leadership.wait_for(|leads| *leads);
            if !matches!(stop.run_until_cancelled(leads).await, Some(Ok(_))) {
                return;
            }
            let mut lost = self.leadership.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                _ = lost.wait_for(|leads| !leads) => {}
                () = self.follow() => {}
            }
        }
    }

    /// Follows all of them while this is polled.
    async fn follow(&self) {
        let mut changed = self.objects.subscribe();
        let mut followed: BTreeMap<(String, SocketAddr), DropGuard> = BTreeMap::new();
        loop {
            changed.mark_unchanged();
            let pods = self.objects.serving_pods(&self.planes.namespace);
            let now: Vec<_> = pods
                .into_iter()
                .map(|(name, ip)| (name, SocketAddr::new(ip, self.planes.port)))
                .collect();
            followed.retain(|key, _| now.contains(key));
            for key in now {
                followed.entry(key.clone()).or_insert_with(|| {
                    let gone = CancellationToken::new();
                    let (planes, table, ended) = (self.planes.clone(), Arc::clone(&self.table), gone.clone());
                    tokio::spawn(async move {
                        let (pod, address) = key;
                        ended
                            .run_until_cancelled(follow(&planes, &table, &pod, address))
                            .await
                    });
                    gone.drop_guard()
                });
            }
            if changed.changed().await.is_err() {
                return;
            }
            sleep(SETTLE).await;
        }
    }
}

/// Follows one of them, while this is polled.
async fn follow(planes: &ControlPlanes, table: &Arc<LoadTable>, pod: &str, address: SocketAddr) {
    let mut pause = PAUSE;
    let mut told = String::new();
    loop {
        let mut taken = false;
        let ended = stream(planes, table, address, &mut taken).await;
        let why = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        if taken {
            debug!(pod, %address, why, "load watch ended");
            pause = PAUSE;
            told.clear();
        } else if told != why {
            info!(pod, %address, why, "no load watch; will try again");
            told = why;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One watch, until it ends: then everything received over it is removed.
async fn stream(
    planes: &ControlPlanes,
    table: &Arc<LoadTable>,
    address: SocketAddr,
    taken: &mut bool,
) -> Result<Status, ControlChannelError> {
    let channel = control_channel_at(address, &planes.name, &planes.root_certificate)?;
    let mut client = LoadsClient::with_interceptor(channel, planes.token.clone());
    let mut changes = match timeout(CALL_TIMEOUT, client.watch(WatchRequest {})).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Ok(status),
        Err(_) => return Ok(Status::deadline_exceeded("it did not accept the call")),
    };
    let source = table.source();
    loop {
        tokio::select! {
            message = changes.message() => match message {
                Ok(Some(message)) => {
                    *taken = true;
                    source.take(message.replicas);
                }
                Ok(None) => return Ok(Status::unavailable("it ended the stream")),
                Err(status) => return Ok(status),
            },
            replicas = source.excesses() => {
                // What is not told now is seen again in the next reports.
                match timeout(SPREAD_TIMEOUT, client.spread(SpreadRequest { replicas })).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(status)) => debug!(%address, %status, "replicas of waypoints were not told to spread their load"),
                    Err(_) => debug!(%address, "replicas of waypoints were not told to spread their load in time"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
