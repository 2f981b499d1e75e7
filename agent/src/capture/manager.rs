//! The one task that owns every pod's state. It never waits for anything but its next message: what takes time runs beside it
//! and comes back as an event.

mod admission;
mod control;
mod leave;
mod unnamed;
mod ztunnels;

use super::effects::{Answer, Effects, Guarded, Work};
use super::failure::{Failure, Reason};
use super::location::Uid;
use super::machine::{ACK_TIME, Effect, Event, HELD_TIME, State};
use super::pod::{AbortOnDrop, Admission, Pod};
use super::redirection::{Kernel, Redirection};
use crate::metrics::Metrics;
use crate::netlink::{Changes, InForce};
use crate::netns::NetnsRunner;
use crate::probes::Probes;
use crate::report::Reports;
use crate::runtime::Runtime;
use crate::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use admission::AdmissionRequest;
pub use control::ControlEvent;
pub use ztunnels::{FromSession, Outgoing, SessionId};

use admission::Undecided;
use ztunnels::Session;

/// What the manager works with.
#[derive(Debug)]
pub struct Settings {
    /// Where sandboxes are looked up.
    pub runtime: Arc<dyn Runtime>,
    /// Threads in pods' namespaces.
    pub netns: NetnsRunner,
    /// Inode of the host's network namespace, which is never touched as a pod's.
    pub host_netns_inode: u64,
    /// Trust domain until the control plane says one.
    pub trust_domain: String,
    /// The probes table.
    pub probes: Arc<Probes>,
    /// What the control plane is to be told.
    pub reports: Reports,
    /// What is kept on disk.
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    /// How far the node's part in an uninstallation is.
    pub leaving: watch::Sender<Leaving>,
    /// Whether a control plane has told this agent, or one before it on the node, all pods and namespaces once.
    pub told: watch::Sender<bool>,
    /// Counters.
    pub metrics: Metrics,
}

/// The node's part in an uninstallation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// The mesh stays.
    No,
    /// The control plane has said that the mesh is being removed: pods are being released.
    Releasing,
    /// Nothing of the mesh is left in any pod.
    Released,
}

/// Messages to the manager.
#[derive(Debug)]
pub(super) enum Message {
    Control(ControlEvent),
    Ztunnel(FromSession),
    Add(AdmissionRequest, oneshot::Sender<Result<Admission, Failure>>),
    SandboxGone { uid: Option<Uid>, sandbox_id: String },
    Collect(BTreeSet<String>),
    Reported { uid: Uid, state: i32 },
}

/// What other tasks tell the manager through.
#[derive(Debug, Clone)]
pub struct Handle {
    sender: mpsc::UnboundedSender<Message>,
}

impl Handle {
    /// Something from the control plane.
    pub fn control(&self, event: ControlEvent) {
        self.send(Message::Control(event));
    }

    /// Something from a ztunnel.
    pub fn ztunnel(&self, event: FromSession) {
        self.send(Message::Ztunnel(event));
    }

    /// A CNI ADD: answers when the pod is captured, or is not to be.
    ///
    /// # Errors
    /// Why it could not be captured in time.
    pub async fn admit(&self, request: AdmissionRequest) -> Result<Admission, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Add(request, reply));
        answer.await.unwrap_or_else(|_| Err(Failure::shutting_down()))
    }

    /// A CNI DEL: the sandbox and its namespace go.
    pub fn sandbox_gone(&self, uid: Option<String>, sandbox_id: String) {
        self.send(Message::SandboxGone { uid, sandbox_id });
    }

    /// A CNI GC: of the sandboxes, only these still are.
    pub fn collect(&self, valid: BTreeSet<String>) {
        self.send(Message::Collect(valid));
    }

    /// The control plane has recorded a report.
    pub fn reported(&self, uid: String, state: i32) {
        self.send(Message::Reported { uid, state });
    }

    fn send(&self, message: Message) {
        // Fails only when the agent is stopping.
        _ = self.sender.send(message);
    }

    /// A handle to no manager: what ztunnels say can be taken out by the function.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn to_nobody() -> (Self, impl FnMut() -> Option<FromSession>) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let next = move || {
            while let Ok(message) = receiver.try_recv() {
                if let Message::Ztunnel(event) = message {
                    return Some(event);
                }
            }
            None
        };
        (Self { sender }, next)
    }
}

/// Owner of all pods.
#[derive(Debug)]
pub struct Manager {
    settings: Settings,
    redirection: Arc<dyn Redirection>,
    receiver: mpsc::UnboundedReceiver<Message>,
    pods: BTreeMap<Uid, Pod>,
    /// In the order in which they connected.
    sessions: Vec<Session>,
    undecided: HashMap<Uid, Vec<Undecided>>,
    namespaces: BTreeSet<String>,
    trust_domain: String,
    drain_deadline: Duration,
    /// A control plane's stream is open.
    connected: bool,
    /// Every pod of the node has been heard of from a control plane since this agent began.
    synced: bool,
    uninstalling: bool,
    /// A look at pods that nobody names is due some time.
    looking: bool,
    tasks: JoinSet<Answer>,
    queue: VecDeque<(Uid, Event)>,
}

const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

impl Manager {
    /// A manager that begins with what was on disk, and the handle to it. Without a snapshot, no control plane has ever said anything.
    pub fn new(settings: Settings, snapshot: Option<&Snapshot>) -> (Self, Handle) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut manager = Self {
            trust_domain: settings.trust_domain.clone(),
            redirection: Arc::new(Kernel(settings.netns.clone())),
            settings,
            receiver,
            pods: BTreeMap::new(),
            sessions: vec![],
            undecided: HashMap::new(),
            namespaces: BTreeSet::new(),
            drain_deadline: DRAIN_DEADLINE,
            connected: false,
            synced: false,
            uninstalling: false,
            looking: false,
            tasks: JoinSet::new(),
            queue: VecDeque::new(),
        };
        // A readable snapshot stands for having been told.
        if let Some(snapshot) = snapshot {
            manager.settings.told.send_replace(true);
            manager.restore(snapshot);
        }
        (manager, Handle { sender })
    }

    /// Works until `stop`. Pods are left as they are, unless the control plane's last word is that the mesh is being removed: then their
    /// redirection goes before the agent does, as nobody would serve it.
    pub async fn run(mut self, stop: CancellationToken) {
        for uid in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.reconsider(&uid);
        }
        self.publish_all();
        loop {
            self.work_off();
            tokio::select! {
                () = stop.cancelled() => break,
                message = self.receiver.recv() => match message {
                    Some(message) => self.on_message(message),
                    None => break,
                },
                Some(answer) = self.tasks.join_next() => match answer {
                    Ok(answer) => self.on_answer(answer),
                    Err(e) if e.is_cancelled() => {}
                    Err(e) => tracing::error!(error = %e, "a task of a pod's capture panicked"),
                },
            }
        }
        for pod in self.pods.values_mut() {
            pod.waiters
                .drain(..)
                .for_each(|waiter| waiter.answer(Err(Failure::shutting_down())));
        }
        if self.uninstalling {
            self.release_at_once().await;
        }
        self.tasks.shutdown().await;
    }

    /// Whether it is known which pods and namespaces there are, if only from earlier.
    fn is_told(&self) -> bool {
        *self.settings.told.borrow()
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Control(event) => self.on_control(event),
            Message::Ztunnel(event) => self.on_session(event),
            Message::Add(request, reply) => self.on_add(request, reply),
            Message::SandboxGone { uid, sandbox_id } => self.on_sandbox_gone(uid.as_deref(), &sandbox_id),
            Message::Collect(valid) => {
                self.look_at(|pod, sandbox_id| !pod.machine.is_clean() && !valid.contains(sandbox_id))
            }
            Message::Reported { uid, state } => self.on_reported(uid, state),
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Pod { uid, epoch, event } => {
                // A pod of which nothing else is left may have waited for the end of this job.
                let event = if self.is_current(&uid, epoch) {
                    event
                } else {
                    Event::Look
                };
                self.feed(&uid, event);
            }
            Answer::Rules {
                uid,
                epoch,
                in_force,
                changes,
                restored,
            } => self.on_rules(&uid, epoch, in_force, changes, &restored),
            Answer::HandoverDue { uid, epoch, handover } => {
                // A later hand-over has a time of its own.
                if self.is_current(&uid, epoch)
                    && self.pods.get(&uid).is_some_and(|pod| pod.handover == handover)
                {
                    self.feed(&uid, Event::Failed(Failure::ztunnel_silent(ACK_TIME)));
                }
            }
            Answer::Located {
                uid,
                epoch,
                location,
                table,
            } => {
                if !self.is_current(&uid, epoch) {
                    return;
                }
                let Some(pod) = self.pods.get_mut(&uid) else {
                    return;
                };
                let inode = location.netns.inode();
                pod.location = Some(location);
                if pod.listeners.as_ref().is_some_and(|(_, of)| *of != inode) {
                    tracing::warn!(
                        pod.uid = uid,
                        "the listeners belong to an earlier sandbox of the pod; making new ones"
                    );
                    self.feed(&uid, Event::SandboxMade);
                } else {
                    self.feed(&uid, Event::Located(table));
                }
            }
            Answer::Listeners {
                uid,
                epoch,
                listeners,
                inode,
            } => {
                if self.is_current(&uid, epoch)
                    && let Some(pod) = self.pods.get_mut(&uid)
                {
                    pod.listeners = Some((Arc::new(listeners), inode));
                    self.feed(&uid, Event::ListenersReady);
                }
            }
            Answer::AdmissionDue { uid } => self.admission_due(&uid),
            Answer::LookDue => self.look_at_unnamed(),
            Answer::Looked {
                uid,
                sandbox_id,
                ended,
            } => {
                if ended {
                    self.on_sandbox_gone(Some(&uid), &sandbox_id);
                }
            }
        }
    }

    fn on_rules(
        &mut self,
        uid: &str,
        epoch: u64,
        in_force: Arc<InForce>,
        changes: Option<Arc<Changes>>,
        restored: &[&'static str],
    ) {
        if !restored.is_empty() {
            self.settings.metrics.restored(restored);
        }
        if !self.is_current(uid, epoch) {
            return self.feed(uid, Event::Look);
        }
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.guarded = Some(Guarded {
            in_force,
            changes,
            listeners: pod.listeners.as_ref().map(|(listeners, _)| Arc::clone(listeners)),
        });
        if restored.is_empty() {
            pod.restored = None;
            return self.feed(uid, Event::RulesInForce);
        }
        let what = restored.join(", ");
        tracing::warn!(
            pod.uid = uid,
            what,
            "parts of a captured pod's redirection were missing and are restored; something in the pod \
             removed them"
        );
        let times = pod.restored.as_ref().map_or(0, |(times, _)| *times) + 1;
        pod.restored = Some((times, what));
        self.feed(uid, Event::Intact);
    }

    fn is_current(&self, uid: &str, epoch: u64) -> bool {
        self.pods.get(uid).is_some_and(|pod| pod.machine.epoch() == epoch)
    }

    /// Queues an event of a pod; [`Self::work_off`] takes it.
    fn feed(&mut self, uid: &str, event: Event) {
        self.queue.push_back((uid.to_owned(), event));
    }

    /// Takes queued events until none is left, and tells the world.
    fn work_off(&mut self) {
        let mut touched = BTreeSet::new();
        while let Some((uid, event)) = self.queue.pop_front() {
            self.step(&uid, event);
            touched.insert(uid);
        }
        if !touched.is_empty() {
            touched.iter().for_each(|uid| self.publish(uid));
            self.publish_all();
        }
    }

    fn step(&mut self, uid: &str, event: Event) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let before = pod.machine.state().clone();
        let text = format!("{event:?}");
        let effects = pod.machine.handle(event);
        let after = pod.machine.state();
        if before != *after {
            if let State::Failed(failure) = after {
                if failure.reason.is_waiting() {
                    tracing::debug!(pod.uid = uid, reason = %failure.reason, why = failure.message, "pod waits");
                } else {
                    tracing::warn!(pod.uid = uid, reason = %failure.reason, why = failure.message, "capture failed; will try again");
                    self.settings.metrics.failure(failure.reason.as_str());
                }
            }
            tracing::debug!(pod.uid = uid, from = ?before, to = ?after, event = text, "capture state");
            self.note_transition(uid, &before);
        }
        for effect in effects {
            self.perform(uid, effect);
        }
    }

    /// Logs and measures what a person would call an event.
    fn note_transition(&mut self, uid: &str, before: &State) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let name = pod
            .record
            .as_ref()
            .map(|r| format!("{}/{}", r.namespace, r.name))
            .unwrap_or_default();
        match pod.machine.state() {
            State::Captured => {
                let took = pod.began.take().map(|began| began.elapsed());
                if let Some(took) = took {
                    self.settings.metrics.captured_after(took);
                }
                tracing::info!(
                    pod.uid = uid,
                    pod = name,
                    took_ms = took.map(|t| t.as_millis()),
                    "pod is captured"
                );
            }
            State::Released if *before != State::Idle => {
                tracing::info!(pod.uid = uid, pod = name, "pod is released")
            }
            State::Pending(_) if pod.began.is_none() => pod.began = Some(Instant::now()),
            _ => {}
        }
    }

    fn perform(&mut self, uid: &str, effect: Effect) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let effects = Effects {
            uid: uid.to_owned(),
            epoch: pod.machine.epoch(),
        };
        let netns = pod.location.as_ref().map(|location| location.netns.clone());
        let redirection = Arc::clone(&self.redirection);
        let work = || Work {
            turn: pod.lane.turn(),
            redirection: Arc::clone(&redirection),
            netns: netns.clone(),
        };
        match effect {
            Effect::Locate => {
                let runtime = Arc::clone(&self.settings.runtime);
                let host = self.settings.host_netns_inode;
                self.tasks.spawn(effects.locate(
                    runtime,
                    redirection,
                    pod.lane.clone(),
                    pod.sandbox.clone(),
                    host,
                ));
            }
            Effect::AwaitHeld => _ = self.tasks.spawn(effects.after(HELD_TIME, Event::NotHeld)),
            Effect::MakeListeners => _ = self.tasks.spawn(effects.make_listeners(work())),
            Effect::AddPod => self.give(uid),
            Effect::ApplyRules => {
                let probes = Arc::clone(&self.settings.probes);
                let work = work();
                self.want_probes();
                self.tasks.spawn(effects.apply_rules(work, probes));
            }
            Effect::Watch => {
                let changes = pod.guarded.as_ref().and_then(|guarded| guarded.changes.clone());
                pod.watching = Some(AbortOnDrop(self.tasks.spawn(effects.watch(changes))));
            }
            Effect::Check => {
                if let Some(guarded) = pod.guarded.clone() {
                    self.tasks.spawn(effects.check(work(), guarded));
                }
            }
            Effect::SwapRules => _ = self.tasks.spawn(effects.swap_rules(work())),
            Effect::EmptyQueue => _ = self.tasks.spawn(effects.empty_queue(redirection, netns)),
            Effect::Deliver => _ = self.tasks.spawn(effects.deliver(redirection, netns)),
            Effect::Undo => _ = self.tasks.spawn(effects.undo(work())),
            Effect::Linger(time) => _ = self.tasks.spawn(effects.after(time, Event::LingerOver)),
            Effect::DrainTimer => {
                _ = self
                    .tasks
                    .spawn(effects.after(self.drain_deadline, Event::DrainDeadline));
            }
            Effect::Retry(time) => _ = self.tasks.spawn(effects.after(time, Event::RetryDue)),
            Effect::RemovePod { force } => self.remove_pod(uid, force),
            Effect::DropDescriptors => {
                pod.location = None;
                pod.listeners = None;
                pod.guarded = None;
                pod.watching = None;
                pod.restored = None;
                pod.told = None;
            }
        }
    }

    /// Tells the control plane, CNI calls that wait, and the metrics, how the pod stands.
    fn publish(&mut self, uid: &str) {
        let has_ztunnel = !self.sessions.is_empty();
        let Some(pod) = self.pods.get_mut(uid) else {
            return self.settings.reports.set_pod(uid, None);
        };
        self.settings.reports.set_pod(uid, pod.report(uid, has_ztunnel));
        if *pod.machine.state() == State::Captured {
            pod.waiters
                .drain(..)
                .for_each(|waiter| waiter.answer(Ok(Admission::Captured)));
        } else if !pod.machine.wants_capture() && pod.machine.is_clean() {
            let answer = if pod.is_named() || self.uninstalling {
                Ok(Admission::NotCaptured)
            } else {
                Err(Failure::new(
                    Reason::PodUnknown,
                    "the control plane has no record of the pod any more",
                ))
            };
            pod.waiters
                .drain(..)
                .for_each(|waiter| waiter.answer(answer.clone()));
        }
        // One that nobody speaks of any more and that is clean is forgotten.
        // A job that is under way may be followed by others of the same pod.
        if !pod.is_named()
            && pod.machine.is_clean()
            && pod.listeners.is_none()
            && pod.lane.is_idle()
            && self.synced
        {
            self.pods.remove(uid);
            self.settings.reports.set_pod(uid, None);
        }
    }

    fn publish_all(&mut self) {
        self.want_probes();
        self.watch_unnamed();
        self.settings
            .metrics
            .pods(self.pods.values().map(|pod| pod.machine.reported()));
        let released = self.pods.values().all(|pod| pod.machine.is_clean());
        let leaving = match (self.uninstalling, released) {
            (false, _) => Leaving::No,
            (true, false) => Leaving::Releasing,
            (true, true) => Leaving::Released,
        };
        self.settings
            .leaving
            .send_if_modified(|value| std::mem::replace(value, leaving) != leaving);
        self.persist();
    }

    fn want_probes(&self) {
        self.settings
            .probes
            .want(self.pods.values().flat_map(Pod::probes).collect());
    }
}

#[cfg(test)]
mod tests;
