//! Requests that two servers may read differently: one in, at most one out, and in one form.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ambit_smuggling::{CASE, Case, SMUGGLED, http1, http2};
use http::Response;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;

/// How often a path was asked for.
type Seen = Arc<Mutex<BTreeMap<String, usize>>>;

/// An endpoint that has one strict reading of what comes, and refuses anything else.
async fn strict_endpoint(seen: Seen, wrong: Arc<Mutex<Vec<String>>>) -> std::net::SocketAddr {
    raw_application(move |mut tcp, _| {
        let (seen, wrong) = (Arc::clone(&seen), Arc::clone(&wrong));
        async move {
            let (mut read, mut answered) = (Vec::new(), 0);
            while tcp.read_buf(&mut read).await.is_ok_and(|n| n > 0) {
                let came = http1::strict(&read);
                for request in came.iter().filter(|request| request.complete).skip(answered) {
                    answered += 1;
                    *seen.lock().entry(path_of(request)).or_default() += 1;
                    let head = request.first.first().is_some_and(|method| method == b"HEAD");
                    let body = if head { "" } else { "ok" };
                    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{body}");
                    if tcp.write_all(response.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
            // What a lenient reader finds beyond that, this endpoint would have misread.
            if let Some(misread) = http1::requests(&read).get(http1::strict(&read).len()) {
                wrong.lock().push(format!("{misread:?}"));
            }
        }
    })
    .await
}

fn path_of(request: &http1::Message) -> String {
    let target = request.first.get(1).map(Vec::as_slice).unwrap_or_default();
    let target = String::from_utf8_lossy(target);
    target.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// Sends a case in portions, and reads what comes back until `is_over`, the connection's end, or a silence.
async fn send(mesh: &Mesh, port: u16, case: &Case, portion: usize, is_over: fn(&[u8]) -> bool) -> Vec<u8> {
    let io = mesh.connect(port).await;
    let (mut reader, mut writer) = tokio::io::split(io);
    let write = async {
        for part in case.bytes.chunks(portion) {
            // A refusal may end the connection earlier.
            if writer.write_all(part).await.is_err() || writer.flush().await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        // HTTP/1 has been said to its end; HTTP/2 has not before the response.
        if !case.bytes.starts_with(b"PRI ") {
            let _ = writer.shutdown().await;
        }
    };
    let read = async {
        let mut response = Vec::new();
        while !is_over(&response) {
            let more = tokio::time::timeout(Duration::from_secs(5), reader.read_buf(&mut response)).await;
            if !matches!(more, Ok(Ok(1..))) {
                break;
            }
        }
        response
    };
    tokio::join!(write, read).1
}

/// That a case's request came at most once, and the hidden one only where it is one.
fn ensure_one_out(case: &Case, number: usize, seen: &BTreeMap<String, usize>) {
    let count = |path: &str| seen.get(&format!("{path}{number:04}")).copied().unwrap_or(0);
    assert!(count(CASE) <= 1, "{}: twice", case.name);
    assert!(
        count(SMUGGLED) <= usize::from(case.second),
        "{} brought the hidden request: {}",
        case.name,
        case.bytes.escape_ascii()
    );
}

#[tokio::test]
async fn smuggling_over_http1_ends_at_the_waypoint() {
    for portion in [usize::MAX, 7] {
        let mesh = Mesh::new().await;
        let (seen, wrong) = (Seen::default(), Arc::<Mutex<Vec<String>>>::default());
        let endpoint = strict_endpoint(Arc::clone(&seen), Arc::clone(&wrong)).await;
        mesh.endpoint("server-1", endpoint);
        let mut neighbour = mesh.http1(81).await;
        let cases = ambit_smuggling::cases();
        for (number, case) in cases.iter().enumerate() {
            send(&mesh, 81, case, portion, |_| false).await;
            ensure_one_out(case, number, &seen.lock());
            // Connections to the endpoint are shared: another client's next request is not touched.
            let path = format!("/neighbour/{number}");
            let (status, _, body) = neighbour.get(&path).await;
            assert_eq!((status.as_u16(), &*body), (200, "ok"), "after {}", case.name);
            assert_eq!(seen.lock().get(&path), Some(&1), "after {}", case.name);
        }
        assert_eq!(*wrong.lock(), Vec::<String>::new());
        let came = |path: &str| seen.lock().keys().filter(|seen| seen.starts_with(path)).count();
        println!(
            "{} cases, {} came, {} with the second request",
            cases.len(),
            came(CASE),
            came(SMUGGLED)
        );
        assert!(came(CASE) > 50 && came(SMUGGLED) > 5);
    }
}

/// An application that notes paths.
async fn noting(seen: &Seen) -> Application {
    let seen = Arc::clone(seen);
    Application::start(move |request| {
        *seen.lock().entry(request.uri().path().to_owned()).or_default() += 1;
        async { Response::new(full("ok")) }
    })
    .await
}

#[tokio::test]
async fn smuggling_from_http1_to_http2_ends_at_the_waypoint() {
    let mesh = Mesh::new().await;
    let seen = Seen::default();
    let application = noting(&seen).await;
    mesh.endpoint("server-1", application.address);
    let cases = ambit_smuggling::cases();
    for (number, case) in cases.iter().enumerate() {
        send(&mesh, 8080, case, usize::MAX, |_| false).await;
        ensure_one_out(case, number, &seen.lock());
    }
    assert!(seen.lock().len() > 50);
}

#[tokio::test]
async fn smuggling_over_http2_ends_at_the_waypoint() {
    let mesh = Mesh::new().await;
    let seen = Seen::default();
    let application = noting(&seen).await;
    mesh.endpoint("server-1", application.address);
    let cases = http2::cases();
    let mut answered = 0;
    for (number, case) in cases.iter().enumerate() {
        let response = send(&mesh, 8080, case, usize::MAX, http2::is_over).await;
        answered += usize::from(http2::is_over(&response));
        ensure_one_out(case, number, &seen.lock());
    }
    println!(
        "{} cases, {} came, {answered} have an end",
        cases.len(),
        seen.lock().len()
    );
    assert!(seen.lock().len() > 20);
    assert_eq!(answered, cases.len());
}
