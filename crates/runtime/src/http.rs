//! The small HTTP server: readiness, metrics and dumps, by path.

mod deadline;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::accept::AcceptLoop;
use deadline::Deadline;

/// The time for a caller to send the head of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits on callers; tests set shorter ones.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Open connections. One more ends the oldest, so that a caller with many connections does not keep probes away.
    connections: usize,
    /// The time to write one response.
    answer: Duration,
    /// The time at shutdown for requests in progress.
    grace: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    answer: Duration::from_secs(30),
    grace: Duration::from_secs(5),
};

/// The response for a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Answer {
    /// A text. Metrics are in Prometheus' text format.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: body.into(),
        }
    }

    /// A JSON document.
    pub fn json(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/json",
            body: body.into(),
        }
    }

    /// 200 with a text, or 500 with the error.
    pub fn text_or_error<E: std::fmt::Display>(body: Result<String, E>) -> Self {
        match body {
            Ok(body) => Self::text(StatusCode::OK, body),
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// 200 with a JSON document, or 500 with the error.
    pub fn json_or_error<E: std::fmt::Display>(body: Result<String, E>) -> Self {
        match body {
            Ok(body) => Self::json(body),
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// 200, or 503 with the reason why the program is not ready.
    pub fn ready(obstacle: Option<&str>) -> Self {
        match obstacle {
            None => Self::text(StatusCode::OK, "ready\n"),
            Some(obstacle) => Self::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {obstacle}\n"),
            ),
        }
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body.
    pub fn body(&self) -> &str {
        &self.body
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response
    }
}

/// Responds to GET requests by path until `shutdown`. Resolves after the last response, at most 5 s later. `None`
/// becomes 404. `name` is for the log. At 64 connections, a new one ends the oldest. A response that is not read within
/// 30 s is aborted.
pub async fn serve(
    name: &'static str,
    listener: TcpListener,
    shutdown: CancellationToken,
    answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
) {
    serve_within(LIMITS, name, listener, shutdown, answer).await;
}

async fn serve_within(
    limits: Limits,
    name: &'static str,
    listener: TcpListener,
    shutdown: CancellationToken,
    answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    // Connections that remain when this ends are aborted.
    let mut connections = Connections::default();
    let mut accepting = AcceptLoop::new(name);
    while let Some((tcp, peer)) = shutdown
        .run_until_cancelled(accepting.next(|| listener.accept()))
        .await
    {
        let span = tracing::debug_span!("http", name, %peer);
        let tcp = Deadline::new(tcp, limits.answer);
        let (answer, shutdown) = (Arc::clone(&answer), shutdown.clone());
        connections.make_room(limits.connections);
        connections.spawn(connection(tcp, answer, shutdown).instrument(span));
    }
    if tokio::time::timeout(limits.grace, connections.wait())
        .await
        .is_err()
    {
        tracing::debug!(name, "connections are closed: their clients do not read");
    }
}

#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// The oldest first.
    open: VecDeque<AbortHandle>,
}

impl Connections {
    fn make_room(&mut self, limit: usize) {
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|connection| !connection.is_finished());
        while self.open.len() >= limit
            && let Some(oldest) = self.open.pop_front()
        {
            tracing::debug!(limit, "the oldest connection is closed: there are too many");
            oldest.abort();
        }
    }

    fn spawn(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.open.push_back(self.tasks.spawn(connection));
    }

    async fn wait(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Opens a port for [`serve`].
///
/// # Errors
/// When the port is in use, or may not be opened. The error has the address.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("listening on {address}: {error}")))
}

async fn connection(
    tcp: Deadline<TcpStream>,
    answer: Arc<impl Fn(&str) -> Option<Answer>>,
    shutdown: CancellationToken,
) {
    let service = service_fn(|request| {
        let response = respond(&*answer, &request).into_response();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(tcp), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
    }
}

fn respond(answer: &impl Fn(&str) -> Option<Answer>, request: &Request<Incoming>) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => answer(request.uri().path())
            .unwrap_or_else(|| Answer::text(StatusCode::NOT_FOUND, "no such path\n")),
        _ => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n"),
    }
}

#[cfg(test)]
mod tests;
