//! HTTP/2: what one stream does never touches another one, of the same client or of others that share the endpoint's connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_hbone::{HboneConfig, HbonePool};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;

fn get(path: &str) -> Request<Body> {
    let uri = format!("http://server{path}");
    Request::get(uri).body(full("")).unwrap()
}

/// A client with small windows.
async fn small_client(mesh: &Mesh) -> Http2Client {
    let io = TokioIo::new(mesh.connect(8080).await);
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(16 << 10);
    let (sender, connection) = builder.handshake(io).await.unwrap();
    tokio::spawn(connection);
    Http2Client(sender)
}

/// A client that may cancel as many streams as it likes: hyper's own connection would end with the hundredth.
async fn forgetful_client(mesh: &Mesh) -> Http2Client {
    let io = TokioIo::new(mesh.connect(8080).await);
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_reset_streams(200);
    let (sender, connection) = builder.handshake(io).await.unwrap();
    tokio::spawn(connection);
    Http2Client(sender)
}

/// An endless body of frames of this size, which counts how many have been taken from it.
fn endless(size: usize, taken: &Arc<AtomicUsize>) -> Body {
    let taken = Arc::clone(taken);
    let frames = futures::stream::repeat_with(move || {
        taken.fetch_add(1, Ordering::SeqCst);
        Ok(Frame::data(Bytes::from(vec![b'x'; size])))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

async fn reaches(what: &AtomicUsize, value: usize) {
    let reached = async {
        while what.load(Ordering::SeqCst) < value {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = || what.load(Ordering::SeqCst);
    tokio::time::timeout(WAIT, reached)
        .await
        .unwrap_or_else(|_| panic!("{} of {value}", seen()));
}

/// `/` says "ok"; `/hold` goes on for as long as the returned sender says; other paths are endless, of frames of so many bytes.
async fn application() -> (
    Application,
    tokio::sync::mpsc::UnboundedSender<Frame<Bytes>>,
    Arc<AtomicUsize>,
) {
    let (more, body) = channel();
    let body = std::sync::Mutex::new(Some(body));
    let taken = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&taken);
    let application = Application::start(move |request| {
        let body = match request.uri().path() {
            "/" => full("ok"),
            "/hold" => body.lock().unwrap().take().unwrap(),
            path => endless(path[1..].parse().unwrap(), &count),
        };
        async move { Response::new(body) }
    })
    .await;
    (application, more, taken)
}

async fn cancelled_streams_end_no_other_stream_at_the_endpoint() {
    let mesh = Mesh::new().await;
    let (application, more, _) = application().await;
    mesh.endpoint("server-1", application.address);
    let mut bystander = mesh.http2(8080).await;
    let held = bystander.send(get("/hold")).await;
    for _ in 0..30 {
        let client = forgetful_client(&mesh).await;
        let begun = (0..100).map(|_| {
            let mut client = client.clone();
            async move {
                let response = client.send(get("/16384")).await;
                assert_eq!(response.status(), StatusCode::OK);
                response
            }
        });
        let responses: Vec<_> = futures::future::join_all(begun).await;
        drop(responses);
        assert_eq!(whole(bystander.send(get("/")).await).await.2, "ok");
    }
    more.send(Frame::data("still here".into())).unwrap();
    drop(more);
    assert_eq!(whole(held).await.2, "still here");
}

async fn unread_small_frames_end_no_other_stream_at_the_endpoint() {
    for (streams, size) in [(3, 10), (7, 30), (33, 100)] {
        let mesh = Mesh::new().await;
        let (application, more, taken) = application().await;
        mesh.endpoint("server-1", application.address);
        let mut bystander = mesh.http2(8080).await;
        let held = bystander.send(get("/hold")).await;
        let mut slow = small_client(&mesh).await;
        let pool = HbonePool::new(HboneConfig {
            stream_window: 64 << 10,
            ..HboneConfig::default()
        });
        let mut unread = Vec::new();
        for number in 0..streams {
            if number > 0 {
                unread.push(Ok(slow.send(get(&format!("/{size}"))).await));
            } else {
                // A client of HTTP/1.
                let to = SocketAddr::new(VIP.parse().unwrap(), 8080);
                let mut io = mesh.open_from(&pool, to).await.unwrap();
                let head = format!("GET /{size} HTTP/1.1\r\nhost: server\r\n\r\n");
                io.write_all(head.as_bytes()).await.unwrap();
                unread.push(Err(io));
            }
        }
        // Windows are full.
        reaches(&taken, streams * (256 << 10) / size).await;
        for _ in 0..10 {
            assert_eq!(whole(bystander.send(get("/")).await).await.2, "ok");
        }
        more.send(Frame::data("still here".into())).unwrap();
        drop(more);
        assert_eq!(whole(held).await.2, "still here", "{streams} of {size}");
        // Slow readers are served as well.
        for response in unread.into_iter().flatten() {
            let mut body = response.into_body();
            let mut read = 0;
            while read < 400 << 10 {
                let frame = tokio::time::timeout(WAIT, body.frame()).await.unwrap();
                read += frame.unwrap().unwrap().into_data().unwrap().len();
            }
        }
        assert_eq!(application.connections.load(Ordering::SeqCst), 1);
    }
}

async fn small_frames_that_the_endpoint_does_not_read_end_no_other_stream_of_the_client() {
    for (streams, size) in [(3, 10), (6, 100)] {
        let mesh = Mesh::new().await;
        let application = Application::start(async |request| {
            if request.uri().path() == "/" {
                return Response::new(full("ok"));
            }
            // Kept and not read.
            let body = request.into_body();
            std::future::pending::<()>().await;
            drop(body);
            Response::new(full(""))
        })
        .await;
        mesh.endpoint("server-1", application.address);
        let client = mesh.http2(8080).await;
        let taken = Arc::<AtomicUsize>::default();
        let uploads: Vec<_> = (0..streams)
            .map(|_| {
                let request = Request::post("http://server/upload")
                    .body(endless(size, &taken))
                    .unwrap();
                let mut client = client.clone();
                tokio::spawn(async move { client.0.send_request(request).await.is_ok() })
            })
            .collect();
        reaches(&taken, streams * (256 << 10) / size).await;
        for _ in 0..10 {
            assert_eq!(whole(client.clone().send(get("/")).await).await.2, "ok");
        }
        assert!(
            uploads.iter().all(|upload| !upload.is_finished()),
            "{streams} of {size}"
        );
        for upload in uploads {
            upload.abort();
        }
    }
}

async fn empty_frames_of_an_endpoint_end_no_other_stream() {
    let mesh = Mesh::new().await;
    let application = Application::start(async |request| {
        if request.uri().path() == "/" {
            return Response::new(full("ok"));
        }
        let empty = futures::stream::repeat_with(|| Ok(Frame::data(Bytes::new()))).take(1000);
        let last = futures::stream::iter([Ok(Frame::data("end".into()))]);
        Response::new(BodyExt::boxed(StreamBody::new(empty.chain(last))))
    })
    .await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http2(8080).await;
    assert_eq!(whole(client.send(get("/empty")).await).await.2, "end");
    assert_eq!(whole(client.send(get("/")).await).await.2, "ok");
    assert_eq!(application.connections.load(Ordering::SeqCst), 1);
}

/// Takes two requests on its first connection, and ends it as if the first one were malformed (GOAWAY with PROTOCOL_ERROR, as nginx has it);
/// answers on others.
async fn endpoint_that_ends_its_first_connection() -> SocketAddr {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    raw_application(|mut tcp, number| async move {
        if number > 0 {
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data("ok".into(), true).unwrap();
            }
            return;
        }
        // SETTINGS, and one that acknowledges the client's.
        tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        tcp.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap();
        tcp.read_exact(&mut [0; PREFACE]).await.unwrap();
        let mut streams = Vec::new();
        while streams.len() < 2 {
            let mut head = [0; 9];
            tcp.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            tcp.read_exact(&mut vec![0; length as usize]).await.unwrap();
            if head[3] == HEADERS {
                streams.push([head[5], head[6], head[7], head[8]]);
            }
        }
        let go_away = [[0, 0, 8, 7].as_slice(), &[0; 5], &streams[0], &[0, 0, 0, 1]].concat();
        tcp.write_all(&go_away).await.unwrap();
        tcp.shutdown().await.unwrap();
    })
    .await
}

async fn a_connection_that_the_endpoint_ends_for_one_request_fails_no_later_one() {
    let mesh = Mesh::new().await;
    mesh.endpoint("server-1", endpoint_that_ends_its_first_connection().await);
    let (mut first, mut second) = (mesh.http2(8080).await, mesh.http2(8080).await);
    let post = |path: &str| {
        Request::post(format!("http://server{path}"))
            .body(full(""))
            .unwrap()
    };
    let (first, second) = tokio::join!(first.send(post("/first")), async {
        second.send(post("/second")).await
    });
    let mut statuses = [first.status(), second.status()];
    statuses.sort();
    // That of the request which the endpoint may have looked at, and the other one.
    assert_eq!(statuses, [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE]);
}

/// On one thread, where all is done in an order; and as in production, where the waypoint's thread is not those of clients and endpoints.
macro_rules! flavours {
    ($($name:ident)*) => {
        mod current_thread {
            $(#[tokio::test]
            async fn $name() {
                super::$name().await;
            })*
        }
        mod multi_thread {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name().await;
            })*
        }
    };
}

flavours! {
    cancelled_streams_end_no_other_stream_at_the_endpoint
    unread_small_frames_end_no_other_stream_at_the_endpoint
    small_frames_that_the_endpoint_does_not_read_end_no_other_stream_of_the_client
    empty_frames_of_an_endpoint_end_no_other_stream
    a_connection_that_the_endpoint_ends_for_one_request_fails_no_later_one
}
