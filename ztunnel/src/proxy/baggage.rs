//! The source workload, for the telemetry of waypoints: a W3C `baggage` header with the members that Istio's ztunnel
//! writes.
//!
//! Source: <https://www.w3.org/TR/baggage/>.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use ambit_mesh::Workload;

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The headers of a CONNECT from `source` to a waypoint.
pub(crate) fn headers(source: &Workload) -> HeaderMap {
    let workload = format!("k8s.{}.name", source.workload_type);
    let members = [
        ("k8s.cluster.name", &source.cluster),
        ("k8s.namespace.name", &source.namespace),
        (workload.as_str(), &source.workload_name),
        // For services with `internalTrafficPolicy: Local`.
        ("k8s.node.name", &source.node),
        // For services that prefer the client's zone.
        ("cloud.availability_zone", &source.zone),
        ("service.name", &source.canonical_name),
        ("service.version", &source.canonical_revision),
    ];
    let text = members
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", encoded(value)))
        .collect::<Vec<_>>()
        .join(",");
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(BAGGAGE, value);
    }
    headers
}

/// Percent-encodes all characters that names in Kubernetes do not have.
fn encoded(value: &str) -> Cow<'_, str> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    if value.bytes().all(is_plain) {
        return value.into();
    }
    value
        .bytes()
        .fold(String::new(), |mut text, b| {
            if is_plain(b) {
                text.push(b.into());
            } else {
                text.push_str(&format!("%{b:02X}"));
            }
            text
        })
        .into()
}

#[cfg(test)]
mod tests {
    use ambit_wire::workload::{Workload as Wire, WorkloadType};

    use super::*;

    fn baggage(of: Wire) -> String {
        let workload = Workload::try_from(Wire {
            uid: "uid".into(),
            namespace: "shop".into(),
            ..of
        });
        let headers = headers(&workload.unwrap());
        headers[BAGGAGE].to_str().unwrap().to_owned()
    }

    #[test]
    fn baggage_matches_istio() {
        let source = Wire {
            cluster_id: "Kubernetes".into(),
            workload_name: "orders".into(),
            workload_type: WorkloadType::Cronjob.into(),
            canonical_name: "orders".into(),
            canonical_revision: "v1.2".into(),
            ..Wire::default()
        };
        assert_eq!(
            baggage(source),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.cronjob.name=orders,service.name=orders,service.version=v1.2"
        );
    }

    #[test]
    fn values_cannot_add_members() {
        let source = Wire {
            cluster_id: "a,b=c;d é".into(),
            ..Wire::default()
        };
        assert_eq!(
            baggage(source),
            "k8s.cluster.name=a%2Cb%3Dc%3Bd%20%C3%A9,k8s.namespace.name=shop"
        );
    }
}
