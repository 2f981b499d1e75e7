//! Who calls, for the telemetry of waypoints: a W3C `baggage` header with the members that Istio's ztunnel writes.
//!
//! Source: <https://www.w3.org/TR/baggage/>.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::state::Workload;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The headers of a CONNECT from `source` to a waypoint.
pub(super) fn headers(source: &Workload) -> HeaderMap {
    let workload = format!("k8s.{}.name", source.workload_type);
    let members = [
        ("k8s.cluster.name", &source.cluster),
        ("k8s.namespace.name", &source.namespace),
        (workload.as_str(), &source.workload_name),
        ("service.name", &source.canonical_name),
        ("service.version", &source.canonical_revision),
    ];
    let text = members
        .iter()
        .filter(|(_, value)| is_plain(value))
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",");
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(BAGGAGE, value);
    }
    headers
}

/// Names in Kubernetes need no percent-encoding; what is no name is left out.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
