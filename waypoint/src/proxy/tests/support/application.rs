//! Applications behind the waypoint.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Body, full};

/// An application: HTTP/1 and HTTP/2 with prior knowledge.
pub(in super::super) struct Application {
    pub(in super::super) address: SocketAddr,
    /// Requests that it has seen.
    pub(in super::super) requests: Arc<AtomicUsize>,
    pub(in super::super) connections: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Application {
    pub(in super::super) async fn start<F, Fut>(handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start_at("127.0.0.1".parse().unwrap(), handler).await
    }

    pub(in super::super) async fn start_at<F, Fut>(ip: IpAddr, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(SocketAddr::new(ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let stop = CancellationToken::new();
        let handler = Arc::new(handler);
        let (count, opened, stopped) = (Arc::clone(&requests), Arc::clone(&connections), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                opened.fetch_add(1, Ordering::SeqCst);
                let (count, handler) = (Arc::clone(&count), Arc::clone(&handler));
                let service = hyper::service::service_fn(move |request| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let stopped = stopped.clone();
                tokio::spawn(stopped.run_until_cancelled_owned(async move {
                    let mut first = [0; 4];
                    let n = tcp.peek(&mut first).await.unwrap_or(0);
                    let io = TokioIo::new(tcp);
                    if &first[..n] == b"PRI " {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await
                            .ok();
                    } else {
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .with_upgrades()
                            .await
                            .ok();
                    }
                }));
            }
        }));
        Self {
            address,
            requests,
            connections,
            stop,
        }
    }

    /// Says how it was asked: method, target and fields, a line each, and the body.
    pub(in super::super) async fn echo() -> Self {
        Self::start(echo).await
    }

    pub(in super::super) fn seen(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

pub(in super::super) async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut text = format!("{} {}\n", head.method, head.uri);
    // Without what the waypoint adds to every request.
    let added = [http::header::VIA.as_str(), "x-forwarded-for"];
    for (name, value) in &head.headers {
        if added.contains(&name.as_str()) && head.uri.path() != "/forwarded" {
            continue;
        }
        text.push_str(&format!(
            "{name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&body));
    Response::new(full(text))
}

/// An application that is given each connection.
pub(in super::super) async fn raw_application<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    raw_application_at("127.0.0.1".parse().unwrap(), serve).await
}

pub(in super::super) async fn raw_application_at<F, Fut>(ip: IpAddr, serve: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::new(ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(tcp, number));
        }
    });
    address
}

/// Reads the head of a request, and says where it ends.
pub(in super::super) async fn read_head(tcp: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}
