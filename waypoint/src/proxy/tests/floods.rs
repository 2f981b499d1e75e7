//! Clients that want to keep the waypoint busy.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::http::HttpTimeouts;

const SHORT: Duration = Duration::from_millis(200);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_uint(payload.len() as u64, 3);
    frame.put_u8(kind);
    frame.put_u8(flags);
    frame.put_u32(stream);
    frame.put_slice(payload);
    frame
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// `:method GET`, `:scheme http`, `:path /`, `:authority a`.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

/// The error codes of the GOAWAY frames in `bytes`.
fn goaways(mut bytes: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while bytes.len() >= 9 {
        let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        if bytes[3] == 7 && bytes.len() >= 17 {
            codes.push(u32::from_be_bytes(bytes[13..17].try_into().unwrap()));
        }
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    codes
}

async fn flood(mesh: &Mesh, bytes: &[u8]) -> Vec<u8> {
    let mut io = mesh.connect(80).await;
    // It may be closed before all is written.
    let _ = io.write_all(bytes).await;
    let mut answer = Vec::new();
    let end = tokio::time::timeout(WAIT, io.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "the connection goes on");
    answer
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |_| std::future::pending().await).await;
    mesh.endpoint("server-1", application.address);
    let mut bytes = BytesMut::from(PREFACE);
    for number in 0..2000 {
        let stream = 1 + 2 * number;
        bytes.extend_from_slice(&frame(1, 5, stream, GET));
        bytes.extend_from_slice(&frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let answer = flood(&mesh, &bytes).await;
    assert_eq!(goaways(&answer), [11], "ENHANCE_YOUR_CALM");
    // All of them had been reset when they were looked at.
    assert_eq!(application.seen(), 0);
    // Others are served.
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    assert_eq!(mesh.http1(80).await.get("/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn requests_given_up_again_and_again_end_the_connection() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |_| std::future::pending().await).await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http2(80).await;
    let mut sent = 0;
    // Slowly enough for each to be looked at.
    while !client.0.is_closed() {
        let request = Request::get("http://server/").body(full("")).unwrap();
        let seen = application.seen();
        let mut answer = Box::pin(client.0.send_request(request));
        tokio::select! {
            _ = &mut answer => {}
            () = async {
                while application.seen() == seen {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            } => {}
        }
        drop(answer);
        sent += 1;
        assert!(sent < 2000);
    }
    assert!(sent > 400, "{sent}");
}

#[tokio::test]
async fn streams_go_on_when_other_requests_of_their_connection_are_given_up() {
    let mesh = Mesh::new().await;
    let (more, body) = channel();
    let body = std::sync::Mutex::new(Some(body));
    let application = Application::start(move |_| {
        let body = body.lock().unwrap().take();
        async move {
            match body {
                Some(body) => http::Response::new(body),
                None => std::future::pending().await,
            }
        }
    })
    .await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http2(80).await;
    let request = || Request::get("http://server/").body(full("")).unwrap();
    let stream = client.send(request()).await;
    assert_eq!(stream.status(), StatusCode::OK);
    let mut sent = 0;
    while !client.0.is_closed() {
        let seen = application.seen();
        let mut answer = Box::pin(client.0.send_request(request()));
        tokio::select! {
            _ = &mut answer => {}
            () = async {
                while application.seen() == seen {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            } => {}
        }
        drop(answer);
        sent += 1;
        assert!(sent < 2000);
    }
    more.send(hyper::body::Frame::data("still here".into())).unwrap();
    drop(more);
    assert_eq!(whole(stream).await.2, "still here");
    assert_eq!(mesh.metric(&["ambit_waypoint_refused_total"]), 0);
}

#[tokio::test]
async fn who_goes_on_giving_up_requests_is_cut_off() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |_| std::future::pending().await).await;
    mesh.endpoint("server-1", application.address);
    let (mut read, mut write) = tokio::io::split(mesh.connect(80).await);
    // PING is not answered, by which the waypoint would know that its GOAWAY has come.
    let reading = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        answer
    });
    write.write_all(PREFACE).await.unwrap();
    let mut sent = 0;
    while !reading.is_finished() {
        let stream = 1 + 2 * sent;
        let seen = application.seen();
        let _ = write.write_all(&frame(1, 5, stream, GET)).await;
        while application.seen() == seen && !reading.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _ = write.write_all(&frame(3, 0, stream, &8_u32.to_be_bytes())).await;
        sent += 1;
        assert!(sent < 3000);
    }
    assert_eq!(goaways(&reading.await.unwrap()), [0], "NO_ERROR came first");
    assert_eq!(
        mesh.metric(&["ambit_waypoint_refused_total", "reason=\"bad_request\""]),
        1
    );
}

#[tokio::test]
async fn continuation_floods_end_the_connection() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut bytes = BytesMut::from(PREFACE);
    bytes.extend_from_slice(&frame(1, 1, 1, GET));
    // A literal field without indexing, over and over, and never END_HEADERS.
    let mut fields = BytesMut::new();
    while fields.len() < 16_000 {
        fields.extend_from_slice(b"\0\x01x\x64");
        fields.put_bytes(b'y', 100);
    }
    for _ in 0..200 {
        bytes.extend_from_slice(&frame(9, 0, 1, &fields));
    }
    let answer = flood(&mesh, &bytes).await;
    assert_eq!(goaways(&answer), [11], "ENHANCE_YOUR_CALM");
    assert_eq!(application.seen(), 0);
}

#[tokio::test]
async fn http2_header_bombs_are_431() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http2(80).await;
    let mut request = Request::get("http://server/");
    for number in 0..1200 {
        request = request.header(format!("x-{number}"), "y".repeat(64));
    }
    let answer = client.try_send(request.body(full("")).unwrap()).await;
    assert_eq!(
        answer.unwrap().status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    assert_eq!(application.seen(), 0);
    // Its other streams are served.
    let request = Request::get("http://server/").body(full("")).unwrap();
    assert_eq!(client.send(request).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn slow_heads_end_the_connection_and_idle_clients_do_not() {
    let timeouts = HttpTimeouts {
        head: SHORT,
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut idle = mesh.http1(80).await;
    assert_eq!(idle.get("/").await.0, StatusCode::OK);
    let mut slow = mesh.connect(80).await;
    // The connection works.
    slow.write_all(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n")
        .await
        .unwrap();
    let mut status = [0; 15];
    slow.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    slow.write_all(b"GET / HTTP/1.1\r\nhost: ser").await.unwrap();
    let rest = read_all(&mut slow).await;
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
    mesh.counts(&["ambit_waypoint_refused_total", "reason=\"bad_request\""], 1)
        .await;
    // By now the idle one has been so for as long.
    assert_eq!(idle.get("/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn slow_bodies_are_408() {
    let timeouts = HttpTimeouts {
        body: SHORT,
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut slow = mesh.connect(80).await;
    slow.write_all(b"POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 10\r\n\r\nhalf")
        .await
        .unwrap();
    let answer = read_all(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains("x-ambit-reason: the request's body: no data for 0.2s"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_answer_that_has_begun_waits_for_the_rest_of_the_request() {
    let timeouts = HttpTimeouts {
        body: Duration::from_secs(1),
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let address = raw_application(async |mut tcp, number| {
        read_head(&mut tcp).await;
        if number > 0 {
            // No answer to any but the first.
            read_head(&mut tcp).await;
            return;
        }
        tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
            .await
            .unwrap();
        let mut body = [0; 4];
        tcp.read_exact(&mut body).await.unwrap();
        tcp.write_all(b"4\r\n").await.unwrap();
        tcp.write_all(&body).await.unwrap();
        tcp.write_all(b"\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    mesh.endpoint("server-1", address);
    let post = b"POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 4\r\nconnection: close\r\n\r\n";
    let mut io = mesh.connect(80).await;
    io.write_all(post).await.unwrap();
    let mut begin = [0; 12];
    io.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    // When a body that nobody waits for any longer is given up, the first one has been waited for as long.
    let mut other = mesh.connect(80).await;
    other.write_all(post).await.unwrap();
    let given_up = read_all(&mut other).await;
    assert!(given_up.starts_with("HTTP/1.1 408 "), "{given_up}");
    io.write_all(b"body").await.unwrap();
    let answer = read_all(&mut io).await;
    assert!(answer.ends_with("4\r\nbody\r\n0\r\n\r\n"), "{answer}");
}
