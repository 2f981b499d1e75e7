//! The client's workload, from its ztunnel, in the `baggage` of a CONNECT.

/// Maximum length of a value: names in Kubernetes are no longer.
const MAX_NAME: usize = 253;

/// The client's workload, as its ztunnel names it. Empty: unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct SourceWorkload {
    pub(super) cluster: String,
    pub(super) name: String,
    pub(super) service: String,
    pub(super) version: String,
}

impl SourceWorkload {
    /// Parses a W3C `baggage` with the members that Istio's ztunnel writes. Other members, and values that are too long
    /// for a name, count as absent.
    pub(super) fn parse(baggage: &[u8]) -> Self {
        let mut workload = Self::default();
        let Ok(baggage) = std::str::from_utf8(baggage) else {
            return workload;
        };
        for member in baggage.split(',') {
            // Properties after a semicolon have no meaning here.
            let member = member.split(';').next().unwrap_or_default();
            let Some((key, value)) = member.split_once('=') else {
                continue;
            };
            let value = value.trim();
            if value.len() > MAX_NAME || !value.bytes().all(is_name) {
                continue;
            }
            let field = match key.trim() {
                "k8s.cluster.name" => &mut workload.cluster,
                "k8s.deployment.name" | "k8s.pod.name" | "k8s.job.name" | "k8s.cronjob.name" => {
                    &mut workload.name
                }
                "service.name" => &mut workload.service,
                "service.version" => &mut workload.version,
                _ => continue,
            };
            value.clone_into(field);
        }
        workload
    }
}

/// One of the members for the client's location; empty if absent or malformed.
pub(super) fn member(baggage: &[u8], name: &str) -> String {
    let baggage = std::str::from_utf8(baggage).unwrap_or_default();
    let mut members = baggage
        .split(',')
        .filter_map(|member| member.trim().split_once('='));
    let value = members.find(|(key, _)| *key == name).map(|(_, value)| value);
    let valid = value.filter(|value| value.len() <= MAX_NAME && value.bytes().all(is_name));
    valid.unwrap_or_default().to_owned()
}

/// The values of a baggage: cluster, workload, service, version, node. Empty: unknown.
#[cfg(feature = "testing")]
pub fn baggage(baggage: &[u8]) -> [String; 5] {
    let workload = SourceWorkload::parse(baggage);
    let SourceWorkload {
        cluster,
        name,
        service,
        version,
    } = workload;
    [cluster, name, service, version, member(baggage, "k8s.node.name")]
}

/// Characters of names and label values; none of them is percent-encoded in a baggage.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baggage_tells_the_workload() {
        let workload = SourceWorkload::parse(
            b"k8s.cluster.name=Kubernetes,k8s.namespace.name=shop, k8s.deployment.name = cart ,service.name=cart;p=1,service.version=v1",
        );
        let expected = SourceWorkload {
            cluster: "Kubernetes".into(),
            name: "cart".into(),
            service: "cart".into(),
            version: "v1".into(),
        };
        assert_eq!(workload, expected);
    }

    #[test]
    fn nonsense_is_absent() {
        let long = format!("service.name={}", "a".repeat(254));
        for baggage in [
            b"".as_slice(),
            b"=,,=,a",
            b"service.name=a b",
            b"service.name=%41",
            b"\xff",
            long.as_bytes(),
        ] {
            assert_eq!(SourceWorkload::parse(baggage), SourceWorkload::default());
        }
    }
}
