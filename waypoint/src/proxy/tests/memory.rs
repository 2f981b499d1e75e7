//! One client that has the waypoint hold bytes for it, in every way there is, and another beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ambit_hbone::{HboneConfig, HboneIo, HbonePool};
use ambit_runtime::Shares;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::support::*;
use crate::admission::Admission;
use crate::http::HttpTimeouts;

const BUDGET: usize = 12 << 20;
const REFUSED: &[&str] = &["ambit_waypoint_refused_total", "reason=\"overloaded\""];
const ANSWERED: &[&str] = &["istio_requests_total", "response_flags=\"UO\""];

fn endless() -> Body {
    let frames = futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b'x'; 16 << 10]))));
    BodyExt::boxed(StreamBody::new(frames))
}

/// `/` says "ok"; `/endless` has a body without an end; of other requests the body is not read.
async fn answer(request: Request<hyper::body::Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/" => Response::new(full("ok")),
        "/endless" => Response::new(endless()),
        _ => {
            let body = request.into_body();
            std::future::pending::<()>().await;
            drop(body);
            Response::new(full(""))
        }
    }
}

async fn mesh() -> Mesh {
    let admission = Admission {
        bytes: Shares::new(BUDGET),
        ..Admission::of_process()
    };
    Mesh::taking_on(HttpTimeouts::default(), admission).await
}

/// What a client does, again and again, until the waypoint takes no more of it. Whatever is returned is kept open.
trait Hoard: Sync {
    async fn take(&self, mesh: &Mesh, pool: &HbonePool) -> Option<Box<dyn std::any::Any + Send>>;
}

fn to(port: u16) -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), port)
}

/// A response over HTTP/1 that is not read, from an endpoint that speaks HTTP/1, or 2.
struct UnreadHttp1(u16);

impl Hoard for UnreadHttp1 {
    async fn take(&self, mesh: &Mesh, pool: &HbonePool) -> Option<Box<dyn std::any::Any + Send>> {
        let mut io = mesh.open_from(pool, to(self.0)).await.ok()?;
        io.write_all(b"GET /endless HTTP/1.1\r\nhost: server\r\n\r\n")
            .await
            .ok()?;
        Some(Box::new(io))
    }
}

/// Fifty responses over HTTP/2 that are not read.
struct UnreadHttp2(u16);

/// The tasks of a hyper client, which would go on with uploads that nobody waits for.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.lock().spawn(task);
    }
}

/// Ends them.
struct Connection(Tasks);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.0.lock().abort_all();
    }
}

async fn http2(io: HboneIo) -> Option<(Http2Client, Connection)> {
    let tasks = Tasks::default();
    let mut builder = hyper::client::conn::http2::Builder::new(tasks.clone());
    // It would take all that comes.
    builder
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(64 << 10);
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.ok()?;
    tasks.0.lock().spawn(async { drop(connection.await) });
    Some((Http2Client(sender), Connection(tasks)))
}

impl Hoard for UnreadHttp2 {
    async fn take(&self, mesh: &Mesh, pool: &HbonePool) -> Option<Box<dyn std::any::Any + Send>> {
        let (client, connection) = http2(mesh.open_from(pool, to(self.0)).await.ok()?).await?;
        let request = || Request::get("http://server/endless").body(full("")).unwrap();
        let responses = (0..50).map(|_| {
            let mut client = client.clone();
            async move { client.0.send_request(request()).await.ok() }
        });
        let responses = futures::future::join_all(responses).await;
        let refused = |response: &Option<Response<_>>| {
            response
                .as_ref()
                .is_none_or(|response| response.status() == StatusCode::SERVICE_UNAVAILABLE)
        };
        (!responses.iter().any(refused))
            .then(|| Box::new((responses, connection)) as Box<dyn std::any::Any + Send>)
    }
}

/// Five uploads over HTTP/2 that the endpoint does not read.
struct StalledHttp2(u16);

impl Hoard for StalledHttp2 {
    async fn take(&self, mesh: &Mesh, pool: &HbonePool) -> Option<Box<dyn std::any::Any + Send>> {
        let (client, connection) = http2(mesh.open_from(pool, to(self.0)).await.ok()?).await?;
        let uploads = (0..5).map(|_| {
            let mut client = client.clone();
            let request = Request::put("http://server/upload").body(endless()).unwrap();
            tokio::spawn(async move { client.0.send_request(request).await.is_ok() })
        });
        let uploads: Vec<_> = uploads.map(AbortOnDropHandle::new).collect();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        (!uploads.iter().any(|upload| upload.is_finished()))
            .then(|| Box::new((uploads, connection)) as Box<_>)
    }
}

/// Bytes that the endpoint does not read, after a head or without one.
struct StalledBytes(u16, &'static [u8]);

impl Hoard for StalledBytes {
    async fn take(&self, mesh: &Mesh, pool: &HbonePool) -> Option<Box<dyn std::any::Any + Send>> {
        let mut io = mesh.open_from(pool, to(self.0)).await.ok()?;
        io.write_all(self.1).await.ok()?;
        let writing = tokio::spawn(async move { while io.write_all(&[b'x'; 16 << 10]).await.is_ok() {} });
        let writing = AbortOnDropHandle::new(writing);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        (!writing.is_finished()).then(|| Box::new(writing) as Box<_>)
    }
}

/// A head that does not come to its end.
struct UnfinishedHead;

impl Hoard for UnfinishedHead {
    async fn take(&self, mesh: &Mesh, pool: &HbonePool) -> Option<Box<dyn std::any::Any + Send>> {
        let mut io = mesh.open_from(pool, to(81)).await.ok()?;
        let head = format!("GET / HTTP/1.1\r\nhost: server\r\nx: {}", "y".repeat(100_000));
        io.write_all(head.as_bytes()).await.ok()?;
        Some(Box::new(io))
    }
}

/// Has `hoard` taken until it is refused or cut, with at most the budget held meanwhile and all requests of another client served; then
/// gives all up.
async fn stays_within_the_budget(mesh: &Mesh, hoard: impl Hoard) {
    let bytes = &mesh.proxy.admission.bytes;
    let done = Arc::new(AtomicBool::new(false));
    let pool = HbonePool::new(HboneConfig::default());
    let taking = async {
        let mut kept = Vec::new();
        let refusals = || mesh.metric(REFUSED) + mesh.metric(ANSWERED);
        while refusals() == 0 {
            assert!(kept.len() < 2000, "{} bytes are held", bytes.taken());
            if let Some(taken) = hoard.take(mesh, &pool).await {
                kept.push(taken);
            }
            tokio::task::yield_now().await;
        }
        // As much again.
        for _ in 0..kept.len().min(50) {
            kept.extend(hoard.take(mesh, &pool).await);
        }
        done.store(true, Ordering::SeqCst);
        kept
    };
    let watching = async {
        let mut highest = 0;
        while !done.load(Ordering::SeqCst) {
            highest = highest.max(bytes.taken());
            tokio::task::yield_now().await;
        }
        highest
    };
    let other = async {
        let io = mesh.open_as("other", "127.0.0.2", to(81)).await.unwrap();
        let mut other = Http1Client::over(io).await;
        let mut served = 0;
        while !done.load(Ordering::SeqCst) || served < 10 {
            assert_eq!(other.get("/").await, (StatusCode::OK, String::new(), "ok".into()));
            served += 1;
        }
    };
    let all = async { tokio::join!(taking, watching, other) };
    let (kept, highest, ()) = tokio::time::timeout(4 * WAIT, all).await.unwrap();
    // Nobody is refused before a good part is taken; what is cut gives its bytes back at once, so only the most tells.
    assert!(
        (BUDGET / 4..=BUDGET).contains(&highest),
        "{highest} bytes were held"
    );
    // What is given up is given back.
    drop((kept, pool));
    let given_back = async {
        while bytes.taken() > BUDGET / 16 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, given_back)
        .await
        .unwrap_or_else(|_| panic!("{} bytes are held still", bytes.taken()));
}

macro_rules! hoards {
    ($($name:ident: $hoard:expr;)*) => {
        mod plaintext {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                let mesh = mesh().await;
                let application = Application::start(answer).await;
                mesh.endpoint("server-1", application.address);
                stays_within_the_budget(&mesh, $hoard).await;
            })*
        }
        mod hbone {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let mesh = mesh().await;
                let application = Application::start_at(own_address(), answer).await;
                let _ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
                stays_within_the_budget(&mesh, $hoard).await;
            })*
        }
    };
}

hoards! {
    unread_responses_http1_to_http1: UnreadHttp1(81);
    unread_responses_http2_to_http1: UnreadHttp2(81);
    unread_responses_http1_to_http2: UnreadHttp1(8080);
    unread_responses_http2_to_http2: UnreadHttp2(8080);
    stalled_uploads_http2_to_http2: StalledHttp2(8080);
    stalled_uploads_http2_to_http1: StalledHttp2(81);
    stalled_uploads_http1_to_http1: StalledBytes(81, b"PUT /upload HTTP/1.1\r\nhost: server\r\ncontent-length: 1000000000\r\n\r\n");
    stalled_uploads_http1_to_http2: StalledBytes(8080, b"PUT /upload HTTP/1.1\r\nhost: server\r\ncontent-length: 1000000000\r\n\r\n");
    stalled_tcp: StalledBytes(9000, b"PUT /upload HTTP/1.1\r\nhost: server\r\ncontent-length: 1000000000\r\n\r\n");
    unfinished_heads: UnfinishedHead;
}
