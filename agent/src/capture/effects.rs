//! The effects of the state machine of a pod: each is a future that ends with a reply to the manager.

use super::failure::{Failure, Reason};
use super::lane::{Lane, Turn};
use super::location::{Location, Uid, locate};
use super::machine::Event;
use super::redirection::Redirection;
use crate::netlink::{Changes, InForce, PodTable};
use crate::netns::{Listeners, Netns};
use crate::probes::Probes;
use crate::runtime::Runtime;
use crate::snapshot::SandboxRecord;
use std::sync::Arc;
use std::time::Duration;

/// The reply of a task to the manager.
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
    /// Rules are in force, or were restored.
    Rules {
        uid: Uid,
        epoch: u64,
        in_force: Arc<InForce>,
        changes: Option<Arc<Changes>>,
        /// The missing parts; empty for a new capture.
        restored: Vec<&'static str>,
    },
    /// The time for a hand-over to a ztunnel has passed.
    HandoverDue {
        uid: Uid,
        epoch: u64,
        handover: u64,
    },
    AdmissionDue {
        uid: Uid,
    },
    LookDue,
    /// The runtime's response about the sandbox of a pod without a record.
    Looked {
        uid: Uid,
        sandbox_id: String,
        ended: bool,
    },
}

/// How long connections may wait in an accept queue. After that, the drain handles the rest.
const QUEUE_TIME: Duration = Duration::from_secs(2);
const QUEUE_LOOK: Duration = Duration::from_millis(20);
const DELIVERY_LOOK: Duration = Duration::from_millis(200);
/// How often a captured pod is checked without a notification of a change.
const CHECK: Duration = Duration::from_secs(60);
/// The minimum time between two checks of a pod.
const LEAST_CHECK: Duration = Duration::from_secs(1);

/// The owner of effects: the pod, and the epoch of its state machine that requested them.
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
        redirection: Arc<dyn Redirection>,
        lane: Lane,
        record: Option<SandboxRecord>,
        host_inode: u64,
    ) -> Answer {
        let look = async {
            let location = locate(runtime.as_ref(), &self.uid, record, host_inode).await?;
            // The turn is taken only here: the runtime may be slow, and a job of a later sandbox must not wait for it.
            let mut turn = lane.turn();
            turn.comes().await;
            let table = redirection.look(&location.netns).await?;
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

    pub(super) async fn make_listeners(self, work: Work) -> Answer {
        let made = async {
            let job = work.begin().await?;
            Ok((job.kernel.make_listeners(&job.netns).await?, job.netns.inode()))
        };
        match made.await {
            Ok((listeners, inode)) => Answer::Listeners {
                uid: self.uid,
                epoch: self.epoch,
                listeners,
                inode,
            },
            Err(failure) => self.answer(Event::Failed(failure)),
        }
    }

    pub(super) async fn apply_rules(self, work: Work, probes: Arc<Probes>) -> Answer {
        let applied = async {
            let job = work.begin().await?;
            // First: from the rules on, a probe that is not known as one is a plaintext client like any other.
            if let Err(e) = probes.settle().await {
                tracing::warn!(pod.uid = self.uid, error = %e, "probe rules of the node are not current; probes of pods under strict mTLS will fail until they are");
            }
            // Before the rules, so that every later change causes a notification.
            let changes = job.kernel.watch(&job.netns).await;
            Ok((job.kernel.apply(&job.netns).await?, changes))
        };
        match applied.await {
            Ok((in_force, changes)) => Answer::Rules {
                uid: self.uid,
                epoch: self.epoch,
                in_force,
                changes: changes.map(Arc::new),
                restored: vec![],
            },
            Err(failure) => self.answer(Event::Failed(failure)),
        }
    }

    /// Waits until something changes in the namespace, or until the next regular check.
    pub(super) async fn watch(self, changes: Option<Arc<Changes>>) -> Answer {
        tokio::time::sleep(LEAST_CHECK).await;
        let changed = async {
            match &changes {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        // In both cases the pod is checked.
        _ = tokio::time::timeout(CHECK, changed).await;
        self.answer(Event::CheckDue)
    }

    /// Restores missing parts of the redirection. Does nothing if none are missing.
    pub(super) async fn check(self, work: Work, guarded: Guarded) -> Answer {
        let checked = async {
            let job = work.begin().await?;
            let in_force = Arc::clone(&guarded.in_force);
            let mut missing = job.kernel.missing(&job.netns, in_force).await?;
            if let Some(listeners) = guarded
                .listeners
                .as_ref()
                .filter(|listeners| !listeners.are_listening())
            {
                listeners.repair().map_err(|e| {
                    Failure::new(
                        Reason::ListenersFailed,
                        format!("a listener does not listen: {e}"),
                    )
                })?;
                missing.push("listener");
            }
            let in_force = match missing.as_slice() {
                [] | ["listener"] => Arc::clone(&guarded.in_force),
                _ => job.kernel.apply(&job.netns).await?,
            };
            Ok((in_force, missing))
        };
        match checked.await {
            Ok((_, missing)) if missing.is_empty() => self.answer(Event::Intact),
            Ok((in_force, restored)) => Answer::Rules {
                uid: self.uid,
                epoch: self.epoch,
                in_force,
                changes: guarded.changes,
                restored,
            },
            Err(failure) => self.answer(Event::Lost(failure)),
        }
    }

    pub(super) async fn swap_rules(self, work: Work) -> Answer {
        let result = async {
            let job = work.begin().await?;
            job.kernel.drain(&job.netns).await
        };
        let result = result.await;
        self.conclude(result, Event::Swapped)
    }

    pub(super) async fn undo(self, work: Work) -> Answer {
        let result = async {
            let job = work.begin().await?;
            job.kernel.remove(&job.netns).await
        };
        let result = result.await;
        self.conclude(result, Event::Undone)
    }

    /// Waits until no connection to the listeners is in an accept queue or in its handshake.
    pub(super) async fn empty_queue(self, redirection: Arc<dyn Redirection>, netns: Option<Netns>) -> Answer {
        let wait = async {
            let netns = located(netns)?;
            while redirection.waiting(&netns).await? > 0 {
                tokio::time::sleep(QUEUE_LOOK).await;
            }
            Ok(())
        };
        let result = match tokio::time::timeout(QUEUE_TIME, wait).await {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!(
                    pod.uid = self.uid,
                    "connections still wait for a ztunnel; releasing the pod nevertheless"
                );
                Ok(())
            }
        };
        self.conclude(result, Event::QueueEmpty)
    }

    /// Waits until applications have acknowledged all data of connections that a ztunnel has closed. Without the rules,
    /// their acknowledgements would be misrouted.
    pub(super) async fn deliver(self, redirection: Arc<dyn Redirection>, netns: Option<Netns>) -> Answer {
        let wait = async {
            let netns = located(netns)?;
            while redirection.undelivered(&netns).await? > 0 {
                tokio::time::sleep(DELIVERY_LOOK).await;
            }
            Ok(())
        };
        let result = wait.await;
        self.conclude(result, Event::Delivered)
    }

    /// Waits for the acknowledgement of a ztunnel; see [`Answer::HandoverDue`].
    pub(super) async fn handover(self, time: Duration, handover: u64) -> Answer {
        tokio::time::sleep(time).await;
        Answer::HandoverDue {
            uid: self.uid,
            epoch: self.epoch,
            handover,
        }
    }
}

/// A job in the network namespace of a pod, with its place in the order of jobs.
pub(super) struct Work {
    pub(super) turn: Turn,
    pub(super) redirection: Arc<dyn Redirection>,
    pub(super) netns: Option<Netns>,
}

/// A job whose turn has come. The next one begins when this is dropped.
struct Begun {
    kernel: Arc<dyn Redirection>,
    netns: Netns,
    _turn: Turn,
}

impl Work {
    async fn begin(mut self) -> Result<Begun, Failure> {
        self.turn.comes().await;
        Ok(Begun {
            kernel: self.redirection,
            netns: located(self.netns)?,
            _turn: self.turn,
        })
    }
}

/// The parts of a pod's redirection, for comparison with the kernel's state.
#[derive(Debug, Clone)]
pub(super) struct Guarded {
    pub(super) in_force: Arc<InForce>,
    pub(super) changes: Option<Arc<Changes>>,
    pub(super) listeners: Option<Arc<Listeners>>,
}

fn located(netns: Option<Netns>) -> Result<Netns, Failure> {
    netns.ok_or_else(|| {
        Failure::new(
            Reason::NetnsUnreachable,
            "the pod's network namespace is not open",
        )
    })
}
