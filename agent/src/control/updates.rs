//! Delta xDS of pods, namespaces and the node's configuration, as events for the manager.

use crate::capture::{ControlEvent, Handle};
use ambit_wire::agent::{EnrolledNamespace, NodeConfig, PodCapture};
use ambit_wire::names::{TYPE_ENROLLED_NAMESPACE, TYPE_NODE_CONFIG, TYPE_POD_CAPTURE};
use ambit_wire::xds::{Batch, Handler, Rejection, Resource, Subscription};
use prost::Message;
use std::collections::BTreeSet;

/// The agent's subscriptions: all resources that the control plane has for this node.
pub fn subscriptions() -> [Subscription; 3] {
    // Namespaces first: they decide on the CNI call of a pod without a record.
    [TYPE_ENROLLED_NAMESPACE, TYPE_NODE_CONFIG, TYPE_POD_CAPTURE].map(Subscription::wildcard)
}

/// Passes received resources to the manager.
#[derive(Debug)]
pub struct Updates {
    manager: Handle,
    pods: Known,
    namespaces: Known,
    synced: bool,
}

/// The names of one type, and whether they are complete.
#[derive(Debug, Default)]
struct Known {
    names: BTreeSet<String>,
    complete: bool,
}

impl Known {
    fn note(&mut self, batch: &Batch) {
        self.names
            .extend(batch.added.iter().map(|resource| resource.name.clone()));
        batch.removed.iter().for_each(|name| _ = self.names.remove(name));
        self.complete |= batch.complete;
    }
}

impl Updates {
    /// A handler that notifies `manager`.
    pub fn new(manager: Handle) -> Self {
        Self {
            manager,
            pods: Known::default(),
            namespaces: Known::default(),
            synced: false,
        }
    }

    fn pods(&mut self, batch: Batch) -> Vec<Rejection> {
        self.pods.note(&batch);
        let (records, rejections) = decode::<PodCapture>(&batch.added, |pod, name| {
            if pod.uid == name {
                Ok(())
            } else {
                Err(format!("its uid is {:?}", pod.uid))
            }
        });
        self.manager.control(ControlEvent::Pods(records));
        self.manager.control(ControlEvent::PodsGone(batch.removed));
        rejections
    }

    fn namespaces(&mut self, batch: Batch) -> Vec<Rejection> {
        self.namespaces.note(&batch);
        let (namespaces, rejections) = decode::<EnrolledNamespace>(&batch.added, |_, _| Ok(()));
        self.manager.control(ControlEvent::Enrolled(
            namespaces.into_iter().map(|n| n.name).collect(),
        ));
        self.manager.control(ControlEvent::NotEnrolled(batch.removed));
        rejections
    }

    fn node(&self, batch: &Batch) -> Vec<Rejection> {
        let (configs, rejections) = decode::<NodeConfig>(&batch.added, |_, _| Ok(()));
        configs
            .into_iter()
            .for_each(|config| self.manager.control(ControlEvent::Node(config)));
        rejections
    }
}

impl Handler for Updates {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejection> {
        let rejections = match batch.type_url.as_str() {
            TYPE_POD_CAPTURE => self.pods(batch),
            TYPE_ENROLLED_NAMESPACE => self.namespaces(batch),
            TYPE_NODE_CONFIG => self.node(&batch),
            _ => vec![],
        };
        if !self.synced && self.pods.complete && self.namespaces.complete {
            self.synced = true;
            tracing::info!(
                pods = self.pods.names.len(),
                namespaces = self.namespaces.names.len(),
                "initial sync is done: the control plane has sent all pods of this node"
            );
            self.manager.control(ControlEvent::Synced {
                pods: self.pods.names.clone(),
                namespaces: self.namespaces.names.clone(),
            });
        }
        rejections
    }
}

fn decode<M: Message + Default>(
    resources: &[Resource],
    check: impl Fn(&M, &str) -> Result<(), String>,
) -> (Vec<M>, Vec<Rejection>) {
    let mut good = vec![];
    let mut bad = vec![];
    for resource in resources {
        let decoded = M::decode(resource.bytes.as_slice()).map_err(|e| e.to_string());
        match decoded.and_then(|message| check(&message, &resource.name).map(|()| message)) {
            Ok(message) => good.push(message),
            Err(reason) => bad.push(Rejection {
                name: resource.name.clone(),
                reason,
            }),
        }
    }
    (good, bad)
}
