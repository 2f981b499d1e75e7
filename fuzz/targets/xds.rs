//! Delta xDS, as a client of the control plane: it receives nothing but what it may see, in responses with rising
//! nonces; once it has acknowledged everything, it has exactly the current resources.
//!
//! Input: steps. What the client says is a request as it is encoded; a short one acknowledges what came last; others
//! change resources.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ambit_fuzz::Steps;
use ambit_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status as Refusal};
use ambit_wire::xds::{Collection, Source, serve};
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::stream::{BoxStream, Stream};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// The types of resources; each refers to those before it.
const TYPES: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 4] = ["k", "l", "m", "*"];
const MOST_NAMES: usize = 6;

#[derive(Default)]
struct Resources([Arc<Collection>; 3]);

impl Source for Resources {
    type Client = &'static str;

    fn collection(&self, _: &&'static str, type_url: &str) -> Result<Arc<Collection>, Status> {
        let found = TYPES.iter().position(|one| *one == type_url);
        let found = found.map(|index| Arc::clone(&self.0[index]));
        found.ok_or_else(|| Status::permission_denied("no such type"))
    }

    fn rank(&self, type_url: &str) -> u8 {
        type_url.bytes().next().unwrap_or_default()
    }

    fn removes_last(&self, type_url: &str) -> bool {
        type_url == TYPES[0]
    }

    fn most_names(&self, _: &&'static str) -> usize {
        MOST_NAMES
    }
}

/// The client's resources of one type.
struct Held {
    /// The content, or the version that the client claims to have.
    resources: BTreeMap<String, Result<Vec<u8>, String>>,
    /// Subscribed to everything, from the start.
    everything: bool,
    names: BTreeSet<String>,
    unanswered: Option<String>,
}

struct Client {
    sender: UnboundedSender<Result<DeltaDiscoveryRequest, Status>>,
    responses: BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>,
    source: Arc<Resources>,
    held: BTreeMap<String, Held>,
    nonce: u64,
    ended: bool,
}

impl Client {
    fn new() -> Self {
        let source = Arc::new(Resources::default());
        let (sender, requests) = unbounded();
        Self {
            responses: serve(Arc::clone(&source), "fuzz", requests, CancellationToken::new()),
            source,
            sender,
            held: BTreeMap::new(),
            nonce: 0,
            ended: false,
        }
    }

    fn say(&mut self, request: DeltaDiscoveryRequest) {
        let held = self.held.entry(request.type_url.clone()).or_insert_with(|| Held {
            resources: request
                .initial_resource_versions
                .iter()
                .map(|(n, v)| (n.clone(), Err(v.clone())))
                .collect(),
            everything: request.resource_names_subscribe.is_empty(),
            names: BTreeSet::new(),
            unanswered: None,
        });
        for name in &request.resource_names_subscribe {
            match name.as_str() {
                // Later it is the same, but the client may have claimed to hold a resource that it does not have.
                "*" => {}
                _ => _ = held.names.insert(name.clone()),
            }
        }
        for name in &request.resource_names_unsubscribe {
            held.names.remove(name);
            held.everything &= name != "*";
        }
        if held.unanswered.as_ref() == Some(&request.response_nonce) {
            held.unanswered = None;
        }
        // Fails when the stream has ended.
        _ = self.sender.unbounded_send(Ok(request));
    }

    /// Receives all pending responses.
    fn take(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while !self.ended {
            match Pin::new(&mut self.responses).poll_next(&mut cx) {
                Poll::Pending => return,
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(Ok(response))) => self.apply(response),
                Poll::Ready(Some(Err(status))) => {
                    let known = [Code::PermissionDenied, Code::ResourceExhausted];
                    assert!(known.contains(&status.code()), "{status}");
                }
            }
        }
    }

    fn apply(&mut self, response: DeltaDiscoveryResponse) {
        let nonce = response.nonce.parse().expect("a nonce is a number");
        assert!(nonce > self.nonce, "nonce {nonce} after {}", self.nonce);
        self.nonce = nonce;
        let collection = self
            .source
            .collection(&"fuzz", &response.type_url)
            .expect("a type that there is");
        let held = self
            .held
            .get_mut(&response.type_url)
            .expect("a type that was asked for");
        for resource in response.resources {
            let (stored, _) = collection.get(&resource.name).expect("a resource that there is");
            let value = resource.resource.expect("a resource has a content").value;
            assert_eq!(value, stored.bytes);
            held.resources.insert(resource.name, Ok(value));
        }
        for name in response.removed_resources {
            held.resources.remove(&name);
        }
        held.unanswered = Some(response.nonce);
    }

    /// Acknowledges the last response.
    fn answer(&mut self, type_url: &str, refuse: bool) -> bool {
        let held = self.held.get_mut(type_url);
        let Some(response_nonce) = held.and_then(|held| held.unanswered.take()) else {
            return false;
        };
        self.say(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            response_nonce,
            error_detail: refuse.then(Refusal::default),
            ..Default::default()
        });
        true
    }

    /// Acknowledges everything, and compares the held with the current resources.
    fn finish(mut self) {
        // Removals wait for the first acknowledgements of all types.
        for collection in self.source.0.iter().filter(|collection| !collection.is_ready()) {
            collection.replace([]);
        }
        loop {
            self.take();
            let types: Vec<_> = self.held.keys().cloned().collect();
            let answers = types.iter().filter(|t| self.answer(t, false)).count();
            if self.ended || answers == 0 {
                break;
            }
        }
        if self.ended {
            return;
        }
        for (type_url, held) in &self.held {
            let collection = self
                .source
                .collection(&"fuzz", type_url)
                .expect("else the stream had ended");
            let asked = |name: &str| held.everything || held.names.contains(name);
            for name in NAMES.iter().filter(|name| asked(name)) {
                let stored = collection.get(name).map(|(stored, _)| stored);
                let is_there = match (held.resources.get(*name), &stored) {
                    (None, None) => true,
                    (Some(Ok(value)), Some(stored)) => *value == stored.bytes,
                    (Some(Err(version)), Some(stored)) => {
                        u64::from_str_radix(version, 16) == Ok(stored.version)
                    }
                    _ => false,
                };
                assert!(
                    is_there,
                    "{type_url} {name}: {:?} is held of {stored:?}",
                    held.resources.get(*name)
                );
            }
            let gone = held
                .resources
                .keys()
                .filter(|name| asked(name) && collection.get(name).is_none());
            assert_eq!(gone.count(), 0, "{type_url}: something is held that is gone");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut client = Client::new();
    for (kind, payload) in Steps(data) {
        let type_url = TYPES[usize::from(kind >> 4) % 3];
        let collection = &client.source.0[usize::from(kind >> 4) % 3];
        let name = NAMES[usize::from(kind >> 6) % 3].to_owned();
        match kind % 8 {
            0 | 1 => match DeltaDiscoveryRequest::decode(payload) {
                Ok(request) => client.say(request),
                Err(_) => continue,
            },
            2 => _ = client.answer(type_url, kind & 8 != 0),
            3 => collection.update([(name, Some(payload.to_vec()))]),
            4 => collection.update([(name, None)]),
            5 => collection.replace([(name, payload.to_vec())]),
            6 => collection.replace([]),
            _ => client.take(),
        }
        if kind & 8 == 0 {
            client.take();
        }
    }
    client.finish();
});
