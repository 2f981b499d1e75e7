//! Readiness and metrics, on localhost.

use crate::metrics::Metrics;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const HEADER_TIME: Duration = Duration::from_secs(5);

/// Serves `/healthz/ready` (what `obstacle` says stands in the way: 503) and `/metrics` until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    obstacle: watch::Receiver<Option<&'static str>>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "readiness and metrics: cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (metrics, obstacle, stop) = (metrics.clone(), obstacle.clone(), stop.clone());
        connections.spawn(async move {
            let service = service_fn(|request| {
                std::future::ready(Ok::<_, Infallible>(answer(&request, &metrics, &obstacle)))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                // A client that breaks off concerns nobody.
                _ = connection => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

fn answer(
    request: &Request<Incoming>,
    metrics: &Metrics,
    obstacle: &watch::Receiver<Option<&'static str>>,
) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz/ready") => match *obstacle.borrow() {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(obstacle) => (StatusCode::SERVICE_UNAVAILABLE, format!("{obstacle}\n")),
        },
        (&Method::GET, "/metrics") => match metrics.encode() {
            Ok(text) => (StatusCode::OK, text),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "try /healthz/ready or /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
