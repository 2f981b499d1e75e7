//! Readiness and metrics, on localhost.

use crate::metrics::Metrics;
use ambit_runtime::{Answer, is_metrics_path};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Serves `/healthz/ready` (503 with the reason that `obstacle` returns) and the metrics until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    obstacle: watch::Receiver<Option<&'static str>>,
    stop: CancellationToken,
) {
    let answer = move |path: &str| match path {
        "/healthz/ready" => Some(Answer::ready(*obstacle.borrow())),
        path if is_metrics_path(path) => Some(Answer::text_or_error(metrics.encode())),
        _ => None,
    };
    ambit_runtime::serve("readiness and metrics", listener, stop, answer).await;
}
