//! A control plane that serves whatever the test puts in.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ambit_wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use ambit_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ambit_wire::names::{TYPE_ADDRESS, TYPE_AUTHORIZATION};
use ambit_wire::security::{self, Authorization};
use ambit_wire::workload::{
    Address, NetworkAddress, Port, PortList, Service, TunnelProtocol, Workload, address::Type,
};
use ambit_wire::xds::{Collection, Source, serve};
use futures::stream::BoxStream;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone)]
pub(crate) struct ControlPlane {
    source: Arc<Fixed>,
    url: String,
}

struct Fixed {
    addresses: Arc<Collection>,
    authorizations: Arc<Collection>,
}

impl Source for Fixed {
    type Client = &'static str;

    fn collection(&self, _: &&'static str, type_url: &str) -> Result<Arc<Collection>, Status> {
        match type_url {
            TYPE_ADDRESS => Ok(Arc::clone(&self.addresses)),
            TYPE_AUTHORIZATION => Ok(Arc::clone(&self.authorizations)),
            other => Err(Status::invalid_argument(other.to_owned())),
        }
    }
}

struct Ads(Arc<Fixed>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let stream = serve(
            Arc::clone(&self.0),
            "ztunnel",
            request.into_inner(),
            CancellationToken::new(),
        );
        Ok(Response::new(stream))
    }
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let this = Self::start_silent().await;
        this.speak();
        this
    }

    /// One that says nothing before [`ControlPlane::speak`], as an operator that is not there.
    pub(crate) async fn start_silent() -> Self {
        let source = Arc::new(Fixed {
            addresses: Arc::default(),
            authorizations: Arc::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = AggregatedDiscoveryServiceServer::new(Ads(Arc::clone(&source)));
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { source, url }
    }

    /// Begins to tell what there is: nothing yet.
    pub(crate) fn speak(&self) {
        self.source.addresses.replace([]);
        self.source.authorizations.replace([]);
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url.clone()).unwrap().connect_lazy()
    }

    fn set_address(&self, name: String, what: Type) {
        let bytes = Address { r#type: Some(what) }.encode_to_vec();
        self.source.addresses.update([(name, Some(bytes))]);
    }

    pub(crate) fn set_workload(&self, workload: Workload) {
        self.set_address(workload.uid.clone(), Type::Workload(workload));
    }

    pub(crate) fn set_service(&self, service: Service) {
        self.set_address(
            format!("{}/{}", service.namespace, service.hostname),
            Type::Service(service),
        );
    }

    pub(crate) fn remove_address(&self, name: &str) {
        self.source.addresses.update([(name.to_owned(), None)]);
    }

    pub(crate) fn set_policy(&self, policy: Authorization) {
        let name = format!("{}/{}", policy.namespace, policy.name);
        self.source
            .authorizations
            .update([(name, Some(policy.encode_to_vec()))]);
    }

    pub(crate) fn remove_policy(&self, name: &str) {
        self.source.authorizations.update([(name.to_owned(), None)]);
    }
}

pub(crate) fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/test/{name}")
}

/// A pod `name` of service account `name` in namespace `test`.
pub(crate) fn workload(name: &str, ip: Ipv4Addr, protocol: TunnelProtocol) -> Workload {
    Workload {
        uid: uid(name),
        name: name.into(),
        namespace: "test".into(),
        addresses: vec![ip.octets().to_vec()],
        tunnel_protocol: protocol.into(),
        trust_domain: "cluster.local".into(),
        service_account: name.into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        workload_name: name.into(),
        cluster_id: "Kubernetes".into(),
        ..Workload::default()
    }
}

/// Makes a workload an endpoint of a service of [`service`].
pub(crate) fn endpoint_of(mut workload: Workload, service: &str, port: u16, target: u16) -> Workload {
    let ports = vec![Port {
        service_port: port.into(),
        target_port: target.into(),
        ..Port::default()
    }];
    workload.services.insert(
        format!("test/{service}.test.svc.cluster.local"),
        PortList {
            ports,
            ..PortList::default()
        },
    );
    workload
}

pub(crate) fn service(name: &str, vip: Ipv4Addr, port: u16) -> Service {
    Service {
        name: name.into(),
        namespace: "test".into(),
        hostname: format!("{name}.test.svc.cluster.local"),
        addresses: vec![NetworkAddress {
            address: vip.octets().to_vec(),
            ..NetworkAddress::default()
        }],
        ports: vec![Port {
            service_port: port.into(),
            ..Port::default()
        }],
        ..Service::default()
    }
}

/// Denies a principal in namespace `test`.
pub(crate) fn deny(name: &str, principal: &str) -> Authorization {
    let exact = security::StringMatch {
        match_type: Some(security::string_match::MatchType::Exact(principal.to_owned())),
    };
    let one = security::Match {
        principals: vec![exact],
        ..security::Match::default()
    };
    Authorization {
        name: name.into(),
        namespace: "test".into(),
        scope: security::Scope::Namespace.into(),
        action: security::Action::Deny.into(),
        rules: vec![security::Rule {
            clauses: vec![security::Clause { matches: vec![one] }],
        }],
        ..Authorization::default()
    }
}

/// Strict mTLS: denies callers without a principal; applies to those who name it.
pub(crate) fn strict() -> Authorization {
    let any = security::StringMatch {
        match_type: Some(security::string_match::MatchType::Presence(())),
    };
    let one = security::Match {
        not_principals: vec![any],
        ..security::Match::default()
    };
    Authorization {
        name: "strict-mtls".into(),
        namespace: "ambit-system".into(),
        scope: security::Scope::WorkloadSelector.into(),
        rules: vec![security::Rule {
            clauses: vec![security::Clause { matches: vec![one] }],
        }],
        ..deny("", "")
    }
}
