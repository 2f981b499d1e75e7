//! HTTP/1 that is not as it should be.

use std::sync::Arc;

use http::Response;
use http_body_util::BodyExt;
use parking_lot::Mutex;

use super::support::*;

async fn mesh() -> (Mesh, Application) {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    (mesh, application)
}

/// With an application that takes note of the requests that came to their end.
async fn noting() -> (Mesh, Application, Arc<Mutex<Vec<String>>>) {
    let mesh = Mesh::new().await;
    let noted = Arc::<Mutex<Vec<String>>>::default();
    let note = Arc::clone(&noted);
    let application = Application::start(move |request| {
        let note = Arc::clone(&note);
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            if request.into_body().collect().await.is_ok() {
                note.lock().push(line);
            }
            Response::new(full(""))
        }
    })
    .await;
    mesh.endpoint("server-1", application.address);
    (mesh, application, noted)
}

fn statuses(answers: &str) -> Vec<&str> {
    answers
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|answer| answer.split(' ').next().unwrap())
        .collect()
}

#[tokio::test]
async fn both_lengths_are_refused_and_nothing_of_it_reaches_the_application() {
    let (mesh, application) = mesh().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: server\r\n\r\n";
    let length = smuggled.len() + 5;
    for fields in [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        format!("Transfer-Encoding: chunked\r\nx: y\r\nContent-Length: {length}\r\n"),
        format!("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\ncontent-length: {length}\r\n"),
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: server\r\n{fields}\r\n0\r\n\r\n{smuggled}");
        let answer = mesh.exchange(80, &request).await;
        assert_eq!(statuses(&answer), ["400"], "{fields}: {answer}");
    }
    assert_eq!(application.seen(), 0);
    assert_eq!(mesh.metric(&["refused", "bad_request"]), 4);
}

#[tokio::test]
async fn requests_before_a_bad_one_are_answered() {
    let (mesh, application) = mesh().await;
    let answer = mesh
        .exchange(
            80,
            "POST /1 HTTP/1.1\r\nhost: server\r\ncontent-length: 3\r\n\r\nabc\
             POST /2 HTTP/1.1\r\nhost: server\r\ntransfer-encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n\
             POST /3 HTTP/1.1\r\nhost: server\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        )
        .await;
    assert_eq!(statuses(&answer), ["200", "200", "400"], "{answer}");
    assert!(answer.contains("POST /1") && answer.contains("POST /2") && !answer.contains("POST /3"));
    assert_eq!(application.seen(), 2);
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    let (mesh, application) = mesh().await;
    for request in [
        "GET /\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : server\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: server\r\nx: a\x00b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: server\r\n folded: x\r\n\r\n",
        "GET /\x01 HTTP/1.1\r\nhost: server\r\n\r\n",
        "GET server:80 HTTP/1.1\r\nhost: server\r\n\r\n",
        "GET / HTTP/9.9\r\nhost: server\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: server\r\nhost: other\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: ser ver\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: server\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 1, 1\r\n\r\na",
        "POST / HTTP/1.1\r\nhost: server\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: server\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        // A port that is said to speak HTTP, where it is not taken for another protocol.
        let request = format!("{request}GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n");
        let answer = mesh.exchange(81, &request).await;
        assert_eq!(statuses(&answer)[0], "400", "{request:?}: {answer}");
    }
    assert_eq!(application.seen(), 0);
}

#[tokio::test]
async fn a_chunk_that_is_none_ends_the_request() {
    let (mesh, _application, noted) = noting().await;
    let answer = mesh
        .exchange(
            80,
            "POST / HTTP/1.1\r\nhost: server\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nhost: server\r\n\r\n",
        )
        .await;
    assert_eq!(statuses(&answer), ["400"], "{answer}");
    // The head may have reached it; what followed it has not.
    assert_eq!(*noted.lock(), Vec::<String>::new());
    let good = "GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    assert_eq!(statuses(&mesh.exchange(80, good).await), ["200"]);
    assert_eq!(*noted.lock(), ["GET /"]);
}

#[tokio::test]
async fn a_line_of_chunked_coding_that_ends_with_lf_alone_ends_the_request() {
    let (mesh, _application, noted) = noting().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: server\r\n";
    for end in [
        format!("0\r\n\n{smuggled}content-length: 18446744073709551615\r\n\r\n"),
        "0\r\na: b\n".to_owned(),
        "0\r\n\n".to_owned(),
        "1;x\na\r\n0\r\n\r\n".to_owned(),
    ] {
        let head = "PUT / HTTP/1.1\r\nhost: server\r\ntransfer-encoding: chunked\r\n\r\n";
        let next = "POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        for request in [format!("{head}{end}"), format!("{head}{end}{next}")] {
            let answer = mesh.exchange(80, &request).await;
            assert_eq!(statuses(&answer), ["400"], "{request:?}: {answer}");
        }
    }
    assert_eq!(*noted.lock(), Vec::<String>::new());
    assert_eq!(
        mesh.metric(&["istio_requests_total", "response_flags=\"DPE\""]),
        8
    );
}

#[tokio::test]
async fn header_bombs_are_431() {
    let (mesh, application) = mesh().await;
    let many: String = (0..1001).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(65 << 10));
    for fields in [&many, &large] {
        let answer = mesh
            .exchange(80, format!("GET / HTTP/1.1\r\nhost: server\r\n{fields}\r\n"))
            .await;
        assert_eq!(statuses(&answer), ["431"], "{answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: server\r\n\r\n", "a".repeat(70 << 10));
    let answer = mesh.exchange(80, long).await;
    assert_eq!(statuses(&answer), ["414"], "{answer}");
    assert_eq!(application.seen(), 0);
}
