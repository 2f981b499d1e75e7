//! HTTP/1 through a waypoint: the client's bytes, and the endpoint's. A parser that follows the RFC's framing must find
//! the same requests in both, and a part of a request is never forwarded as a whole one.
//!
//! Input: flags, the size of the portions that come at once, and what the client sends.
#![no_main]

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use ambit_fuzz::{Peer, runtime};
use ambit_smuggling::http1::{Message, requests};
use ambit_waypoint::testing::Waypoint;
use ambit_wire::security::{Action, StringMatch, string_match::MatchType};
use ambit_wire::waypoint::{Policy, Rule};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
const BODY: &[u8] = b"ok";

struct Setup {
    runtime: Runtime,
    /// Without rules, and with one on paths.
    waypoints: [Waypoint; 2],
}

thread_local!(static SETUP: RefCell<Setup> = RefCell::new(setup()));

fn setup() -> Setup {
    let runtime = runtime();
    let path = StringMatch {
        match_type: Some(MatchType::Prefix("/admin".into())),
    };
    let rule = Rule {
        name: "no-admin".into(),
        action: Action::Deny.into(),
        paths: vec![path],
        ..Default::default()
    };
    let policy = Policy {
        namespace: "shop".into(),
        name: "server".into(),
        authorization: vec![rule],
        ..Default::default()
    };
    let waypoints =
        runtime.block_on(async { [vec![], vec![policy]].map(|p| Waypoint::new(p).expect("a waypoint")) });
    Setup { runtime, waypoints }
}

/// Responds to each complete request; records all received bytes, one entry for each connection.
async fn endpoint(mut stream: DuplexStream, connections: Arc<Mutex<Vec<Vec<u8>>>>) {
    let (mut read, mut answered) = (Vec::new(), 0);
    while stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {
        let came = requests(&read);
        for request in came.iter().filter(|request| request.complete).skip(answered) {
            answered += 1;
            let has_body = request.first.first().is_some_and(|method| method != b"HEAD");
            let response = [HEAD, if has_body { BODY } else { b"" }].concat();
            if stream.write_all(&response).await.is_err() {
                break;
            }
        }
    }
    connections.lock().unwrap().push(read);
}

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, portion], said)) = data.split_first_chunk() else {
        return;
    };
    // Its framing is h2's.
    if said.starts_with(b"PRI * HTTP/2.0") {
        return;
    }
    let connections = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    SETUP.with_borrow_mut(|Setup { runtime, waypoints }| {
        let waypoint = &mut waypoints[usize::from(flags & 1)];
        let client = Peer::new(said.to_vec(), portion.into(), flags & 2 == 0);
        let taking = Arc::clone(&connections);
        let serving = waypoint.serve(client, move |stream| endpoint(stream, Arc::clone(&taking)));
        runtime.block_on(serving).expect("the service is there");
    });
    let came = requests(said);
    let mut expected: Vec<&Message> = came.iter().filter(|request| request.complete).collect();
    for sent in connections.lock().unwrap().iter() {
        let read = requests(sent);
        let last_is_cut = read.last().is_none_or(|last| !last.complete);
        for request in read.iter().filter(|request| request.complete) {
            let same = expected.iter().position(|came| is_same(came, request));
            let Some(same) = same else {
                panic!("{request:?} was sent on, of {came:?}");
            };
            expected.remove(same);
        }
        // After the last complete request only the beginning of an incomplete one.
        assert!(
            last_is_cut || ends_with_request(sent),
            "more was sent on: {:?}",
            sent.escape_ascii().to_string()
        );
    }
});

fn ends_with_request(sent: &[u8]) -> bool {
    let count = requests(sent).len();
    // Without its last byte the last request is incomplete.
    requests(&sent[..sent.len() - 1])
        .iter()
        .filter(|r| r.complete)
        .count()
        < count
}

/// Whether a request was forwarded unchanged: first line and body.
fn is_same(came: &Message, sent: &Message) -> bool {
    let [method, target, _] = &sent.first[..] else {
        panic!("no request line: {sent:?}");
    };
    let of_path = came
        .first
        .get(1)
        .is_some_and(|came| came == target || !came.starts_with(b"/"));
    let fields = sent.fields.iter().all(|(name, _)| is_known(came, name));
    assert!(sent.values("host").count() == 1, "{sent:?}");
    came.first.first() == Some(method) && of_path && came.body == sent.body && fields
}

/// Whether a field came from the client, or from the waypoint.
fn is_known(came: &Message, name: &[u8]) -> bool {
    const OWN: [&[u8]; 7] = [
        b"content-length",
        b"host",
        b"via",
        b"x-forwarded-for",
        b"transfer-encoding",
        b"connection",
        b"te",
    ];
    OWN.contains(&name) || came.fields.iter().any(|(own, _)| own == name)
}
