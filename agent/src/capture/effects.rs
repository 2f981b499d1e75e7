//! The effects of a pod's machine, each a future that ends in an answer to the manager.

use super::failure::{Failure, Reason};
use super::location::{Location, locate};
use super::machine::Event;
use super::manager::Uid;
use super::ztunnels::{MadeSockets, SessionId};
use crate::netlink::{self, NetlinkError, PodTable};
use crate::netns::{self, Listeners, Netns, NetnsError, NetnsRunner};
use crate::probes::Probes;
use crate::runtime::Runtime;
use crate::snapshot::SandboxRecord;
use std::sync::Arc;
use std::time::Duration;

/// What a task brings back to the manager.
#[derive(Debug)]
pub(super) enum Answer {
    Pod {
        uid: Uid,
        epoch: u64,
        event: Event,
    },
    Located {
        uid: Uid,
        epoch: u64,
        location: Location,
        table: PodTable,
    },
    Listeners {
        uid: Uid,
        epoch: u64,
        listeners: Listeners,
        inode: u64,
    },
    Sockets {
        session: SessionId,
        sockets: MadeSockets,
    },
    AdmissionDue {
        uid: Uid,
    },
    LookDue,
    /// The runtime's word on the sandbox of a pod that nobody names.
    Looked {
        uid: Uid,
        sandbox_id: String,
        ended: bool,
    },
}

/// How long connections may wait in an accept queue before the rest is left to the drain.
const QUEUE_TIME: Duration = Duration::from_secs(2);
const QUEUE_LOOK: Duration = Duration::from_millis(20);

/// Whose effects: the pod, and the epoch of its machine that ordered them.
pub(super) struct Effects {
    pub(super) uid: Uid,
    pub(super) epoch: u64,
}

impl Effects {
    fn answer(self, event: Event) -> Answer {
        Answer::Pod {
            uid: self.uid,
            epoch: self.epoch,
            event,
        }
    }

    fn conclude(self, result: Result<(), Failure>, done: Event) -> Answer {
        self.answer(result.map_or_else(Event::Failed, |()| done))
    }

    pub(super) async fn after(self, time: Duration, event: Event) -> Answer {
        tokio::time::sleep(time).await;
        self.answer(event)
    }

    pub(super) async fn locate(
        self,
        runtime: Arc<dyn Runtime>,
        runner: NetnsRunner,
        record: Option<SandboxRecord>,
        host_inode: u64,
    ) -> Answer {
        let look = async {
            let location = locate(runtime.as_ref(), &self.uid, record, host_inode).await?;
            let table = runner
                .run(&location.netns, || Ok::<_, Failure>(netlink::pod_table()?))
                .await?;
            Ok((location, table))
        };
        match look.await {
            Ok((location, table)) => Answer::Located {
                uid: self.uid,
                epoch: self.epoch,
                location,
                table,
            },
            Err(failure) => self.answer(Event::Failed(failure)),
        }
    }

    pub(super) async fn make_listeners(self, runner: NetnsRunner, netns: Option<Netns>) -> Answer {
        let make = async {
            let netns = located(netns)?;
            let listeners = runner
                .run(&netns, || Ok::<_, Failure>(netns::make_listeners()?))
                .await?;
            Ok((listeners, netns.inode()))
        };
        match make.await {
            Ok((listeners, inode)) => Answer::Listeners {
                uid: self.uid,
                epoch: self.epoch,
                listeners,
                inode,
            },
            Err(failure) => self.answer(Event::Failed(failure)),
        }
    }

    pub(super) async fn apply_rules(
        self,
        runner: NetnsRunner,
        netns: Option<Netns>,
        probes: Arc<Probes>,
    ) -> Answer {
        // First: from the rules on, a probe that is not known as one is a plaintext client like any other.
        if let Err(e) = probes.settle().await {
            tracing::warn!(pod.uid = self.uid, error = %e, "probe rules of the node are not current; probes of pods under strict mTLS will fail until they are");
        }
        let rules = || {
            netlink::raise_loopback()?;
            netlink::add_reply_route()?;
            netlink::install_pod_table()
        };
        let result = in_pod(runner, netns, rules).await;
        self.conclude(result, Event::RulesInForce)
    }

    pub(super) async fn swap_rules(self, runner: NetnsRunner, netns: Option<Netns>) -> Answer {
        let result = in_pod(runner, netns, netlink::drain_pod_table).await;
        self.conclude(result, Event::Swapped)
    }

    pub(super) async fn undo(self, runner: NetnsRunner, netns: Option<Netns>) -> Answer {
        let undo = || {
            netlink::remove_pod_table()?;
            netlink::remove_reply_route()
        };
        let result = in_pod(runner, netns, undo).await;
        self.conclude(result, Event::Undone)
    }

    /// Until no connection to the listeners waits to be accepted, or is still in its handshake.
    pub(super) async fn empty_queue(self, runner: NetnsRunner, netns: Option<Netns>) -> Answer {
        let wait = async {
            let netns = located(netns)?;
            loop {
                let look = || netns::waiting_connections().map_err(Failure::from);
                if runner.run(&netns, look).await? == 0 {
                    return Ok(());
                }
                tokio::time::sleep(QUEUE_LOOK).await;
            }
        };
        let result = match tokio::time::timeout(QUEUE_TIME, wait).await {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!(
                    pod.uid = self.uid,
                    "connections still wait to be accepted by a ztunnel; releasing the pod all the same"
                );
                Ok(())
            }
        };
        self.conclude(result, Event::QueueEmpty)
    }
}

/// Makes sockets for a ztunnel.
pub(super) async fn make_sockets(
    session: SessionId,
    runner: NetnsRunner,
    netns: Netns,
    mut sockets: MadeSockets,
    count: usize,
) -> Answer {
    let ipv6 = sockets.ip_version == 6;
    let made = runner
        .run(&netns, move || netns::make_outbound_sockets(ipv6, count))
        .await;
    sockets.made = made.map_err(|e: NetnsError| e.to_string());
    Answer::Sockets { session, sockets }
}

async fn in_pod(
    runner: NetnsRunner,
    netns: Option<Netns>,
    job: impl FnOnce() -> Result<(), NetlinkError> + Send + 'static,
) -> Result<(), Failure> {
    runner.run(&located(netns)?, || Ok(job()?)).await
}

fn located(netns: Option<Netns>) -> Result<Netns, Failure> {
    netns.ok_or_else(|| {
        Failure::new(
            Reason::NetnsUnreachable,
            "the pod's network namespace is not open",
        )
    })
}
