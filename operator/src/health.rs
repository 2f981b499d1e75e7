//! Readiness and metrics over HTTP/1.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// How long a caller may take to say what it wants.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a path answers.
pub(crate) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Vec<u8>,
}

impl Answer {
    /// 200 with a text.
    pub(crate) fn ok(text: &str) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain",
            body: text.into(),
        }
    }

    /// 503 with a text.
    pub(crate) fn unavailable(text: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            ..Self::ok(text)
        }
    }
}

/// All metrics, as Prometheus reads them.
pub(crate) fn metrics(registry: &Registry) -> Answer {
    let mut body = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut body) {
        warn!(%error, "metrics cannot be written");
    }
    Answer {
        status: StatusCode::OK,
        content_type: prometheus::TEXT_FORMAT,
        body,
    }
}

/// Answers GET requests by their path until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    stop: CancellationToken,
    answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let answer = Arc::new(answer);
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back.
                warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (answer, stop) = (Arc::clone(&answer), stop.clone());
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = respond(answer(request.uri().path()));
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Some(Err(error)) = stop.run_until_cancelled(connection).await {
                debug!(%error, "connection ended");
            }
        });
    }
    connections.close();
    connections.wait().await;
    Ok(())
}

fn respond(answer: Option<Answer>) -> Response<Full<Bytes>> {
    let answer = answer.unwrap_or_else(|| Answer {
        status: StatusCode::NOT_FOUND,
        ..Answer::ok("not found\n")
    });
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response
}
