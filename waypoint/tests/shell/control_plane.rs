//! A control plane that serves whatever the test puts in, and remembers what it was told.

use std::collections::HashMap;
use std::sync::Arc;

use ambit_wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use ambit_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ambit_wire::names::{
    TYPE_AUTHORIZATION, TYPE_WAYPOINT_BACKEND, TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_ROUTE,
    TYPE_WAYPOINT_SERVICE, TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD,
};
use ambit_wire::waypoint::waypoint_server::{Waypoint, WaypointServer};
use ambit_wire::waypoint::{Load, LoadAck};
use ambit_wire::xds::{Collection, Source, serve};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

pub(crate) struct ControlPlane {
    served: Arc<Served>,
    url: String,
    _server: AbortOnDropHandle<()>,
}

struct Served {
    collections: HashMap<&'static str, Arc<Collection>>,
    rejections: watch::Sender<usize>,
    load: watch::Sender<Option<Load>>,
}

impl Source for Served {
    type Client = &'static str;

    fn collection(&self, _: &&'static str, type_url: &str) -> Result<Arc<Collection>, Status> {
        let collection = self.collections.get(type_url).cloned();
        collection.ok_or_else(|| Status::permission_denied(type_url.to_owned()))
    }

    fn rejected(&self, _: &&'static str, _: &str) {
        self.rejections.send_modify(|n| *n += 1);
    }
}

struct Service(Arc<Served>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (served, requests) = (Arc::clone(&self.0), request.into_inner());
        Ok(Response::new(serve(
            served,
            "waypoint",
            requests,
            CancellationToken::new(),
        )))
    }
}

#[tonic::async_trait]
impl Waypoint for Service {
    type ReportStream = BoxStream<'static, Result<LoadAck, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<Load>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let served = Arc::clone(&self.0);
        let acknowledge = move |load: Result<Load, Status>| {
            served.load.send_replace(Some(load?));
            Ok(LoadAck::default())
        };
        Ok(Response::new(request.into_inner().map(acknowledge).boxed()))
    }
}

impl ControlPlane {
    /// One that has nothing to say yet.
    pub(crate) async fn start() -> Self {
        let types = [
            TYPE_AUTHORIZATION,
            TYPE_WAYPOINT_BACKEND,
            TYPE_WAYPOINT_POLICY,
            TYPE_WAYPOINT_ROUTE,
            TYPE_WAYPOINT_SERVICE,
            TYPE_WAYPOINT_SETTINGS,
            TYPE_WORKLOAD,
        ];
        let served = Arc::new(Served {
            collections: types.map(|kind| (kind, Arc::default())).into(),
            rejections: watch::Sender::new(0),
            load: watch::Sender::new(None),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(Service(Arc::clone(
                &served,
            ))))
            .add_service(WaypointServer::new(Service(Arc::clone(&served))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self {
            served,
            url,
            _server: AbortOnDropHandle::new(server),
        }
    }

    /// Everything there is has been said.
    pub(crate) fn complete(&self) {
        for collection in self.served.collections.values() {
            collection.replace([]);
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url()).unwrap().connect_lazy()
    }

    pub(crate) fn set(&self, kind: &str, name: &str, message: &impl Message) {
        self.served.collections[kind].update([(name.to_owned(), Some(message.encode_to_vec()))]);
    }

    pub(crate) async fn rejections(&self, at_least: usize) {
        let mut rejections = self.served.rejections.subscribe();
        rejections.wait_for(|n| *n >= at_least).await.unwrap();
    }

    pub(crate) async fn load(&self, wanted: impl FnMut(&Option<Load>) -> bool) {
        self.served.load.subscribe().wait_for(wanted).await.unwrap();
    }
}
