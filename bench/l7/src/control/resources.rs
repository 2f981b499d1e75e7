//! What the waypoint receives: one Service with one endpoint, and one policy that has all there is.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_bench::l7::{
    CLIENT, HOSTNAME, NAMESPACE, PREFIX, RETRY_ATTEMPTS, RETRY_BACKOFF_MAX_MS, RETRY_BACKOFF_MS,
    RETRY_STATUS, SERVER, SERVICE_IP, SERVICE_PORT, TIMEOUT_S, TRUST_DOMAIN, TRY_TIMEOUT_S, WAYPOINT,
};
use ambit_wire::names::{
    TYPE_AUTHORIZATION, TYPE_WAYPOINT_BACKEND, TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_ROUTE,
    TYPE_WAYPOINT_SERVICE, TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD, WAYPOINT_SETTINGS,
};
use ambit_wire::security::{Action, StringMatch, string_match::MatchType};
use ambit_wire::waypoint::{Policy, Retry, Rule, Service, ServicePort, Settings, Source};
use ambit_wire::workload::{AppProtocol, Port, PortList, TunnelProtocol, Workload, WorkloadStatus};
use ambit_wire::xds::{self, Collection};
use prost::Message;
use prost_types::Duration;
use tonic::Status;

/// The policy's name.
const POLICY: &str = "orders";
/// The endpoint's pod.
const POD: &str = "server-0";

/// The resources by type.
pub(super) struct Resources {
    types: HashMap<&'static str, Arc<Collection>>,
}

impl Resources {
    /// All of them, for a Service whose one endpoint is `backend`.
    pub(super) fn new(backend: SocketAddr, access_log: bool) -> Self {
        let policy = format!("{NAMESPACE}/{POLICY}");
        let service = format!("{NAMESPACE}/{HOSTNAME}");
        let workload = workload(backend, service.clone());
        let uid = workload.uid.clone();
        Self {
            types: HashMap::from([
                collection(
                    TYPE_WAYPOINT_SETTINGS,
                    WAYPOINT_SETTINGS.into(),
                    &settings(access_log),
                ),
                collection(TYPE_WAYPOINT_SERVICE, service, &self::service(&policy)),
                collection(TYPE_WAYPOINT_POLICY, policy, &self::policy()),
                collection(TYPE_WORKLOAD, uid, &workload),
                (TYPE_AUTHORIZATION, ready([])),
                (TYPE_WAYPOINT_BACKEND, ready([])),
                (TYPE_WAYPOINT_ROUTE, ready([])),
            ]),
        }
    }
}

impl xds::Source for Resources {
    type Client = &'static str;

    fn collection(&self, _client: &Self::Client, type_url: &str) -> Result<Arc<Collection>, Status> {
        let found = self.types.get(type_url).cloned();
        found.ok_or_else(|| Status::permission_denied(format!("a waypoint is not sent {type_url}")))
    }
}

fn collection(
    type_url: &'static str,
    name: String,
    message: &impl Message,
) -> (&'static str, Arc<Collection>) {
    (type_url, ready([(name, message.encode_to_vec())]))
}

fn ready(resources: impl IntoIterator<Item = (String, Vec<u8>)>) -> Arc<Collection> {
    let collection = Collection::new();
    collection.replace(resources);
    Arc::new(collection)
}

fn settings(access_log: bool) -> Settings {
    Settings {
        namespace: NAMESPACE.into(),
        name: WAYPOINT.into(),
        trust_domain: TRUST_DOMAIN.into(),
        access_log,
        ..Settings::default()
    }
}

fn service(policy: &str) -> Service {
    Service {
        namespace: NAMESPACE.into(),
        name: SERVER.into(),
        hostname: HOSTNAME.into(),
        addresses: vec![SERVICE_IP.octets().to_vec()],
        ports: vec![ServicePort {
            port: SERVICE_PORT.into(),
            protocol: AppProtocol::Http11.into(),
            ..Default::default()
        }],
        authorization: vec![policy.into()],
        timeout: policy.into(),
        retry: policy.into(),
        ..Service::default()
    }
}

/// What the other waypoints are configured to as well: `bench/peers`.
fn policy() -> Policy {
    let paths = || {
        vec![StringMatch {
            match_type: Some(MatchType::Prefix(PREFIX.into())),
        }]
    };
    let deny = Rule {
        name: "no-deletes".into(),
        action: Action::Deny.into(),
        methods: vec!["DELETE".into()],
        paths: paths(),
        ..Rule::default()
    };
    let caller = StringMatch {
        match_type: Some(MatchType::Exact(format!(
            "{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{CLIENT}"
        ))),
    };
    let allow = Rule {
        name: "readers".into(),
        action: Action::Allow.into(),
        from: vec![Source {
            principals: vec![caller],
            ..Source::default()
        }],
        methods: vec!["GET".into(), "HEAD".into(), "POST".into()],
        paths: paths(),
        ..Rule::default()
    };
    Policy {
        namespace: NAMESPACE.into(),
        name: POLICY.into(),
        authorization: vec![deny, allow],
        timeout: Some(seconds(TIMEOUT_S)),
        retry: Some(Retry {
            attempts: RETRY_ATTEMPTS,
            status_codes: vec![RETRY_STATUS],
            connect_failure: true,
            reset: true,
            per_try_timeout: Some(seconds(TRY_TIMEOUT_S)),
            backoff_base: Some(millis(RETRY_BACKOFF_MS)),
            backoff_max: Some(millis(RETRY_BACKOFF_MAX_MS)),
            non_idempotent: false,
        }),
        ..Policy::default()
    }
}

fn workload(backend: SocketAddr, service: String) -> Workload {
    let address = match backend.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let port = Port {
        service_port: SERVICE_PORT.into(),
        target_port: backend.port().into(),
        app_protocol: AppProtocol::Http11.into(),
    };
    Workload {
        uid: format!("Kubernetes//Pod/{NAMESPACE}/{POD}"),
        name: POD.into(),
        namespace: NAMESPACE.into(),
        addresses: vec![address],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        trust_domain: TRUST_DOMAIN.into(),
        service_account: SERVER.into(),
        node: "n1".into(),
        canonical_name: SERVER.into(),
        canonical_revision: "v1".into(),
        workload_name: SERVER.into(),
        services: BTreeMap::from([(
            service,
            PortList {
                ports: vec![port],
                ..PortList::default()
            },
        )]),
        status: WorkloadStatus::Healthy.into(),
        cluster_id: "Kubernetes".into(),
        ..Workload::default()
    }
}

fn seconds(seconds: u64) -> Duration {
    millis(seconds * 1000)
}

fn millis(millis: u64) -> Duration {
    Duration {
        seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1000 * 1_000_000).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use ambit_wire::xds::Source as _;

    use super::*;

    #[test]
    fn resources_are_complete_and_minimal() {
        let resources = Resources::new("192.0.2.1:8080".parse().unwrap(), true);
        let get = |type_url: &str, name: &str| {
            let collection = resources.collection(&"w", type_url).unwrap();
            assert!(collection.is_ready());
            collection.get(name).unwrap().0.bytes
        };
        let settings = Settings::decode(get(TYPE_WAYPOINT_SETTINGS, WAYPOINT_SETTINGS)).unwrap();
        assert!(settings.access_log);
        let uid = format!("Kubernetes//Pod/{NAMESPACE}/{POD}");
        let workload = Workload::decode(get(TYPE_WORKLOAD, &uid)).unwrap();
        assert_eq!(workload.uid, uid);
        let name = workload.services.keys().next().unwrap();
        let service = Service::decode(get(TYPE_WAYPOINT_SERVICE, name)).unwrap();
        for policy in [&service.authorization[0], &service.timeout, &service.retry] {
            let policy = Policy::decode(get(TYPE_WAYPOINT_POLICY, policy)).unwrap();
            assert!(policy.timeout.is_some() && policy.retry.is_some());
        }
        assert!(resources.collection(&"w", TYPE_AUTHORIZATION).unwrap().is_ready());
        assert!(resources.collection(&"w", "other").is_err());
    }

    #[test]
    fn durations_are_split_at_the_second() {
        let duration = millis(2_250);
        assert_eq!((duration.seconds, duration.nanos), (2, 250_000_000));
    }
}
