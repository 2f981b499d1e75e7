//! What the waypoint receives: one Service with one endpoint, one policy that has all there is, and any number of routes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ambit_bench::l7::{
    CLIENT, GRPC_PORT, HOSTNAME, NAMESPACE, OTHER_PREFIX, PREFIX, RETRY_ATTEMPTS, RETRY_BACKOFF_MAX_MS,
    RETRY_BACKOFF_MS, RETRY_STATUS, SERVER, SERVICE_IP, SERVICE_PORT, TIMEOUT_S, TRUST_DOMAIN, TRY_TIMEOUT_S,
    WAYPOINT,
};
use ambit_wire::names::{
    TYPE_AUTHORIZATION, TYPE_WAYPOINT_BACKEND, TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_ROUTE,
    TYPE_WAYPOINT_SERVICE, TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD, WAYPOINT_SETTINGS,
};
use ambit_wire::security::{Action, StringMatch, string_match::MatchType};
use ambit_wire::waypoint::{
    AttachedRoute, Backend, PathMatch, Policy, Retry, Route, RouteBackend, RouteMatch, RouteRule, Rule,
    Service, ServicePort, Settings, Source, path_match,
};
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
    pub(super) fn new(backend: SocketAddr, access_log: bool, routes: usize) -> Self {
        let policy = format!("{NAMESPACE}/{POLICY}");
        let service = format!("{NAMESPACE}/{HOSTNAME}");
        let workload = workload(backend, service.clone());
        let uid = workload.uid.clone();
        let routes: Vec<(String, Route)> = (1..=routes).map(|n| route(n, routes, &service)).collect();
        let attached = routes.iter().map(|(name, _)| name.clone()).collect();
        let backends = (!routes.is_empty()).then(|| (service.clone(), self::backend().encode_to_vec()));
        let routes = routes
            .into_iter()
            .map(|(name, route)| (name, route.encode_to_vec()));
        Self {
            types: HashMap::from([
                collection(
                    TYPE_WAYPOINT_SETTINGS,
                    WAYPOINT_SETTINGS.into(),
                    &settings(access_log),
                ),
                collection(TYPE_WAYPOINT_SERVICE, service, &self::service(&policy, attached)),
                collection(TYPE_WAYPOINT_POLICY, policy, &self::policy()),
                collection(TYPE_WORKLOAD, uid, &workload),
                (TYPE_AUTHORIZATION, ready([])),
                (TYPE_WAYPOINT_BACKEND, ready(backends)),
                (TYPE_WAYPOINT_ROUTE, ready(routes)),
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

fn service(policy: &str, routes: Vec<String>) -> Service {
    let attached = |route| AttachedRoute {
        route,
        ports: vec![SERVICE_PORT.into()],
        ..AttachedRoute::default()
    };
    Service {
        namespace: NAMESPACE.into(),
        name: SERVER.into(),
        hostname: HOSTNAME.into(),
        addresses: vec![SERVICE_IP.octets().to_vec()],
        ports: ports(),
        routes: routes.into_iter().map(attached).collect(),
        authorization: vec![policy.into()],
        timeout: policy.into(),
        retry: policy.into(),
        ..Service::default()
    }
}

fn ports() -> Vec<ServicePort> {
    let ports = [
        (SERVICE_PORT, AppProtocol::Http11),
        (GRPC_PORT, AppProtocol::Grpc),
    ];
    let port = |(port, protocol): (u16, AppProtocol)| ServicePort {
        port: port.into(),
        protocol: protocol.into(),
        ..ServicePort::default()
    };
    ports.map(port).into()
}

/// The route with this number, and its name. The last one matches the load's requests, the others none.
fn route(number: usize, last: usize, service: &str) -> (String, Route) {
    let name = format!("route-{number:05}");
    let prefix = match number == last {
        true => PREFIX.into(),
        false => format!("{OTHER_PREFIX}{number}"),
    };
    let rule = RouteRule {
        matches: vec![RouteMatch {
            path: Some(PathMatch {
                r#match: Some(path_match::Match::Prefix(prefix)),
            }),
            ..RouteMatch::default()
        }],
        backends: vec![RouteBackend {
            backend: service.into(),
            port: SERVICE_PORT.into(),
            weight: 1,
            ..RouteBackend::default()
        }],
        ..RouteRule::default()
    };
    let route = Route {
        kind: "HTTPRoute".into(),
        namespace: NAMESPACE.into(),
        name: name.clone(),
        rules: vec![rule],
        ..Route::default()
    };
    (format!("HTTPRoute/{NAMESPACE}/{name}"), route)
}

/// The Service, as what routes send requests to.
fn backend() -> Backend {
    Backend {
        namespace: NAMESPACE.into(),
        name: SERVER.into(),
        hostname: HOSTNAME.into(),
        ports: ports(),
        ..Backend::default()
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
    let ports = ports().into_iter().map(|port| Port {
        service_port: port.port,
        target_port: backend.port().into(),
        app_protocol: port.protocol,
    });
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
                ports: ports.collect(),
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
        let resources = Resources::new("192.0.2.1:8080".parse().unwrap(), true, 2);
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
        let prefixes = service.routes.iter().map(|attached| {
            let route = Route::decode(get(TYPE_WAYPOINT_ROUTE, &attached.route)).unwrap();
            Backend::decode(get(TYPE_WAYPOINT_BACKEND, &route.rules[0].backends[0].backend)).unwrap();
            route.rules[0].matches[0].path.clone().unwrap().r#match
        });
        let prefixes: Vec<_> = prefixes.collect();
        let prefix = |prefix: &str| Some(path_match::Match::Prefix(prefix.into()));
        assert_eq!(prefixes, [prefix("/other-1"), prefix(PREFIX)]);
        assert!(resources.collection(&"w", TYPE_AUTHORIZATION).unwrap().is_ready());
        assert!(resources.collection(&"w", "other").is_err());
    }

    #[test]
    fn durations_are_split_at_the_second() {
        let duration = millis(2_250);
        assert_eq!((duration.seconds, duration.nanos), (2, 250_000_000));
    }
}
