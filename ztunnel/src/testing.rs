//! Parsers of the ztunnel without the rest of it, for tests: the agent's messages, and the header that names a client.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use ambit_mesh::{Invalid, Workload};
use ambit_wire::broker::PodIdentity;
use ambit_wire::broker_channel::Channel;
use ambit_wire::workload;
use http::HeaderMap;

use crate::broker::{AddError, Broker, PodEvents};
use crate::sockets::Handed;

/// The effect of the agent's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent has sent its greeting.
    Connected,
    /// A pod is to be served, with this number of descriptors.
    Add(String, usize),
    /// A pod is no longer to be served.
    Remove(String),
    /// These are all pods.
    Snapshot(Vec<String>),
}

struct Recorder(Sender<Event>);

impl Recorder {
    fn note(&self, event: Event) {
        // Listeners here never close.
        _ = self.0.send(event);
    }
}

impl PodEvents for Recorder {
    fn held(&self) -> Vec<(PodIdentity, Arc<Handed>)> {
        Vec::new()
    }

    fn add(&self, pod: PodIdentity, handed: Handed) -> Result<(), AddError> {
        self.note(Event::Add(pod.uid, handed.descriptors().len()));
        Ok(())
    }

    fn remove(&self, uid: &str, _: bool) -> impl Future<Output = ()> + Send + 'static {
        self.note(Event::Remove(uid.to_owned()));
        std::future::ready(())
    }

    fn connected(&self) {
        self.note(Event::Connected);
    }

    fn snapshot_done(&self, named: &[String]) {
        self.note(Event::Snapshot(named.to_vec()));
    }

    fn disconnected(&self) {}
}

/// Runs a session with an agent at the other end of `channel` until it closes or violates the protocol. Returns the
/// effects of its messages, and why the session ended.
pub async fn converse(agent: Channel) -> (Vec<Event>, String) {
    let (sender, events) = channel();
    let broker = Broker {
        path: Default::default(),
        revision: "testing".to_owned(),
        events: Arc::new(Recorder(sender)),
    };
    let ended = broker.converse(&agent).await.to_string();
    drop(broker);
    (events.into_iter().collect(), ended)
}

/// The headers of a CONNECT to a waypoint, from a client with this workload.
///
/// # Errors
/// When the workload is malformed.
pub fn connect_fields(client: workload::Workload) -> Result<HeaderMap, Invalid> {
    Workload::try_from(client).map(|client| crate::proxy::baggage_of(&client))
}
