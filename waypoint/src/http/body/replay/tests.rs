use std::convert::Infallible;
use std::future::poll_fn;
use std::time::Duration;

use http::Response;
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::*;
use crate::account::testing::account;
use crate::http::body::Upload;
use crate::received::Received;

const WAIT: Duration = Duration::from_secs(30);

/// A client that sends its body in chunks, as HTTP/1 has them.
struct Client(DuplexStream);

impl Client {
    /// With its body, of which 8 bytes are kept.
    async fn new() -> (Self, Spool) {
        Self::with(1 << 20).await
    }

    /// With room for so many bytes, of which one may have half.
    async fn with(room: usize) -> (Self, Spool) {
        let (client, server) = tokio::io::duplex(64 << 10);
        let (sender, mut requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<_>| {
                sender.send(request.into_body()).unwrap();
                std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
            });
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
            serving.await.ok();
        });
        let mut client = Self(client);
        client
            .send("PUT / HTTP/1.1\r\nhost: server\r\ntransfer-encoding: chunked\r\ntrailer: sum\r\n\r\n")
            .await;
        let incoming = tokio::time::timeout(WAIT, requests.recv())
            .await
            .unwrap()
            .unwrap();
        let body = ClientBody::new(
            Received::Http1(incoming),
            Arc::<Upload>::default(),
            crate::observe::BodyMeter::default(),
            None,
        );
        (client, Spool::new(body, 8, account(room).nothing()))
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }
}

/// Its next frame, in words.
async fn next(attempt: &mut Try) -> String {
    let frame = tokio::time::timeout(WAIT, poll_fn(|cx| attempt.poll_frame(cx)))
        .await
        .unwrap();
    match frame {
        None => "end".into(),
        Some(Err(BodyError::SentAgain(error))) => format!("sent again: {:?}", error.reason()),
        Some(Err(error)) => error.to_string(),
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => String::from_utf8(data.into()).unwrap(),
            Err(frame) => format!("{:?}", frame.into_trailers().unwrap()),
        },
    }
}

#[tokio::test]
async fn a_sealed_try_takes_nothing_more_and_the_next_one_has_all() {
    let (mut client, spool) = Client::new().await;
    client.send("4\r\none,\r\n").await;
    let mut first = spool.again().unwrap();
    assert_eq!(next(&mut first).await, "one,");
    assert!(spool.seal());
    // More than is kept, while no other try has begun.
    client.send("9\r\ntwo,three\r\n0\r\n\r\n").await;
    assert_eq!(next(&mut first).await, "sent again: Some(CANCEL)");
    let mut second = spool.again().unwrap();
    for part in ["one,", "two,three", "end"] {
        assert_eq!(next(&mut second).await, part);
    }
}

#[tokio::test]
async fn a_try_that_waits_hears_that_it_is_sealed() {
    let (mut client, spool) = Client::new().await;
    client.send("4\r\none,\r\n").await;
    let mut first = spool.again().unwrap();
    assert_eq!(next(&mut first).await, "one,");
    let waiting = tokio::spawn(async move { next(&mut first).await });
    while spool.shared.lock().waiting.is_none() {
        tokio::task::yield_now().await;
    }
    assert!(spool.seal());
    assert_eq!(waiting.await.unwrap(), "sent again: Some(CANCEL)");
}

#[tokio::test]
async fn a_try_that_took_more_than_is_kept_is_the_last_and_goes_on() {
    let (mut client, spool) = Client::new().await;
    client.send("4\r\none,\r\n").await;
    let mut first = spool.again().unwrap();
    assert_eq!(next(&mut first).await, "one,");
    assert!(spool.is_whole());
    client.send("9\r\ntwo,three\r\n").await;
    assert_eq!(next(&mut first).await, "two,three");
    assert!(!spool.seal());
    assert!(spool.again().is_none());
    client.send("5\r\n,four\r\n0\r\n\r\n").await;
    for part in [",four", "end"] {
        assert_eq!(next(&mut first).await, part);
    }
}

#[tokio::test]
async fn what_was_read_to_its_end_is_sent_again_to_its_end() {
    for trailers in ["", "sum: 7\r\n"] {
        let (mut client, spool) = Client::new().await;
        client.send("4\r\none,\r\n").await;
        let mut first = spool.again().unwrap();
        assert_eq!(next(&mut first).await, "one,");
        client.send(&format!("3\r\ntwo\r\n0\r\n{trailers}\r\n")).await;
        let mut parts = vec!["one,", "two", r#"{"sum": "7"}"#, "end"];
        parts.retain(|part| !(trailers.is_empty() && part.starts_with('{')));
        for part in &parts[1..] {
            assert_eq!(next(&mut first).await, *part);
        }
        assert!(spool.seal());
        let mut second = spool.again().unwrap();
        parts.splice(..2, ["one,two"]);
        for part in &parts {
            assert_eq!(second.is_end_stream(), *part == "end");
            assert_eq!(next(&mut second).await, *part);
        }
    }
}

#[tokio::test]
async fn what_broke_off_is_not_sent_again_as_if_it_had_ended() {
    let (mut client, spool) = Client::new().await;
    client.send("4\r\none,\r\n").await;
    let mut first = spool.again().unwrap();
    assert_eq!(next(&mut first).await, "one,");
    client.send("no number\r\n").await;
    let error = next(&mut first).await;
    assert!(error.starts_with("the client's body: "), "{error}");
    assert!(!spool.seal());
    assert!(spool.again().is_none());
}

#[tokio::test]
async fn what_has_no_room_is_sent_once() {
    for (room, sent, rest) in [
        (6, "4\r\none,\r\n0\r\n\r\n", "end"),
        // The trailers do not fit.
        (10, "4\r\none,\r\n0\r\nsum: 7\r\n\r\n", r#"{"sum": "7"}"#),
    ] {
        let (mut client, spool) = Client::with(room).await;
        client.send(sent).await;
        let mut first = spool.again().unwrap();
        assert_eq!(next(&mut first).await, "one,");
        assert_eq!(next(&mut first).await, rest);
        assert!(!spool.is_whole());
        assert!(spool.again().is_none());
        assert_eq!(spool.shared.lock().held.bytes(), 0);
    }
}
