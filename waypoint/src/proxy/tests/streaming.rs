//! Bodies as they come: nothing is gathered, trailers go both ways, connections are upgraded.

use std::net::SocketAddr;
use std::sync::Arc;

use ambit_hbone::{HboneConfig, HbonePool};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::support::*;

/// Sends back each piece as it comes, and the trailers with one more.
async fn mirror() -> Application {
    Application::start(async |request| {
        let (sender, body) = channel();
        let mut incoming = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                let frame = match frame.into_trailers() {
                    Ok(mut trailers) => {
                        trailers.insert("x-mirrored", HeaderValue::from_static("yes"));
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                };
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
        Response::builder()
            .header("trailer", "x-sum, x-mirrored")
            .body(body)
            .unwrap()
    })
    .await
}

async fn piece(body: &mut hyper::body::Incoming) -> Frame<Bytes> {
    let frame = tokio::time::timeout(WAIT, body.frame()).await.unwrap();
    frame.unwrap().unwrap()
}

#[tokio::test]
async fn pieces_are_passed_on_as_they_come_and_trailers_after_them() {
    let mesh = Mesh::new().await;
    let application = mirror().await;
    mesh.endpoint("server-1", application.address);
    for (http2, port) in [(false, 80), (true, 80), (true, 8080), (false, 8080)] {
        let (sender, body) = channel();
        let request = Request::post("http://server/")
            .header("host", "server")
            .header("te", "trailers")
            .header("trailer", "x-sum")
            .body(body)
            .unwrap();
        sender.send(Frame::data("first".into())).unwrap();
        let answer = match http2 {
            true => mesh.http2(port).await.send(request).await,
            false => mesh.http1(port).await.send(request).await,
        };
        assert_eq!(answer.status(), StatusCode::OK);
        let mut body = answer.into_body();
        assert_eq!(piece(&mut body).await.into_data().unwrap(), "first");
        for text in ["second", "third"] {
            sender.send(Frame::data(text.into())).unwrap();
            assert_eq!(piece(&mut body).await.into_data().unwrap(), text);
        }
        // Only the first belongs in trailers.
        let trailers = [("x-sum", "42"), ("host", "other"), ("content-length", "1")];
        let trailers = trailers.map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let trailers = HeaderMap::from_iter(trailers);
        sender.send(Frame::trailers(trailers)).unwrap();
        drop(sender);
        let trailers = piece(&mut body).await.into_trailers().unwrap();
        assert_eq!(trailers["x-sum"], "42", "HTTP/2: {http2}, port {port}");
        assert_eq!(trailers["x-mirrored"], "yes");
        assert_eq!(trailers.len(), 2, "{trailers:?}");
    }
}

#[tokio::test]
async fn large_bodies_go_through_whole() {
    let mesh = Mesh::new().await;
    let application = Application::start_at(own_address(), echo).await;
    let _ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    let large: Vec<u8> = (0..8 << 20).map(|n: u32| b'a' + (n % 23) as u8).collect();
    for http2 in [false, true] {
        let request = Request::put("http://server/").header("host", "server");
        let request = request.body(full(large.clone())).unwrap();
        let answer = match http2 {
            true => mesh.http2(80).await.send(request).await,
            false => mesh.http1(80).await.send(request).await,
        };
        let (status, _, body) = whole(answer).await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.as_bytes().ends_with(&large), "HTTP/2: {http2}");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_sender_back() {
    let mesh = Mesh::new().await;
    let (produced, mut produce) = mpsc::unbounded_channel::<usize>();
    let application = Application::start(move |_| {
        let produced = produced.clone();
        async move {
            let frames = futures::stream::iter(0..1024).map(move |number| {
                produced.send(number).unwrap();
                Ok(Frame::data(Bytes::from(vec![b'x'; 64 << 10])))
            });
            Response::new(BodyExt::boxed(StreamBody::new(frames)))
        }
    })
    .await;
    mesh.endpoint("server-1", application.address);
    let request = Request::get("/").header("host", "server").body(full("")).unwrap();
    let mut client = mesh.http1(80).await;
    let answer = client.send(request).await;
    // It comes to a stop by itself, well before 64 MiB are somewhere in between.
    let mut last = 0;
    while let Ok(number) = tokio::time::timeout(std::time::Duration::from_millis(500), produce.recv()).await {
        last = number.unwrap();
    }
    assert!(last < 1000, "{last}");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 64 << 20);
}

#[tokio::test]
async fn clients_that_do_not_read_hold_nobody_else_up() {
    let mesh = Mesh::new().await;
    let application = Application::start_at(own_address(), async |request| {
        if request.uri().path() == "/" {
            return Response::new(full("ok"));
        }
        let frames = futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from(vec![b'x'; 64 << 10]))));
        Response::new(BodyExt::boxed(StreamBody::new(frames)))
    })
    .await;
    let _ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    let slow = HbonePool::new(HboneConfig::default());
    let mut unread = Vec::new();
    for port in [80, 8080] {
        let to = SocketAddr::new(VIP.parse().unwrap(), port);
        for _ in 0..80 {
            let mut io = mesh.open_from(&slow, to).await.unwrap();
            io.write_all(b"GET /endless HTTP/1.1\r\nhost: server\r\n\r\n")
                .await
                .unwrap();
            unread.push(io);
        }
    }
    while application.seen() < unread.len() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    for port in [80, 8080] {
        for _ in 0..20 {
            assert_eq!(mesh.http1(port).await.get("/").await.2, "ok");
        }
    }
}

#[tokio::test]
async fn expectations_are_met() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut io = mesh.connect(80).await;
    io.write_all(b"POST / HTTP/1.1\r\nhost: server\r\ncontent-length: 4\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut interim = [0; 25];
    tokio::time::timeout(WAIT, io.read_exact(&mut interim))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    io.write_all(b"body").await.unwrap();
    let answer = read_all(&mut io).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("\n\nbody"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let mesh = Mesh::new().await;
    let end = CancellationToken::new();
    let ended = end.clone();
    let address = raw_application(move |mut tcp, _| {
        let ended = ended.clone();
        async move {
            read_head(&mut tcp).await;
            let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
            tcp.write_all(half).await.unwrap();
            ended.cancelled().await;
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let request = Request::get("/").header("host", "server").body(full("")).unwrap();
    let answer = mesh.http1(80).await.send(request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    end.cancel();
    assert!(answer.into_body().collect().await.is_err());
    assert_eq!(mesh.metric(&["istio_requests_total", "response_flags=\"UC\""]), 1);
}

/// RST_STREAM(NO_ERROR) after END_STREAM asks for no more of the request (RFC 9113 §8.1). Before, it cuts the response.
#[tokio::test]
async fn reset_without_error_is_no_end_of_a_response() {
    let mesh = Mesh::new().await;
    let read = Arc::new(Notify::new());
    let notified = Arc::clone(&read);
    let address = raw_application(move |tcp, _| {
        let read = Arc::clone(&notified);
        async move {
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                let whole = request.uri().path() == "/whole";
                stream.send_data("some".into(), whole).unwrap();
                let read = Arc::clone(&read);
                tokio::spawn(async move {
                    read.notified().await;
                    stream.send_reset(h2::Reason::NO_ERROR);
                });
            }
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    for (path, http2) in [
        ("/cut", false),
        ("/cut", true),
        ("/whole", false),
        ("/whole", true),
    ] {
        // The request has no end, so that its stream is still open after the response.
        let (_upload, body) = channel();
        let request = Request::post(format!("http://server{path}"))
            .header("host", "server")
            .body(body)
            .unwrap();
        let response = match http2 {
            true => mesh.http2(8080).await.send(request).await,
            false => mesh.http1(8080).await.send(request).await,
        };
        let mut body = response.into_body();
        assert_eq!(piece(&mut body).await.into_data().unwrap(), "some");
        read.notify_one();
        let end = tokio::time::timeout(WAIT, body.frame()).await.unwrap();
        match path {
            "/cut" => assert!(end.unwrap().is_err(), "HTTP/2: {http2}"),
            _ => assert!(end.is_none(), "HTTP/2: {http2}"),
        }
    }
    mesh.counts(&["istio_requests_total", "response_flags=\"UC\""], 2)
        .await;
    mesh.counts(&["istio_requests_total", "response_flags=\"-\""], 2)
        .await;
}

/// As the ztunnel says it, under the same name.
#[tokio::test]
async fn what_hbone_lends_for_wide_windows_is_in_the_metrics() {
    const LENT: &[&str] = &["ambit_hbone_lent_bytes"];
    let mesh = Mesh::new().await;
    let address = raw_application(async |mut tcp, _| {
        tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await.ok();
    })
    .await;
    mesh.endpoint("server-1", address);
    assert_eq!(mesh.metric(LENT), 0);
    let mut io = mesh.connect(9000).await;
    let sending = async {
        while mesh.metric(LENT) == 0 {
            io.write_all(&[0; 256 << 10]).await.unwrap();
        }
    };
    tokio::time::timeout(WAIT, sending).await.unwrap();
    assert_eq!(mesh.metric(&["ambit_hbone_loans_denied_total"]), 0);
}
