//! The web server.

mod counts;
mod grpc;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_e2e::sample::{Heard, MARKER};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use ambit_sample::echo::echo_server::EchoServer;
use counts::Counts;

/// What `/large` answers with, one for all requests: whatever holds more of it is not this server.
static LARGE: &[u8] = &[b'.'; 1024 * 1024];

/// Where to serve, and as whom.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Where HTTP is served, version 1.1 and 2; /healthz is for probes.
    #[arg(long, default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Where gRPC is served.
    #[arg(long, default_value = "0.0.0.0:9000")]
    grpc: SocketAddr,
    /// What this instance calls itself.
    #[arg(long, env = "POD_NAME", default_value = "web")]
    name: String,
}

/// What all requests share.
struct Site {
    name: String,
    counts: Counts,
}

/// Serves until the process is ended.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let listen = |address: SocketAddr| async move {
        let listener = TcpListener::bind(address).await;
        listener.with_context(|| format!("cannot listen on {address}"))
    };
    let site = Arc::new(Site {
        name: arguments.name,
        counts: Counts::default(),
    });
    serve(listen(arguments.http).await?, listen(arguments.grpc).await?, site).await
}

async fn serve(http: TcpListener, grpc: TcpListener, site: Arc<Site>) -> Result<()> {
    let service = EchoServer::new(grpc::Echo::new(Arc::clone(&site)));
    let incoming = tonic::transport::server::TcpIncoming::from(grpc).with_nodelay(Some(true));
    let calls = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming);
    tokio::select! {
        ended = calls => ended.context("the gRPC server ended"),
        () = accept(http, site) => Ok(()),
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                connections.spawn(connection(stream, peer, Arc::clone(&site)));
            }
            Err(error) => {
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, site: Arc<Site>) {
    if let Err(error) = stream.set_nodelay(true) {
        eprintln!("from {peer}: {error}");
    }
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.answer(request, peer).await) }
    });
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        eprintln!("from {peer}: {error}");
    }
}

impl Site {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/healthz" => return text(StatusCode::OK, "ok\n".to_owned()),
            "/counts" => return json(&self.counts.read()),
            _ => {}
        }
        self.counts
            .request(request.method().as_str(), request.uri().path());
        if request.headers().contains_key(SEC_WEBSOCKET_KEY) {
            return web_socket(request);
        }
        match request.uri().path() {
            "/flaky" if self.counts.flakes() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "every third time\n".to_owned())
            }
            "/slow" => {
                tokio::time::sleep(delay(request.uri().query())).await;
                self.echo(request, peer).await
            }
            "/large" => typed(StatusCode::OK, "application/octet-stream", LARGE),
            _ => self.echo(request, peer).await,
        }
    }

    /// What was asked.
    async fn echo(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes().len(),
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("the body was cut: {error}\n")),
        };
        let path = head
            .uri
            .path_and_query()
            .map_or("", http::uri::PathAndQuery::as_str);
        json(&Heard {
            payload: MARKER.to_owned(),
            method: head.method.to_string(),
            path: path.to_owned(),
            version: format!("{:?}", head.version),
            headers: headers(&head.headers),
            body,
            peer,
            server: self.name.clone(),
        })
    }
}

/// Switches to WebSocket and sends every message back.
fn web_socket(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let key = request
        .headers()
        .get(SEC_WEBSOCKET_KEY)
        .map(|key| derive_accept_key(key.as_bytes()));
    let upgrade = hyper::upgrade::on(&mut request);
    // It ends with its connection, on which hyper waits no longer.
    tokio::spawn(async move {
        let io = match upgrade.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => return eprintln!("no WebSocket came about: {error}"),
        };
        let (mut sink, stream) = WebSocketStream::from_raw_socket(io, Role::Server, None)
            .await
            .split();
        let mut messages = stream.take_while(|message| {
            let data = message
                .as_ref()
                .is_ok_and(|message| message.is_text() || message.is_binary());
            std::future::ready(data)
        });
        if let Err(error) = sink.send_all(&mut messages).await {
            eprintln!("WebSocket: {error}");
        }
        let _ = sink.close().await;
    });
    let mut answer = text(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = answer.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
    if let Some(Ok(key)) = key.map(|key| key.parse()) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, key);
    }
    answer
}

fn delay(query: Option<&str>) -> Duration {
    let millis = query.and_then(|query| query.strip_prefix("ms="));
    Duration::from_millis(millis.and_then(|millis| millis.parse().ok()).unwrap_or(100))
}

fn headers(map: &HeaderMap) -> std::collections::BTreeMap<String, String> {
    let mut headers = std::collections::BTreeMap::<String, String>::new();
    for (name, value) in map {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|joined| *joined = format!("{joined}, {value}"))
            .or_insert_with(|| value.into_owned());
    }
    headers
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(body) => typed(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain", body)
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
pub(crate) mod tests;
