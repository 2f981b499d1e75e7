//! The life of one pod's capture as a pure state machine: events in, effects out, no I/O.
//!
//! ```text
//!            Locate           MakeListeners        AddPod              ApplyRules
//!  Idle ──► Pending(Locating) ──► Pending(…) ──► ListenersReady ──► Acknowledged ──► Captured
//!               ▲     any step that fails ──► Failed ──(back-off)──┐                    │ Release
//!               └──────────────────────────────────────────────────┘                    ▼
//!  Released ◄── Releasing(Undoing) ◄── (Draining) ◄── (Emptying) ◄── (Withdrawing) ◄── (Swapping)
//! ```
//!
//! Effects in the pod's network namespace run one after the other, in the order in which they were ordered. All else runs
//! concurrently, so each effect carries the epoch in which it was ordered; what comes back from an earlier epoch is dropped by the
//! caller. A new epoch begins whenever the machine leaves the path it was on.
//!
//! A captured pod's rules and listeners are checked from time to time and on each notified change; what is missing is restored.

use super::failure::{Failure, Reason};
use crate::netlink::PodTable;
use ambit_wire::agent::CaptureState;
use std::time::Duration;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long a ztunnel has to answer AddPod.
pub(super) const ACK_TIME: Duration = Duration::from_secs(5);
/// How long an agent that was restarted waits for a ztunnel that holds a pod's listeners.
pub(super) const HELD_TIME: Duration = Duration::from_secs(5);
/// From the mark's removal to the last accept: other nodes' ztunnels hear of the removal meanwhile and stop sending HBONE.
const LINGER: Duration = Duration::from_secs(1);
/// The same when nobody acknowledges the removal.
const LINGER_UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// Where a pod stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not to be captured; nothing of ours is known to be in it.
    Idle,
    /// On the way to listeners.
    Pending(Pending),
    /// Listeners stand; a ztunnel is to acknowledge them.
    ListenersReady,
    /// A ztunnel serves them; rules come next.
    Acknowledged,
    /// Rules are in force.
    Captured,
    /// A step failed and will be tried again.
    Failed(Failure),
    /// On the way out.
    Releasing(Releasing),
    /// Nothing of ours is left.
    Released,
}

/// Steps of [`State::Pending`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Looking for the pod's network namespace.
    Locating,
    /// An earlier agent captured the pod: a ztunnel may hold its listeners.
    AwaitingHeld,
    /// Making the listeners.
    MakingListeners,
}

/// Steps of [`State::Releasing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Releasing {
    /// Rules are coming by which new connections are redirected no more.
    Swapping,
    /// No new redirection; the mark is being removed and the others hear of it.
    Withdrawing,
    /// Connections that wait to be accepted still are.
    Emptying,
    /// Earlier connections end by themselves.
    Draining,
    /// Removing table, rule, route and listeners.
    Undoing,
}

/// What is wanted of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Captured,
    /// It was to be captured, and nobody names it any more: it stays as it is until its sandbox ends.
    Kept,
    /// Nobody names it, and nobody has looked: it is kept if it is redirected.
    AsFound,
    Released,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pod is to be captured.
    Capture,
    /// The pod is to be released.
    Release,
    /// Look at the pod even if it is not to be captured: an earlier agent may have.
    Inspect,
    /// The control plane does not name the pod, or no longer. That is no order to release it: its containers may still run.
    Unnamed,
    /// The sandbox is gone, and its namespace with it.
    SandboxGone,
    /// A sandbox other than the known one was made (the CNI call).
    SandboxMade,
    /// The namespace is found, with this of our table in it.
    Located(PodTable),
    /// Listeners were made, or taken over from a ztunnel.
    ListenersReady,
    /// A ztunnel connected and did not bring this pod's listeners, or none connected in time.
    NotHeld,
    /// Nothing but that what is reported may differ.
    Look,
    /// The ztunnel serves the pod.
    Acknowledged,
    /// The table, rule and route stand.
    RulesInForce,
    /// A captured pod is to be checked.
    CheckDue,
    /// All that makes the redirection stands, or stands again.
    Intact,
    /// A captured pod's redirection is gone and cannot be restored.
    Lost(Failure),
    /// New connections are redirected no more.
    Swapped,
    /// The control plane has recorded that the pod is being released.
    Withdrawn,
    /// The time for others to hear of it is over.
    LingerOver,
    /// No connection waits to be accepted.
    QueueEmpty,
    /// No ztunnel has a connection of the pod any more.
    ZtunnelDone,
    /// Applications have all that was sent to them.
    Delivered,
    /// The drain deadline has passed.
    DrainDeadline,
    /// Table, rule and route are removed.
    Undone,
    /// The step under way failed.
    Failed(Failure),
    /// Time to try again.
    RetryDue,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Find the namespace and look at the table: answers Located or Failed.
    Locate,
    /// Answers NotHeld after [`HELD_TIME`], unless a ztunnel brings the listeners.
    AwaitHeld,
    /// Answers ListenersReady or Failed.
    MakeListeners,
    /// Tell the newest ztunnel, now or when there is one: answers Acknowledged or Failed.
    AddPod,
    /// Answers RulesInForce or Failed.
    ApplyRules,
    /// Wait for a change, or for some time: answers CheckDue.
    Watch,
    /// Look whether all stands and restore what does not: answers Intact or Lost.
    Check,
    /// Answers Swapped or Failed.
    SwapRules,
    /// Answers LingerOver.
    Linger(Duration),
    /// Answers QueueEmpty or Failed.
    EmptyQueue,
    /// Tell every ztunnel that has the pod; without `force` answers ZtunnelDone.
    RemovePod {
        /// End its connections too.
        force: bool,
    },
    /// Answers DrainDeadline.
    DrainTimer,
    /// Wait until applications have what a ztunnel sent last: answers Delivered or Failed.
    Deliver,
    /// Remove table, rule, route: answers Undone or Failed.
    Undo,
    /// Close listeners and namespace.
    DropDescriptors,
    /// Answers RetryDue.
    Retry(Duration),
}

/// One pod's machine.
#[derive(Debug, Clone)]
pub struct Machine {
    state: State,
    wanted: Wanted,
    epoch: u64,
    attempts: u32,
    located: bool,
    listeners: bool,
    /// New connections are redirected now.
    in_force: bool,
    /// The redirection is broken: that some of it stands does not make the pod captured.
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
    /// Where the pod stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The epoch that effects ordered now belong to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether the pod is to be captured, or to stay so.
    pub fn wants_capture(&self) -> bool {
        self.wanted != Wanted::Released
    }

    /// Whether a pod without a sandbox may come to have one: one that nobody names has reached its end with it.
    fn is_awaited(&self) -> bool {
        self.wanted == Wanted::Captured
    }

    /// Whether a ztunnel is to accept on the pod's listeners: also while an agent that was restarted still looks the pod up, and
    /// while connections can still arrive at a pod that is being released.
    pub fn wants_ztunnel(&self) -> bool {
        let accepting = matches!(
            self.state,
            State::Releasing(Releasing::Swapping | Releasing::Withdrawing | Releasing::Emptying)
        );
        self.listeners && (accepting || self.wants_capture())
    }

    /// Whether probes must reach the pod past the redirection.
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

    /// The state as the control plane is told. A pod that an earlier agent captured stays captured while this one takes it over.
    pub fn reported(&self) -> CaptureState {
        match &self.state {
            State::Idle | State::Released => CaptureState::Released,
            State::Releasing(_) => CaptureState::Releasing,
            State::Captured => CaptureState::Captured,
            // Ports that are taken while rules are in force are taken by a ztunnel that is yet to connect.
            State::Failed(failure) if self.in_force && failure.reason == Reason::PortInUse => {
                CaptureState::Captured
            }
            State::Failed(failure) if !failure.reason.is_waiting() => CaptureState::Failed,
            _ if self.wanted == Wanted::Released => CaptureState::Releasing,
            _ if self.in_force => CaptureState::Captured,
            _ => CaptureState::Pending,
        }
    }

    /// Takes an event; returns what is to be done, in order.
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
            // Rules are being deleted: afterwards, from the start.
            State::Releasing(Releasing::Undoing) => vec![],
            // What is under way in the namespace ends before the look at it.
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
            // A release that was ordered goes on.
            _ => vec![],
        }
    }

    fn sandbox_gone(&mut self) -> Vec<Effect> {
        let mut effects = self.forget();
        if self.is_awaited() {
            // The CNI call for the next sandbox, if there is to be one, begins again; a look now and then costs little.
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

    /// Back to nothing: what the pod had is gone.
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
            // Brought by a ztunnel: what was tried (and found the ports taken) need not be tried again.
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
            // The drain's time goes on.
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
            // What was in it is gone too; holding on to it would keep a dead namespace alive.
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
