//! The capture of one pod as a pure state machine: events in, effects out, no I/O.
//!
//! ```text
//!            Locate           MakeListeners        AddPod              ApplyRules
//!  Idle ──► Pending(Locating) ──► Pending(…) ──► ListenersReady ──► Acknowledged ──► Captured
//!               ▲     any step that fails ──► Failed ──(back-off)──┐                    │ Release
//!               └──────────────────────────────────────────────────┘                    ▼
//!  Released ◄── Releasing(Undoing) ◄── (Draining) ◄── (Emptying) ◄── (Withdrawing) ◄── (Swapping)
//! ```
//!
//! Effects in the pod's network namespace run one after the other, in the order of their requests. All other effects run
//! concurrently, so each effect has the epoch of its request, and the caller drops replies from earlier epochs. A new epoch
//! begins whenever the machine leaves its current path.
//!
//! Rules and listeners of a captured pod are checked regularly, and after each notified change. Missing parts are restored.

use super::failure::{Failure, Reason};
use crate::netlink::PodTable;
use ambit_wire::agent::CaptureState;
use std::time::Duration;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// The time for a ztunnel to respond to AddPod.
pub(super) const ACK_TIME: Duration = Duration::from_secs(5);
/// How long a restarted agent waits for a ztunnel that has the listeners of a pod.
pub(super) const HELD_TIME: Duration = Duration::from_secs(5);
/// The time from the removal of the mark to the last accept. Meanwhile ztunnels of other nodes receive the removal, and
/// stop sending HBONE.
const LINGER: Duration = Duration::from_secs(1);
/// The same without an acknowledgement of the removal.
const LINGER_UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// The state of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not to be captured; as far as is known, nothing of ours is in the pod.
    Idle,
    /// Preparing listeners.
    Pending(Pending),
    /// Listeners exist; a ztunnel has to acknowledge them.
    ListenersReady,
    /// A ztunnel serves the listeners; rules come next.
    Acknowledged,
    /// Rules are in force.
    Captured,
    /// A step failed, and will be retried.
    Failed(Failure),
    /// Being released.
    Releasing(Releasing),
    /// Nothing of ours is left in the pod.
    Released,
}

/// Steps of [`State::Pending`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Finding the pod's network namespace.
    Locating,
    /// An earlier agent captured the pod: a ztunnel may have its listeners.
    AwaitingHeld,
    /// Creating the listeners.
    MakingListeners,
}

/// Steps of [`State::Releasing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Releasing {
    /// Applying rules that redirect no new connections.
    Swapping,
    /// No new redirection; the mark is being removed, and other nodes are notified.
    Withdrawing,
    /// Connections in accept queues are still accepted.
    Emptying,
    /// Earlier connections drain.
    Draining,
    /// Removing table, rule, route and listeners.
    Undoing,
}

/// The desired state of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Captured,
    /// It was to be captured, and no longer has a record: it stays captured until its sandbox ends.
    Kept,
    /// It has no record, and has not been examined: it stays captured if it is redirected.
    AsFound,
    Released,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pod is to be captured.
    Capture,
    /// The pod is to be released.
    Release,
    /// Examine the pod even if it is not to be captured: an earlier agent may have captured it.
    Inspect,
    /// The control plane has no record of the pod, or no longer. This does not release the pod: its containers may
    /// still run.
    Unnamed,
    /// The sandbox is gone, and its namespace with it.
    SandboxGone,
    /// A sandbox other than the known one was created (the CNI call).
    SandboxMade,
    /// The namespace is found, with this state of our table.
    Located(PodTable),
    /// Listeners were created, or taken over from a ztunnel.
    ListenersReady,
    /// A ztunnel connected without this pod's listeners, or none connected in time.
    NotHeld,
    /// No change, except that the report may differ.
    Look,
    /// The ztunnel serves the pod.
    Acknowledged,
    /// Table, rule and route are in force.
    RulesInForce,
    /// A check of a captured pod is due.
    CheckDue,
    /// All parts of the redirection are in place, or were restored.
    Intact,
    /// The redirection of a captured pod is gone, and cannot be restored.
    Lost(Failure),
    /// New connections are no longer redirected.
    Swapped,
    /// The control plane has recorded that the pod is being released.
    Withdrawn,
    /// The time for the notification of other nodes has passed.
    LingerOver,
    /// No connection waits to be accepted.
    QueueEmpty,
    /// No ztunnel has a connection of the pod.
    ZtunnelDone,
    /// Applications have received all data.
    Delivered,
    /// The drain deadline has passed.
    DrainDeadline,
    /// Table, rule and route are removed.
    Undone,
    /// The current step failed.
    Failed(Failure),
    /// A retry is due.
    RetryDue,
}

/// An action for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find the namespace and read the table. Reply: Located or Failed.
    Locate,
    /// Reply: NotHeld after [`HELD_TIME`], unless a ztunnel brings the listeners.
    AwaitHeld,
    /// Reply: ListenersReady or Failed.
    MakeListeners,
    /// Notify the newest ztunnel, now or when one connects. Reply: Acknowledged or Failed.
    AddPod,
    /// Reply: RulesInForce or Failed.
    ApplyRules,
    /// Wait for a change, or for some time. Reply: CheckDue.
    Watch,
    /// Check all parts, and restore missing ones. Reply: Intact or Lost.
    Check,
    /// Reply: Swapped or Failed.
    SwapRules,
    /// Reply: LingerOver.
    Linger(Duration),
    /// Reply: QueueEmpty or Failed.
    EmptyQueue,
    /// Notify every ztunnel that has the pod. Reply without `force`: ZtunnelDone.
    RemovePod {
        /// End its connections, too.
        force: bool,
    },
    /// Reply: DrainDeadline.
    DrainTimer,
    /// Wait until applications have received the last data of a ztunnel. Reply: Delivered or Failed.
    Deliver,
    /// Remove table, rule and route. Reply: Undone or Failed.
    Undo,
    /// Close listeners and namespace.
    DropDescriptors,
    /// Reply: RetryDue.
    Retry(Duration),
}

/// The state machine of one pod.
#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    wanted: Wanted,
    epoch: u64,
    attempts: u32,
    located: bool,
    listeners: bool,
    /// Whether new connections are redirected.
    in_force: bool,
    /// Whether the redirection is broken. If only a part is in place, the pod does not count as captured.
    lost: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            state: State::Idle,
            wanted: Wanted::Released,
            epoch: 0,
            attempts: 0,
            located: false,
            listeners: false,
            in_force: false,
            lost: false,
        }
    }
}

impl Machine {
    /// The state of the pod.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The epoch of effects that are requested now.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the pod is to be captured, or to stay captured.
    pub fn wants_capture(&self) -> bool {
        self.wanted != Wanted::Released
    }

    /// Whether a pod without a sandbox may get one. A pod without a record ends with its sandbox.
    fn is_awaited(&self) -> bool {
        self.wanted == Wanted::Captured
    }

    /// Whether a ztunnel is to accept on the pod's listeners. It is also true while a restarted agent still looks the
    /// pod up, and while connections can still arrive at a pod that is being released.
    pub fn wants_ztunnel(&self) -> bool {
        let accepting = matches!(
            self.state,
            State::Releasing(Releasing::Swapping | Releasing::Withdrawing | Releasing::Emptying)
        );
        self.listeners && (accepting || self.wants_capture())
    }

    /// Whether probes must bypass the redirection.
    pub fn needs_probes(&self) -> bool {
        self.in_force
            || matches!(
                self.state,
                State::ListenersReady | State::Acknowledged | State::Captured
            )
    }

    /// Whether nothing of ours is in the pod.
    pub fn is_clean(&self) -> bool {
        matches!(self.state, State::Idle | State::Released)
    }

    /// The state in reports. A pod that an earlier agent captured counts as captured while this agent takes it over.
    pub fn reported(&self) -> CaptureState {
        match &self.state {
            State::Idle | State::Released => CaptureState::Released,
            State::Releasing(_) => CaptureState::Releasing,
            State::Captured => CaptureState::Captured,
            // If ports are in use while rules are in force, a ztunnel that has not connected yet uses them.
            State::Failed(failure) if self.in_force && failure.reason == Reason::PortInUse => {
                CaptureState::Captured
            }
            State::Failed(failure) if !failure.reason.is_waiting() => CaptureState::Failed,
            _ if self.wanted == Wanted::Released => CaptureState::Releasing,
            _ if self.in_force => CaptureState::Captured,
            _ => CaptureState::Pending,
        }
    }

    /// Handles an event, and returns the effects in order.
    pub fn handle(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Capture => self.capture(),
            Event::Release => self.release(),
            Event::Inspect => self.inspect(),
            Event::Unnamed => self.unnamed(),
            Event::SandboxGone => self.sandbox_gone(),
            Event::SandboxMade => {
                let mut effects = self.forget();
                effects.extend(self.locate());
                effects
            }
            Event::Located(table) => self.on_located(table),
            Event::ListenersReady => self.on_listeners(),
            Event::NotHeld if self.state == State::Pending(Pending::AwaitingHeld) => self.make_listeners(),
            Event::Acknowledged if self.state == State::ListenersReady => {
                self.go(State::Acknowledged, vec![Effect::ApplyRules])
            }
            Event::RulesInForce if self.state == State::Acknowledged => {
                self.in_force = true;
                self.lost = false;
                self.attempts = 0;
                self.go(State::Captured, vec![Effect::Watch])
            }
            Event::CheckDue if self.state == State::Captured => vec![Effect::Check],
            Event::Intact if self.state == State::Captured => vec![Effect::Watch],
            Event::Lost(failure) if self.state == State::Captured => {
                self.in_force = false;
                self.lost = true;
                self.fail(failure)
            }
            Event::Failed(failure) => self.fail(failure),
            Event::RetryDue if matches!(self.state, State::Failed(_)) => self.locate(),
            other => self.on_releasing(other),
        }
    }

    fn capture(&mut self) -> Vec<Effect> {
        self.wanted = Wanted::Captured;
        match self.state {
            State::Idle | State::Released => self.locate(),
            // Rules are being deleted; after that, the capture starts from the beginning.
            State::Releasing(Releasing::Undoing) => vec![],
            // The current job in the namespace ends before it is examined.
            State::Releasing(_) => self.locate(),
            _ => vec![],
        }
    }

    fn release(&mut self) -> Vec<Effect> {
        self.wanted = Wanted::Released;
        match self.state {
            State::Idle | State::Released | State::Releasing(_) | State::Pending(Pending::Locating) => vec![],
            // Failed before this agent found the pod: an earlier one may have left something in it.
            _ if !self.located => self.locate(),
            _ => self.swap(),
        }
    }

    fn inspect(&mut self) -> Vec<Effect> {
        match self.state {
            State::Idle | State::Released => self.locate(),
            _ => vec![],
        }
    }

    fn unnamed(&mut self) -> Vec<Effect> {
        match (self.wanted, &self.state) {
            // Its sandbox ended first, as with any pod that is not deleted by force.
            (Wanted::Captured, State::Failed(failure)) if failure.reason == Reason::SandboxNotFound => {
                self.wanted = Wanted::Released;
                self.go(State::Released, vec![])
            }
            (Wanted::Captured, _) => {
                self.wanted = Wanted::Kept;
                vec![]
            }
            (Wanted::Released, State::Idle | State::Released) => {
                self.wanted = Wanted::AsFound;
                self.locate()
            }
            // A release in progress continues.
            _ => vec![],
        }
    }

    fn sandbox_gone(&mut self) -> Vec<Effect> {
        let mut effects = self.forget();
        if self.is_awaited() {
            // The CNI call for the next sandbox, if any, starts a new capture. Until then, an occasional retry costs
            // little.
            self.state = State::Failed(Failure::new(
                Reason::SandboxNotFound,
                "the pod's sandbox has ended",
            ));
            effects.push(Effect::Retry(LAST_RETRY));
        } else {
            self.wanted = Wanted::Released;
        }
        effects
    }

    /// Resets the machine: nothing of the pod is left.
    fn forget(&mut self) -> Vec<Effect> {
        self.located = false;
        self.listeners = false;
        self.in_force = false;
        self.lost = false;
        self.attempts = 0;
        self.go(
            State::Released,
            vec![Effect::RemovePod { force: true }, Effect::DropDescriptors],
        )
    }

    fn on_located(&mut self, table: PodTable) -> Vec<Effect> {
        if self.state != State::Pending(Pending::Locating) {
            return vec![];
        }
        self.located = true;
        self.in_force = table == PodTable::Redirecting && !self.lost;
        if self.wanted == Wanted::AsFound {
            self.wanted = if self.in_force {
                Wanted::Kept
            } else {
                Wanted::Released
            };
        }
        match (self.wants_capture(), table) {
            (false, PodTable::Absent) if !self.listeners => {
                self.go(State::Released, vec![Effect::DropDescriptors])
            }
            (false, _) => self.swap(),
            (true, _) if self.listeners => self.listeners_ready(),
            (true, PodTable::Absent) => self.make_listeners(),
            (true, _) => self.go(State::Pending(Pending::AwaitingHeld), vec![Effect::AwaitHeld]),
        }
    }

    fn on_listeners(&mut self) -> Vec<Effect> {
        self.listeners = true;
        match self.state {
            State::Pending(Pending::AwaitingHeld | Pending::MakingListeners) => self.listeners_ready(),
            // A ztunnel has the listeners, so the attempt that found the ports in use need not be retried.
            State::Failed(_) if self.wants_capture() => self.locate(),
            _ => vec![],
        }
    }

    fn on_releasing(&mut self, event: Event) -> Vec<Effect> {
        let State::Releasing(step) = self.state else {
            return vec![];
        };
        match (step, event) {
            (Releasing::Swapping, Event::Swapped) => {
                self.in_force = false;
                self.releasing(
                    Releasing::Withdrawing,
                    vec![Effect::Linger(LINGER_UNACKNOWLEDGED)],
                )
            }
            (Releasing::Withdrawing, Event::Withdrawn) => {
                self.releasing(Releasing::Withdrawing, vec![Effect::Linger(LINGER)])
            }
            (Releasing::Withdrawing, Event::LingerOver) => {
                self.releasing(Releasing::Emptying, vec![Effect::EmptyQueue])
            }
            (Releasing::Emptying, Event::QueueEmpty) => self.releasing(
                Releasing::Draining,
                vec![Effect::DrainTimer, Effect::RemovePod { force: false }],
            ),
            // The time of the drain continues.
            (Releasing::Draining, Event::ZtunnelDone) => vec![Effect::Deliver],
            (Releasing::Draining, Event::Delivered) => self.releasing(Releasing::Undoing, vec![Effect::Undo]),
            (Releasing::Draining, Event::DrainDeadline) => self.releasing(
                Releasing::Undoing,
                vec![Effect::RemovePod { force: true }, Effect::Undo],
            ),
            (Releasing::Undoing, Event::Undone) => self.on_undone(),
            _ => vec![],
        }
    }

    fn on_undone(&mut self) -> Vec<Effect> {
        self.located = false;
        self.listeners = false;
        self.lost = false;
        self.attempts = 0;
        let mut effects = self.go(State::Released, vec![Effect::DropDescriptors]);
        if self.wants_capture() {
            effects.extend(self.locate());
        }
        effects
    }

    fn fail(&mut self, failure: Failure) -> Vec<Effect> {
        if self.is_clean() {
            return vec![];
        }
        let attempts = self.attempts;
        let mut effects = vec![];
        if failure.reason == Reason::SandboxNotFound {
            // Its content is gone, too. An open handle would keep the dead namespace alive.
            effects = self.forget();
            if !self.is_awaited() {
                self.wanted = Wanted::Released;
                return effects;
            }
        }
        effects.push(Effect::Retry(
            FIRST_RETRY.saturating_mul(1 << attempts.min(10)).min(LAST_RETRY),
        ));
        self.attempts = attempts + 1;
        self.go(State::Failed(failure), effects)
    }

    fn locate(&mut self) -> Vec<Effect> {
        self.go(State::Pending(Pending::Locating), vec![Effect::Locate])
    }

    fn make_listeners(&mut self) -> Vec<Effect> {
        self.go(
            State::Pending(Pending::MakingListeners),
            vec![Effect::MakeListeners],
        )
    }

    fn listeners_ready(&mut self) -> Vec<Effect> {
        self.go(State::ListenersReady, vec![Effect::AddPod])
    }

    fn swap(&mut self) -> Vec<Effect> {
        self.releasing(Releasing::Swapping, vec![Effect::SwapRules])
    }

    fn releasing(&mut self, step: Releasing, effects: Vec<Effect>) -> Vec<Effect> {
        self.go(State::Releasing(step), effects)
    }

    fn go(&mut self, state: State, effects: Vec<Effect>) -> Vec<Effect> {
        self.epoch += 1;
        self.state = state;
        effects
    }
}

#[cfg(test)]
mod tests;
