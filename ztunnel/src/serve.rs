//! The small HTTP servers: metrics, readiness and config dump.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// What a path answers.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: body.into(),
        }
    }

    pub(crate) fn json(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/json",
            body,
        }
    }
}

/// Answers a path; `None` is 404.
pub(crate) type Answers = Box<dyn Fn(&str) -> Option<Answer> + Send + Sync>;

/// Answers GET requests by path until `shutdown`.
pub(crate) async fn serve_http(
    name: &'static str,
    listener: TcpListener,
    shutdown: CancellationToken,
    answer: Answers,
) {
    let answer = Arc::new(answer);
    let connections = TaskTracker::new();
    loop {
        let tcp = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    pause_after(name, &error).await;
                    continue;
                }
            },
        };
        let (answer, shutdown) = (Arc::clone(&answer), shutdown.clone());
        let serve = async move {
            let service = service_fn(|request| std::future::ready(respond(&*answer, &request)));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(tcp), service);
            if let Some(Err(error)) = shutdown.run_until_cancelled(connection).await {
                tracing::debug!(%error, "connection failed");
            }
        };
        connections.spawn(serve.instrument(tracing::debug_span!("http", name)));
    }
    connections.close();
    connections.wait().await;
}

async fn pause_after(name: &str, error: &io::Error) {
    tracing::warn!(name, %error, "cannot accept");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

fn respond(
    answer: &impl Fn(&str) -> Option<Answer>,
    request: &Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = match *request.method() {
        Method::GET | Method::HEAD => answer(request.uri().path())
            .unwrap_or_else(|| Answer::text(StatusCode::NOT_FOUND, "no such path\n")),
        _ => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served\n"),
    };
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(answer.content_type),
    );
    Ok(response)
}
