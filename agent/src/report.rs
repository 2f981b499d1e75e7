//! The current state for the control plane. The stream sends the entries that differ from those that it has sent.

use ambit_wire::agent::{NodeState, PodReport};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// The whole state. The number of an entry grows when the entry has to be sent again.
#[derive(Debug, Default, Clone)]
pub struct State {
    /// By pod UID.
    pub pods: BTreeMap<String, (u64, PodReport)>,
    /// The agent as a whole.
    pub node: NodeState,
    version: u64,
}

/// A shared [`State`].
#[derive(Debug, Clone)]
pub struct Reports {
    state: watch::Sender<State>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::default()),
        }
    }
}

impl Reports {
    /// Notifies of each change.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Sets or removes a pod's report.
    pub fn set_pod(&self, uid: &str, report: Option<PodReport>) {
        self.state.send_if_modified(|state| {
            if state.pods.get(uid).map(|(_, current)| current) == report.as_ref() {
                return false;
            }
            state.version += 1;
            match report {
                Some(report) => _ = state.pods.insert(uid.to_owned(), (state.version, report)),
                None => _ = state.pods.remove(uid),
            }
            true
        });
    }

    /// Causes the report of a pod to be sent again.
    pub fn repeat(&self, uid: &str) {
        self.state.send_if_modified(|state| {
            state.version += 1;
            let entry = state.pods.get_mut(uid);
            let found = entry.is_some();
            if let Some((version, _)) = entry {
                *version = state.version;
            }
            found
        });
    }

    /// Sets the node's state.
    pub fn set_node(&self, node: NodeState) {
        self.state
            .send_if_modified(|state| std::mem::replace(&mut state.node, node) != node);
    }
}
