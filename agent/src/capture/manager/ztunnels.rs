//! The manager's side of the broker: which ztunnel is connected, which has been given which pod, who holds what.
//!
//! The newest ztunnel gets every pod. Once it has acknowledged one, the older ones are told to stop accepting for it; they go
//! on with the connections they have.

use super::Manager;
use crate::capture::effects::Effects;
use crate::capture::failure::{Failure, Reason};
use crate::capture::location::Uid;
use crate::capture::machine::{ACK_TIME, Event, State};
use crate::capture::pod::Pod;
use crate::netns::{AdoptError, Listeners};
use ambit_wire::broker::from_agent::Message as ToZtunnel;
use ambit_wire::broker::{Ack, AddPod, PodIdentity, RemovePod, SnapshotDone};
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Which connection of a ztunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// What a connection tells the manager.
#[derive(Debug)]
pub enum FromSession {
    /// The ztunnel has said which pods it serves already.
    Ready {
        /// The connection.
        id: SessionId,
        /// The ztunnel's revision.
        revision: String,
        /// Where messages to it go.
        outbox: mpsc::UnboundedSender<Outgoing>,
        /// The pods, each with its listeners and seeds.
        held: Vec<(PodIdentity, Vec<OwnedFd>)>,
    },
    /// An acknowledgement; the permit is given back when it is taken.
    Ack(SessionId, Ack, Option<OwnedSemaphorePermit>),
    /// The connection has ended.
    Gone(SessionId),
}

/// A message to a ztunnel, with what goes beside it.
#[derive(Debug)]
pub struct Outgoing {
    /// The message.
    pub message: ToZtunnel,
    listeners: Option<Arc<Listeners>>,
}

impl Outgoing {
    fn plain(message: ToZtunnel) -> Self {
        Self {
            message,
            listeners: None,
        }
    }

    /// The descriptors to pass.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.listeners
            .iter()
            .flat_map(|listeners| listeners.as_fds())
            .collect()
    }
}

/// One connected ztunnel.
#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
    revision: String,
    outbox: mpsc::UnboundedSender<Outgoing>,
    sequence: u64,
    pods: BTreeMap<Uid, Given>,
}

/// How far a pod's hand-over to, or withdrawal from, a ztunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Adding(u64),
    Serving,
    Removing(u64),
}

/// Why a ztunnel's listeners were not taken over.
#[derive(Debug, thiserror::Error)]
enum NotAdopted {
    #[error("they are of network namespace {0}, which is not the pod's")]
    Namespace(u64),
    #[error(transparent)]
    Socket(#[from] AdoptError),
}

impl Session {
    fn send(&self, outgoing: Outgoing) {
        // Fails when the connection has just ended: Gone is on its way.
        _ = self.outbox.send(outgoing);
    }

    fn add(&mut self, uid: &str, pod: PodIdentity, listeners: Arc<Listeners>) {
        self.sequence += 1;
        self.pods.insert(uid.to_owned(), Given::Adding(self.sequence));
        let message = ToZtunnel::AddPod(AddPod {
            sequence: self.sequence,
            pod: Some(pod),
        });
        self.send(Outgoing {
            message,
            listeners: Some(listeners),
        });
    }

    /// Tells the ztunnel unless it does not have the pod, or was told already.
    fn remove(&mut self, uid: &str, force: bool) {
        let Some(given) = self.pods.get_mut(uid) else {
            return;
        };
        if matches!(given, Given::Removing(_)) && !force {
            return;
        }
        self.sequence += 1;
        *given = Given::Removing(self.sequence);
        let message = RemovePod {
            sequence: self.sequence,
            uid: uid.to_owned(),
            force,
        };
        self.send(Outgoing::plain(ToZtunnel::RemovePod(message)));
    }
}

impl Manager {
    pub(super) fn on_session(&mut self, event: FromSession) {
        match event {
            FromSession::Ready {
                id,
                revision,
                outbox,
                held,
            } => {
                let session = Session {
                    id,
                    revision,
                    outbox,
                    sequence: 0,
                    pods: BTreeMap::new(),
                };
                self.on_ready(session, held);
            }
            FromSession::Ack(id, ack, _) => self.on_ack(id, &ack),
            FromSession::Gone(id) => self.on_gone(id),
        }
        self.settings.metrics.ztunnels(self.sessions.len());
    }

    fn on_ready(&mut self, mut session: Session, held: Vec<(PodIdentity, Vec<OwnedFd>)>) {
        tracing::info!(
            revision = session.revision,
            held = held.len(),
            "a ztunnel is connected"
        );
        for (identity, sockets) in held {
            let uid = identity.uid.clone();
            match self.adopt(identity, sockets) {
                Ok(()) => _ = session.pods.insert(uid, Given::Serving),
                Err(why) => {
                    tracing::warn!(pod.uid = uid, %why, "a ztunnel's listeners were not taken over");
                    self.settings.metrics.refused("listeners");
                }
            }
        }
        self.sessions.push(session);
        for uid in self.pods.keys().cloned().collect::<Vec<_>>() {
            // The pod may have waited for just this.
            self.feed(&uid, Event::NotHeld);
        }
        // What was taken over counts before the ztunnel is told which pods there are.
        self.work_off();
        self.give_all(|given| matches!(given, Some(Given::Adding(_))));
        if let Some(session) = self.sessions.last_mut() {
            // What it held and was not told of now, it takes for gone.
            session.pods.retain(|_, given| matches!(given, Given::Adding(_)));
            session.send(Outgoing::plain(ToZtunnel::SnapshotDone(SnapshotDone {})));
        }
    }

    /// Takes a pod's listeners over, if the agent has none for it.
    fn adopt(&mut self, identity: PodIdentity, sockets: Vec<OwnedFd>) -> Result<(), NotAdopted> {
        let inode = identity.netns_inode;
        let uid = identity.uid.clone();
        let known = self
            .pods
            .get(&uid)
            .and_then(|pod| pod.location.as_ref())
            .map(|l| l.netns.inode());
        if known.is_some_and(|known| known != inode) || inode == self.settings.host_netns_inode {
            return Err(NotAdopted::Namespace(inode));
        }
        if self.pods.get(&uid).is_some_and(|pod| pod.listeners.is_some()) {
            return Ok(());
        }
        let listeners = Listeners::adopt(sockets, inode)?;
        let pod = self.pods.entry(uid.clone()).or_default();
        pod.listeners = Some((Arc::new(listeners), inode));
        pod.held_as = Some(identity);
        self.feed(&uid, Event::ListenersReady);
        if self.pods.get(&uid).is_some_and(|pod| pod.record.is_none()) {
            self.reconsider(&uid);
        }
        Ok(())
    }

    /// Gives the newest ztunnel every pod that is to be served, but for those that `has` says it need not be given.
    fn give_all(&mut self, has: impl Fn(Option<&Given>) -> bool) {
        let Some(session) = self.sessions.last() else {
            return;
        };
        let to_be_given =
            |(uid, pod): &(&Uid, &Pod)| self.is_to_be_served(pod) && !has(session.pods.get(*uid));
        let uids: Vec<Uid> = self
            .pods
            .iter()
            .filter(to_be_given)
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in uids {
            self.give(&uid);
        }
    }

    /// Tells the newest ztunnel of the pod and, where its capture waits for that, begins to count the time.
    pub(super) fn give(&mut self, uid: &str) {
        if self.add_pod(uid)
            && let Some(pod) = self.pods.get_mut(uid)
            && *pod.machine.state() == State::ListenersReady
        {
            pod.handover += 1;
            let handover = pod.handover;
            let effects = Effects {
                uid: uid.to_owned(),
                epoch: pod.machine.epoch(),
            };
            self.tasks.spawn(effects.handover(ACK_TIME, handover));
        }
    }

    fn is_to_be_served(&self, pod: &Pod) -> bool {
        // One that only a ztunnel knew is left to it until a control plane has spoken.
        let unjudged = pod.record.is_none() && pod.listeners.is_some() && !self.synced;
        pod.machine.wants_ztunnel() || unjudged
    }

    /// Tells the newest ztunnel, if there is one, to serve the pod.
    fn add_pod(&mut self, uid: &str) -> bool {
        let Some(pod) = self.pods.get_mut(uid) else {
            return false;
        };
        let (Some(session), Some((listeners, _))) = (self.sessions.last_mut(), &pod.listeners) else {
            return false;
        };
        let Some(identity) = pod.identity(uid, &self.trust_domain) else {
            return false;
        };
        if let Err(e) = listeners.repair() {
            tracing::warn!(pod.uid = uid, error = %e, "a listener could not be made to listen again");
        }
        session.add(uid, identity.clone(), Arc::clone(listeners));
        pod.told = Some(identity);
        true
    }

    /// Tells every ztunnel that has the pod to let it go.
    pub(super) fn remove_pod(&mut self, uid: &str, force: bool) {
        self.sessions
            .iter_mut()
            .for_each(|session| session.remove(uid, force));
        self.check_done(uid);
    }

    fn check_done(&mut self, uid: &str) {
        if !self.sessions.iter().any(|session| session.pods.contains_key(uid)) {
            self.feed(uid, Event::ZtunnelDone);
        }
    }

    fn on_ack(&mut self, id: SessionId, ack: &Ack) {
        let Some(session) = self.sessions.iter_mut().find(|session| session.id == id) else {
            return;
        };
        let expected =
            |given: &Given| matches!(given, Given::Adding(s) | Given::Removing(s) if *s == ack.sequence);
        let Some((uid, given)) = session.pods.iter_mut().find(|(_, given)| expected(given)) else {
            // For something that a later message has overtaken.
            return;
        };
        let uid = uid.clone();
        match given {
            Given::Adding(_) if ack.error.is_empty() => {
                *given = Given::Serving;
                self.feed(&uid, Event::Acknowledged);
                let others = self.sessions.iter_mut().filter(|session| session.id != id);
                others.for_each(|session| session.remove(&uid, false));
            }
            Given::Adding(_) => {
                session.pods.remove(&uid);
                tracing::warn!(
                    pod.uid = uid,
                    error = ack.error,
                    "the ztunnel does not serve the pod"
                );
                if !self
                    .sessions
                    .iter()
                    .any(|s| s.pods.get(&uid) == Some(&Given::Serving))
                {
                    let message = format!("the ztunnel does not serve the pod: {}", ack.error);
                    self.feed(&uid, Event::Failed(Failure::new(Reason::ZtunnelRefused, message)));
                }
            }
            Given::Removing(_) | Given::Serving => {
                session.pods.remove(&uid);
                self.check_done(&uid);
            }
        }
    }

    fn on_gone(&mut self, id: SessionId) {
        let Some(index) = self.sessions.iter().position(|session| session.id == id) else {
            return;
        };
        let gone = self.sessions.remove(index);
        let was_newest = index == self.sessions.len();
        tracing::info!(
            revision = gone.revision,
            pods = gone.pods.len(),
            others = self.sessions.len(),
            "a ztunnel disconnected; the listeners of its pods stay open and new connections wait"
        );
        gone.pods.keys().for_each(|uid| self.check_done(uid));
        if was_newest {
            self.give_all(|given| matches!(given, Some(Given::Adding(_) | Given::Serving)));
        }
        // What is reported of pods that wait depends on whether there is a ztunnel.
        for uid in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.feed(&uid, Event::Look);
        }
    }
}
