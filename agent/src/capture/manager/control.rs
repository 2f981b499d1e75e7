//! What the control plane says, and what was on disk from when it last did.

use super::{DRAIN_DEADLINE, Manager};
use crate::capture::location::Uid;
use crate::capture::machine::{Event, Releasing, State};
use crate::capture::pod::Pod;
use crate::snapshot::{CapturedPod, PodEntry, Snapshot};
use ambit_wire::agent::{CaptureState, NodeConfig, PodCapture};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What comes from the control plane.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlEvent {
    /// A stream is open, or no longer.
    Connected(bool),
    /// Pods that are new or changed.
    Pods(Vec<PodCapture>),
    /// UIDs of pods that are gone.
    PodsGone(Vec<String>),
    /// Namespaces enrolled, by name.
    Enrolled(Vec<String>),
    /// Namespaces no longer enrolled.
    NotEnrolled(Vec<String>),
    /// What the agent as a whole is to do.
    Node(NodeConfig),
    /// Everything that the control plane holds has been said once: all pods of the node, and all namespaces.
    Synced {
        /// UIDs.
        pods: BTreeSet<String>,
        /// Names.
        namespaces: BTreeSet<String>,
    },
}

impl Manager {
    pub(super) fn on_control(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Connected(connected) => {
                self.connected = connected;
                // One that was never told anything can decide nothing: its calls wait their whole time.
                if !connected && self.is_told() {
                    self.decide_all_undecided();
                }
            }
            ControlEvent::Pods(records) => records.into_iter().for_each(|record| self.on_record(record)),
            ControlEvent::PodsGone(uids) => uids.iter().for_each(|uid| self.on_pod_gone(uid)),
            ControlEvent::Enrolled(names) => self.namespaces.extend(names),
            ControlEvent::NotEnrolled(names) => {
                names.iter().for_each(|name| _ = self.namespaces.remove(name))
            }
            ControlEvent::Node(config) => self.on_node_config(&config),
            ControlEvent::Synced { pods, namespaces } => self.on_synced(&pods, namespaces),
        }
        self.persist();
    }

    fn on_record(&mut self, record: PodCapture) {
        let uid = record.uid.clone();
        let pod = self.pods.entry(uid.clone()).or_default();
        let was_marked = pod.record.as_ref().map(|old| old.marked);
        let marked = record.marked;
        pod.record = Some(record);
        pod.gone = false;
        // The mark differs from what was reported and recorded before: somebody else wrote it.
        let captured = pod.machine.reported() == CaptureState::Captured;
        if was_marked.is_some_and(|was| was != marked) && marked != captured {
            self.settings.reports.repeat(&uid);
        }
        self.reconsider(&uid);
        self.decide_undecided(&uid);
    }

    /// Brings what is wanted of the pod to its machine, and what changed of its identity to its ztunnel.
    pub(super) fn reconsider(&mut self, uid: &str) {
        let Some(pod) = self.pods.get(uid) else { return };
        let changed = pod.told.is_some() && pod.told != pod.identity(uid, &self.trust_domain);
        let tell_again = changed && pod.machine.wants_ztunnel();
        let ours_may_be_in_it = pod.sandbox.is_some() || pod.listeners.is_some();
        let event = match &pod.record {
            Some(record) if record.capture && !self.uninstalling && !pod.gone => Event::Capture,
            Some(record) if record.capture && !self.uninstalling => Event::Unnamed,
            None if self.synced && !self.uninstalling => Event::Unnamed,
            _ if pod.machine.wants_capture() => Event::Release,
            Some(record) if record.marked || ours_may_be_in_it => Event::Inspect,
            None if self.uninstalling => Event::Inspect,
            _ => Event::Look,
        };
        self.feed(uid, event);
        if tell_again {
            self.give(uid);
        }
    }

    fn on_node_config(&mut self, config: &NodeConfig) {
        if config.drain_deadline_seconds > 0 {
            self.drain_deadline = Duration::from_secs(config.drain_deadline_seconds.into());
        } else {
            self.drain_deadline = DRAIN_DEADLINE;
        }
        if !config.trust_domain.is_empty() {
            self.trust_domain.clone_from(&config.trust_domain);
        }
        if config.uninstall != self.uninstalling {
            self.uninstalling = config.uninstall;
            tracing::info!(
                uninstall = config.uninstall,
                "the control plane changed the configuration of this node"
            );
            if config.uninstall {
                self.decide_all_undecided();
            }
        }
        self.reconsider_all();
    }

    fn on_synced(&mut self, pods: &BTreeSet<Uid>, namespaces: BTreeSet<String>) {
        self.synced = true;
        self.settings.told.send_replace(true);
        self.namespaces = namespaces;
        // What was restored from disk and is no more.
        let gone = self
            .pods
            .iter()
            .filter(|(uid, pod)| pod.is_named() && !pods.contains(*uid));
        for uid in gone.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.on_pod_gone(&uid);
        }
        self.reconsider_all();
    }

    fn reconsider_all(&mut self) {
        for uid in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.reconsider(&uid);
        }
        self.publish_all();
    }

    /// The control plane has written a report down.
    pub(super) fn on_reported(&mut self, uid: Uid, state: i32) {
        let Some(pod) = self.pods.get(&uid) else { return };
        let withdrawing = *pod.machine.state() == State::Releasing(Releasing::Withdrawing);
        if withdrawing && state == i32::from(CaptureState::Releasing) {
            self.feed(&uid, Event::Withdrawn);
        }
    }

    /// Begins with what an earlier agent knew.
    pub(super) fn restore(&mut self, snapshot: &Snapshot) {
        self.namespaces
            .extend(snapshot.enrolled_namespaces.iter().cloned());
        if let Some(trust_domain) = snapshot.trust_domain.clone() {
            self.trust_domain = trust_domain;
        }
        if let Some(seconds) = snapshot.drain_deadline_seconds.filter(|seconds| *seconds > 0) {
            self.drain_deadline = Duration::from_secs(seconds.into());
        }
        self.uninstalling = snapshot.uninstall;
        for entry in &snapshot.pods {
            self.pods.entry(entry.uid.clone()).or_default().record = Some(entry.into());
        }
        for captured in &snapshot.sandboxes {
            self.pods.entry(captured.uid.clone()).or_default().sandbox = Some(captured.sandbox.clone());
        }
    }

    /// Hands the present state to whoever writes it to disk.
    pub(super) fn persist(&self) {
        // The next agent is to take none for having been told.
        if !self.is_told() && !self.uninstalling {
            return;
        }
        let snapshot = Snapshot {
            pods: self
                .pods
                .values()
                .filter_map(|pod| pod.record.as_ref())
                .map(PodEntry::from)
                .collect(),
            sandboxes: self
                .pods
                .iter()
                .filter_map(|(uid, pod)| captured_pod(uid, pod))
                .collect(),
            enrolled_namespaces: self.namespaces.iter().cloned().collect(),
            trust_domain: Some(self.trust_domain.clone()),
            drain_deadline_seconds: u32::try_from(self.drain_deadline.as_secs()).ok(),
            uninstall: self.uninstalling,
        };
        self.settings.snapshot.send_if_modified(|current| {
            let changed = **current != snapshot;
            if changed {
                *current = Arc::new(snapshot);
            }
            changed
        });
    }
}

fn captured_pod(uid: &str, pod: &Pod) -> Option<CapturedPod> {
    let located = pod
        .location
        .as_ref()
        .map(|location| crate::snapshot::SandboxRecord {
            sandbox_id: location.sandbox_id.clone(),
            netns_path: location.path.clone(),
            netns_inode: location.netns.inode(),
            addresses: pod.addresses(),
        });
    let sandbox = located.or_else(|| pod.sandbox.clone())?;
    Some(CapturedPod {
        uid: uid.to_owned(),
        sandbox,
    })
}
