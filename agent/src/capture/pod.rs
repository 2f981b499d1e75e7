//! What the agent holds of one pod.

use super::effects::Guarded;
use super::failure::{Failure, Reason};
use super::lane::Lane;
use super::location::Location;
use super::machine::{Machine, Pending, Releasing, State};
use crate::netns::Listeners;
use crate::snapshot::SandboxRecord;
use ambit_wire::agent::{CaptureState, PodCapture, PodReport};
use ambit_wire::broker::PodIdentity;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a CNI ADD may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Rules are in force and a ztunnel serves the pod.
    Captured,
    /// The pod is not to be captured.
    NotCaptured,
}

/// A call that waits for a pod's capture.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) sandbox_id: String,
    /// When it is told why not.
    pub(super) due: tokio::time::Instant,
    pub(super) reply: oneshot::Sender<Result<Admission, Failure>>,
}

impl Waiter {
    pub(super) fn answer(self, answer: Result<Admission, Failure>) {
        // Fails when the plugin has given up.
        _ = self.reply.send(answer);
    }
}

/// The reason in a captured pod's report after something of its redirection was restored.
const RESTORED: &str = "RulesRestored";

/// One pod of the node.
#[derive(Debug, Default)]
pub(super) struct Pod {
    /// What the control plane says of it; `None` for one that only a ztunnel or an earlier agent knew.
    pub(super) record: Option<PodCapture>,
    /// The control plane names the pod no more: `record` is its last word, which holds until the sandbox ends.
    pub(super) gone: bool,
    /// The identity that a ztunnel brought the listeners under.
    pub(super) held_as: Option<PodIdentity>,
    /// What the CNI call said.
    pub(super) sandbox: Option<SandboxRecord>,
    pub(super) machine: Machine,
    pub(super) location: Option<Location>,
    /// The listeners and the inode of the namespace they were checked against.
    pub(super) listeners: Option<(Arc<Listeners>, u64)>,
    /// The order of what is done in its namespace.
    pub(super) lane: Lane,
    /// What stood when the rules were put in force.
    pub(super) guarded: Option<Guarded>,
    /// The wait for the next check.
    pub(super) watching: Option<AbortOnDrop>,
    /// How often something of the redirection was restored, and what the last time.
    pub(super) restored: Option<(u64, String)>,
    /// Number of the last hand-over to a ztunnel.
    pub(super) handover: u64,
    /// CNI calls that wait for the capture.
    pub(super) waiters: Vec<Waiter>,
    /// The identity as a ztunnel was last told.
    pub(super) told: Option<PodIdentity>,
    /// When the capture under way began, for the metric.
    pub(super) began: Option<Instant>,
}

impl Pod {
    /// Whether the control plane knows the pod, as far as this agent has heard.
    pub(super) fn is_named(&self) -> bool {
        self.record.is_some() && !self.gone
    }

    /// The pod's addresses: the control plane's word, and the CNI call's until the control plane knows them.
    pub(super) fn addresses(&self) -> Vec<String> {
        let known = self
            .record
            .as_ref()
            .map(|record| record.addresses.clone())
            .unwrap_or_default();
        if !known.is_empty() {
            return known;
        }
        let held = self
            .held_as
            .as_ref()
            .map(|pod| pod.addresses.clone())
            .unwrap_or_default();
        self.sandbox
            .as_ref()
            .map_or(held, |sandbox| sandbox.addresses.clone())
    }

    /// Who the pod is, for a ztunnel; `None` while nobody said.
    pub(super) fn identity(&self, uid: &str, trust_domain: &str) -> Option<PodIdentity> {
        let netns_inode = self.netns_inode();
        let Some(record) = &self.record else {
            return self.held_as.clone();
        };
        Some(PodIdentity {
            uid: uid.to_owned(),
            name: record.name.clone(),
            namespace: record.namespace.clone(),
            service_account: record.service_account.clone(),
            addresses: self.addresses(),
            trust_domain: trust_domain.to_owned(),
            netns_inode,
        })
    }

    /// Inode of the network namespace, 0 while unknown.
    pub(super) fn netns_inode(&self) -> u64 {
        let located = self.location.as_ref().map(|location| location.netns.inode());
        located
            .or_else(|| self.listeners.as_ref().map(|(_, inode)| *inode))
            .unwrap_or_default()
    }

    /// Where the kubelet probes the pod.
    pub(super) fn probes(&self) -> BTreeSet<SocketAddrV4> {
        let Some(record) = self.record.as_ref().filter(|_| self.machine.needs_probes()) else {
            return BTreeSet::new();
        };
        let ports: Vec<u16> = record
            .probe_ports
            .iter()
            .filter_map(|port| u16::try_from(*port).ok())
            .collect();
        let addresses = self
            .addresses()
            .into_iter()
            .filter_map(|address| address.parse::<Ipv4Addr>().ok());
        addresses
            .flat_map(|address| ports.iter().map(move |port| SocketAddrV4::new(address, *port)))
            .collect()
    }

    /// What the control plane is to be told; `None` when there is nothing to say.
    pub(super) fn report(&self, uid: &str, has_ztunnel: bool) -> Option<PodReport> {
        let state = self.machine.reported();
        let marked = self.record.as_ref().is_some_and(|record| record.marked);
        if *self.machine.state() == State::Idle && !marked {
            return None;
        }
        // There is nothing that the control plane could write it on.
        if !self.is_named() && !matches!(state, CaptureState::Releasing | CaptureState::Released) {
            return None;
        }
        let why = match state {
            CaptureState::Captured | CaptureState::Released => None,
            _ => self.obstacle(has_ztunnel),
        };
        let (reason, message) = match (state, &self.restored, why) {
            (CaptureState::Captured, Some((times, last)), _) => (
                RESTORED.to_owned(),
                format!("something in the pod removed its {last}: restored, {times} times since the capture"),
            ),
            (_, _, Some(failure)) => (failure.reason.to_string(), failure.message),
            (_, _, None) => Default::default(),
        };
        Some(PodReport {
            uid: uid.to_owned(),
            state: state.into(),
            reason,
            message,
            netns_inode: self.netns_inode(),
        })
    }

    /// What the pod waits for, or what went wrong.
    pub(super) fn obstacle(&self, has_ztunnel: bool) -> Option<Failure> {
        let waiting = |what: &str| Some(Failure::new(Reason::InProgress, what));
        match self.machine.state() {
            State::Failed(failure) => Some(failure.clone()),
            State::ListenersReady if !has_ztunnel => Some(Failure::new(
                Reason::NoZtunnel,
                "no ztunnel of this node is connected to the agent; the pod is captured when one is",
            )),
            State::ListenersReady => waiting("waiting for the ztunnel to acknowledge the listeners"),
            State::Pending(Pending::Locating) => waiting("looking for the pod's network namespace"),
            State::Pending(Pending::AwaitingHeld) => {
                waiting("waiting for a ztunnel that may have the pod's listeners")
            }
            State::Pending(Pending::MakingListeners) => waiting("making the listening sockets"),
            State::Acknowledged => waiting("installing the rules"),
            State::Releasing(Releasing::Draining) => waiting("redirected connections are ending"),
            State::Releasing(_) => waiting("removing the redirection"),
            State::Idle | State::Released | State::Captured => None,
        }
    }
}
