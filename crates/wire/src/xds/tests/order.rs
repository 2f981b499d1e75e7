//! What is referred to arrives before what refers to it, whatever has been acknowledged. The test is the client: it
//! decides when.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::harness::resources;
use super::*;
use crate::discovery::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::xds::serve;

/// A stream on which nothing is acknowledged by itself.
struct Stream {
    requests: mpsc::UnboundedSender<Result<DeltaDiscoveryRequest, Status>>,
    responses: BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>,
}

impl Stream {
    /// Subscribed to nothing.
    fn new(fake: &Arc<Fake>) -> Self {
        let (requests, incoming) = mpsc::unbounded_channel();
        let incoming = UnboundedReceiverStream::new(incoming);
        let shutdown = CancellationToken::new();
        let responses = serve(Arc::clone(fake), "raw client".to_owned(), incoming, shutdown);
        Self { requests, responses }
    }

    /// Subscribed to both types, with nothing in flight.
    async fn open(fake: &Arc<Fake>) -> Self {
        let mut stream = Self::new(fake);
        for type_url in [B, A] {
            stream.request(DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                ..Default::default()
            });
            let first = stream.next().await;
            assert_eq!(first.type_url, type_url);
            stream.acknowledge(&first);
        }
        stream
    }

    fn request(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(Ok(request)).unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = tokio::time::timeout(Duration::from_secs(10), self.responses.next());
        next.await.expect("the server is silent").unwrap().unwrap()
    }

    /// What the server says without anything more from the client.
    fn at_once(&mut self) -> Option<DeltaDiscoveryResponse> {
        Some(self.responses.next().now_or_never()?.unwrap().unwrap())
    }

    fn is_silent(&mut self) -> bool {
        self.at_once().is_none()
    }

    fn acknowledge(&self, response: &DeltaDiscoveryResponse) {
        self.answer(response, None);
    }

    fn reject(&self, response: &DeltaDiscoveryResponse) {
        self.answer(response, Some(discovery::Status::default()));
    }

    fn answer(&self, response: &DeltaDiscoveryResponse, error_detail: Option<discovery::Status>) {
        self.request(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..Default::default()
        });
    }
}

fn set(name: &str, content: &str) -> [(String, Option<Vec<u8>>); 1] {
    [(name.to_owned(), Some(content.as_bytes().to_vec()))]
}

/// Type and names.
fn said(response: &DeltaDiscoveryResponse) -> (&str, Vec<&str>) {
    let names = response.resources.iter().map(|r| r.name.as_str());
    (response.type_url.as_str(), names.collect())
}

fn both_ready() -> Arc<Fake> {
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("service", "names p")]));
    fake.b.replace(resources(&[("p", "1")]));
    fake
}

#[tokio::test]
async fn what_is_referred_to_does_not_wait_for_an_acknowledgement() {
    let fake = both_ready();
    let mut stream = Stream::open(&fake).await;
    fake.b.update(set("p", "2"));
    let unacknowledged = stream.next().await;
    assert_eq!(said(&unacknowledged), (B, vec!["p"]));

    fake.b.update(set("q", "1"));
    fake.a.update(set("service", "names q"));
    let second = stream.next().await;
    assert_eq!(said(&second), (B, vec!["q"]));
    let service = stream.next().await;
    assert_eq!(said(&service), (A, vec!["service"]));
    assert!(stream.is_silent());
}

#[tokio::test]
async fn nothing_waits_for_ever_for_a_type_that_is_never_acknowledged() {
    let fake = both_ready();
    let mut stream = Stream::open(&fake).await;
    for round in 0..50 {
        let version = round.to_string();
        fake.b.update(set("p", &version));
        // Nothing refers to the news: it waits, but for the first time.
        assert!(round == 0 || stream.is_silent());
        fake.a.update(set("service", &version));
        assert_eq!(said(&stream.next().await), (B, vec!["p"]));
        let service = stream.next().await;
        assert_eq!(said(&service), (A, vec!["service"]));
        stream.acknowledge(&service);
    }
}

#[tokio::test]
async fn all_parts_of_what_is_referred_to_come_first() {
    let fake = both_ready();
    let mut stream = Stream::open(&fake).await;
    fake.b
        .update((0..12_000).map(|i| (format!("p{i}"), Some(vec![b'x']))));
    fake.a.update(set("service", "names p11999"));
    let mut held = 0;
    for _ in 0..3 {
        let part = stream.next().await;
        assert_eq!(part.type_url, B);
        held += part.resources.len();
    }
    assert_eq!(held, 12_000);
    assert_eq!(said(&stream.next().await), (A, vec!["service"]));
}

#[tokio::test]
async fn each_answer_counts_when_several_are_awaited() {
    let fake = both_ready();
    let mut stream = Stream::open(&fake).await;
    let mut sent = Vec::new();
    for version in ["2", "3"] {
        fake.b.update(set("p", version));
        fake.a.update(set("service", version));
        sent.push(stream.next().await);
        let service = stream.next().await;
        assert_eq!(said(&service), (A, vec!["service"]));
        stream.acknowledge(&service);
    }
    fake.b.update(set("p", "4"));
    stream.reject(&sent[0]);
    assert!(stream.is_silent(), "one is awaited still");
    assert_eq!(*fake.rejections.lock().unwrap(), [B]);
    stream.reject(&sent[0]);
    assert!(stream.is_silent());
    assert_eq!(fake.rejections.lock().unwrap().len(), 1, "answered twice");
    stream.acknowledge(&sent[1]);
    let next = stream.next().await;
    assert_eq!(
        (said(&next), &*next.resources[0].resource.as_ref().unwrap().value),
        ((B, vec!["p"]), &b"4"[..])
    );
}

/// A proxy in a mesh where some pod always changes: what it no longer needs goes all the same.
#[tokio::test]
async fn removals_do_not_wait_for_a_type_that_changes_all_the_time() {
    let fake = both_ready();
    let mut stream = Stream::open(&fake).await;
    fake.b.update(set("q", "1"));
    fake.a.update(set("service", "names q"));
    fake.b.update([("p".to_owned(), None)]);
    let mut others = 0..10;
    loop {
        let response = stream.next().await;
        let other = others.next().expect("p is not told as gone");
        fake.a.update(set("other", &other.to_string()));
        stream.acknowledge(&response);
        if !response.removed_resources.is_empty() {
            assert_eq!(response.removed_resources, ["p"]);
            break;
        }
    }
}

/// What refers must be away from what goes: the client has said so, or that it could not read it.
#[tokio::test]
async fn removals_wait_for_the_answer_to_what_came_before_them() {
    for rejects in [false, true] {
        let fake = both_ready();
        let mut stream = Stream::open(&fake).await;
        fake.a.update(set("service", "names nothing"));
        fake.b.update([("p".to_owned(), None)]);
        let service = stream.next().await;
        assert_eq!(said(&service), (A, vec!["service"]));
        assert!(stream.is_silent());
        // What comes after the removal is none of its business, answered or not.
        fake.a.update(set("service", "names nothing more"));
        assert!(stream.is_silent());
        if rejects {
            stream.reject(&service);
        } else {
            stream.acknowledge(&service);
        }
        assert_eq!(said(&stream.next().await), (A, vec!["service"]));
        let removal = stream.next().await;
        assert_eq!(
            (&*removal.type_url, &*removal.removed_resources),
            (B, &["p".to_owned()][..])
        );
        assert!(stream.is_silent());
    }
}

/// It is the later removal that counts: what named it in between must be away from it too.
#[tokio::test]
async fn what_comes_back_and_goes_again_waits_again() {
    let fake = both_ready();
    let mut stream = Stream::open(&fake).await;
    fake.a.update(set("service", "names nothing"));
    fake.b.update([("p".to_owned(), None)]);
    let nothing = stream.next().await;
    assert!(stream.is_silent());
    fake.b.update(set("p", "1"));
    fake.a.update(set("service", "names p"));
    fake.a.update(set("service", "names nothing again"));
    fake.b.update([("p".to_owned(), None)]);
    assert!(stream.is_silent());
    stream.acknowledge(&nothing);
    let again = stream.next().await;
    assert_eq!(said(&again), (A, vec!["service"]));
    assert!(stream.is_silent(), "the second of two removals waits");
    stream.acknowledge(&again);
    assert_eq!(stream.next().await.removed_resources, ["p"]);
}

/// "The server must still provide those resources": a client may have forgotten them (xDS protocol, "Subscribing to
/// Resources").
#[tokio::test]
async fn a_name_subscribed_to_again_is_sent_again() {
    let fake = both_ready();
    let mut stream = Stream::new(&fake);
    let subscribe = |initial_resource_versions: &[(&str, &str)]| DeltaDiscoveryRequest {
        type_url: A.to_owned(),
        resource_names_subscribe: vec!["service".into(), "none".into()],
        initial_resource_versions: initial_resource_versions
            .iter()
            .map(|(name, version)| ((*name).to_owned(), (*version).to_owned()))
            .collect(),
        ..Default::default()
    };
    stream.request(subscribe(&[]));
    let first = stream.next().await;
    stream.acknowledge(&first);
    assert!(stream.is_silent());
    stream.request(subscribe(&[]));
    let again = stream.next().await;
    assert_eq!(said(&again), (A, vec!["service"]));
    assert_eq!(again.removed_resources, ["none"]);

    // Once, if it has changed as well.
    fake.a.update(set("service", "changed"));
    assert!(stream.is_silent());
    stream.request(subscribe(&[]));
    assert!(stream.is_silent());
    stream.acknowledge(&again);
    assert_eq!(said(&stream.next().await), (A, vec!["service"]));

    // But at the beginning, what the client says it holds is not news.
    let version = fake.a.get("service").unwrap().0.version;
    let mut stream = Stream::new(&fake);
    stream.request(subscribe(&[("service", &format!("{version:016x}"))]));
    let first = stream.next().await;
    assert_eq!(said(&first), (A, vec![]));
    assert_eq!(first.removed_resources, ["none"]);
}

/// What was not there when the stream began, and is again before the client has been told so.
#[tokio::test]
async fn what_comes_back_unchanged_is_there() {
    for type_url in [A, B] {
        let fake = Arc::new(Fake::default());
        let collection = if type_url == A { &fake.a } else { &fake.b };
        collection.replace(resources(&[("back", "1")]));
        let mut before = Stream::new(&fake);
        before.request(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            ..Default::default()
        });
        let version = before.next().await.resources[0].version.clone();

        collection.replace((0..6_000).map(|i| (format!("r{i}"), vec![b'x'])));
        let mut stream = Stream::new(&fake);
        stream.request(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            initial_resource_versions: [("back".to_owned(), version)].into(),
            ..Default::default()
        });
        let first = stream.next().await;
        assert_eq!(first.resources.len(), 5_000, "the first of two parts");
        collection.update(set("back", "1"));
        let mut held = HashSet::from(["back".to_owned()]);
        let mut next = Some(first);
        while let Some(response) = next {
            held.extend(response.resources.iter().map(|r| r.name.clone()));
            for name in &response.removed_resources {
                held.remove(name);
            }
            stream.acknowledge(&response);
            next = stream.at_once();
        }
        assert_eq!((held.len(), held.contains("back")), (6_001, true));
    }
}

/// What refers changes once more while a round waits for a response. Its first change can no longer be sent, so the
/// client still has what refers to the removed one.
#[tokio::test]
async fn removals_wait_for_what_changed_again_within_a_round() {
    let fake = both_ready();
    let mut stream = Stream::open(&fake).await;
    fake.a.update(set("other", "1"));
    let other = stream.next().await;
    assert_eq!(said(&other), (A, vec!["other"]));
    fake.b.update(set("q", "1"));
    fake.a.update(set("service", "names q"));
    fake.b.update([("p".to_owned(), None)]);
    let q = stream.next().await;
    assert_eq!(said(&q), (B, vec!["q"]));
    assert!(stream.is_silent());
    stream.acknowledge(&q);
    assert!(stream.is_silent());

    fake.b.update(set("r", "1"));
    fake.a.update(set("service", "names r"));
    stream.acknowledge(&other);
    let r = stream.next().await;
    assert_eq!(said(&r), (B, vec!["r"]));
    assert!(r.removed_resources.is_empty(), "service names p still");
    assert_eq!(said(&stream.next().await), (A, vec!["service"]));
}

/// What is referred to changes once more between two parts, and so is not in this round.
#[tokio::test]
async fn what_refers_waits_for_what_changed_again_within_a_round() {
    let fake = both_ready();
    let mut stream = Stream::open(&fake).await;
    assert!(stream.is_silent());
    let many = (0..6_000).map(|i| (format!("p{i:04}"), Some(vec![b'x'])));
    fake.b.update(many);
    fake.b.update(set("q", "1"));
    fake.a.update(set("service", "names q"));
    assert_eq!(stream.next().await.resources.len(), 5_000);
    fake.b.update(set("q", "2"));
    let mut held = HashSet::new();
    loop {
        let response = stream.next().await;
        if response.type_url == A {
            break;
        }
        held.extend(response.resources.into_iter().map(|r| r.name));
    }
    assert!(held.contains("q"));
}

/// The same for one that is subscribed by name, and changes within a round.
#[tokio::test]
async fn a_name_is_sent_as_of_the_round() {
    let fake = both_ready();
    let mut stream = Stream::new(&fake);
    stream.request(DeltaDiscoveryRequest {
        type_url: B.to_owned(),
        ..Default::default()
    });
    stream.next().await;
    stream.request(DeltaDiscoveryRequest {
        type_url: A.to_owned(),
        resource_names_subscribe: vec!["service".into()],
        ..Default::default()
    });
    fake.b.update(set("x", "1"));
    assert_eq!(said(&stream.next().await), (B, vec!["x"]));
    fake.b.update(set("q", "1"));
    fake.a.update(set("service", "names q"));
    let mut held = false;
    loop {
        let response = stream.next().await;
        held |= response.resources.iter().any(|r| r.name == "q");
        if response.resources.iter().any(|r| r.name == "service") {
            break;
        }
    }
    assert!(held);
}

/// A part says that there is more; then what was to come is what the client has.
#[tokio::test]
async fn the_end_of_parts_is_told_if_nothing_more_comes() {
    let fake = Arc::new(Fake::default());
    fake.b.replace(resources(&[("back", "1")]));
    let mut before = Stream::new(&fake);
    before.request(DeltaDiscoveryRequest {
        type_url: B.to_owned(),
        ..Default::default()
    });
    let version = before.next().await.resources[0].version.clone();

    let news = (0..5_000).map(|i| (format!("r{i}"), Some(vec![b'x'])));
    fake.b.update(news.chain(set("back", "2")));
    let mut stream = Stream::new(&fake);
    stream.request(DeltaDiscoveryRequest {
        type_url: B.to_owned(),
        initial_resource_versions: [("back".to_owned(), version)].into(),
        ..Default::default()
    });
    let part = stream.next().await;
    assert_eq!(
        (part.resources.len(), &*part.system_version_info),
        (5_000, "partial")
    );
    fake.b.update(set("back", "1"));
    stream.acknowledge(&part);
    let end = stream.next().await;
    assert_eq!(said(&end), (B, vec![]));
    assert_ne!(end.system_version_info, "partial");
    stream.acknowledge(&end);
    assert!(stream.is_silent());
}

/// A publisher that is as fast as it can be, and a client that acknowledges late: at no moment does the client hold a
/// reference to what it does not hold. Names are new each time, or come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_hold_at_every_moment() {
    for names in [usize::MAX, 3] {
        references_hold(names).await;
    }
}

async fn references_hold(names: usize) {
    const LAST: usize = 3_000;
    let name = move |i: usize| format!("p{}", i % names);
    let fake = Arc::new(Fake::default());
    fake.a.replace(resources(&[("service", "p0")]));
    fake.b.replace(resources(&[("p0", "1")]));
    let publisher = Arc::clone(&fake);
    let mut stream = Stream::open(&fake).await;
    let publishing = tokio::task::spawn_blocking(move || {
        for i in 1..=LAST {
            publisher.b.update(set(&name(i), "1"));
            publisher.a.update(set("service", &name(i)));
            publisher.b.update([(name(i - 1), None)]);
        }
    });
    let mut held = HashSet::from(["p0".to_owned()]);
    let mut named = "p0".to_owned();
    let mut late = Vec::new();
    let last = name(LAST);
    while !publishing.is_finished() || named != last || held.len() > 1 {
        let Ok(response) = tokio::time::timeout(Duration::from_millis(1), stream.next()).await else {
            late.drain(..).for_each(|response| stream.acknowledge(&response));
            continue;
        };
        held.extend(
            response
                .resources
                .iter()
                .filter(|_| response.type_url == B)
                .map(|r| r.name.clone()),
        );
        for name in &response.removed_resources {
            held.remove(name);
        }
        for service in response.resources.iter().filter(|_| response.type_url == A) {
            let content = &service.resource.as_ref().unwrap().value;
            named = String::from_utf8(content.clone()).unwrap();
        }
        assert!(held.contains(&named), "{named} is named and not there");
        late.push(response);
        if late.len() == 3 {
            late.drain(..).for_each(|response| stream.acknowledge(&response));
        }
    }
    publishing.await.unwrap();
}
