use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ambit_wire::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService;
use ambit_wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use ambit_wire::names::{
    TYPE_ADDRESS, TYPE_AUTHORIZATION, TYPE_ENROLLED_NAMESPACE, TYPE_NODE_CONFIG, TYPE_POD_CAPTURE,
    TYPE_WAYPOINT_BACKEND, TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_ROUTE, TYPE_WAYPOINT_SERVICE,
    TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD,
};
use ambit_wire::xds::{self, Collection};
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::info;

use super::Shared;
use super::auth::Caller;
use super::ending::until;
use super::metrics::StreamGuard;
use super::refusal::Reason;
use super::role::Role;

pub(super) const WHAT: &str = "configuration";

/// Delta xDS, restricted by the client's role.
pub(super) struct Discovery(pub(super) Arc<Shared>);

/// A client with an open stream.
pub(super) struct Subscriber {
    caller: Caller,
    open: StreamGuard,
}

impl fmt::Display for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.caller.fmt(f)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        mut request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let caller = request.extensions_mut().remove::<Caller>();
        let caller = caller.ok_or_else(|| Status::internal("the call has not been authenticated"))?;
        info!(%caller, peer = ?caller.addresses.peer, "configuration stream opened");
        let open = self.0.metrics.stream(caller.role.label(), caller.proxy());
        let ending = self.0.ending(&caller);
        let refusing = (Arc::clone(&self.0), caller.clone());
        let requests = request.into_inner().map_err(move |status| match status.code() {
            // The decoder's error for a message longer than the client may send.
            Code::OutOfRange => {
                let (shared, caller) = &refusing;
                caller
                    .refuse(Reason::Limit, status.message())
                    .record(&shared.metrics, WHAT)
            }
            _ => status,
        });
        let subscriber = Subscriber { caller, open };
        let shutdown = self.0.shutdown.clone();
        let responses = xds::serve(Arc::clone(&self.0), subscriber, requests, shutdown);
        Ok(Response::new(until(responses, ending)))
    }
}

/// The rank of a type on a stream ([`Source::rank`](xds::Source::rank)). Settings, Services and Backends of a waypoint name policies, and
/// workloads name authorizations; a Service and a Backend arrive after their endpoints; Services name Routes, and Routes name Backends.
pub fn rank(type_url: &str) -> u8 {
    match type_url {
        TYPE_ADDRESS | TYPE_WORKLOAD => 1,
        TYPE_WAYPOINT_BACKEND => 2,
        TYPE_WAYPOINT_ROUTE => 3,
        TYPE_WAYPOINT_SERVICE | TYPE_WAYPOINT_SETTINGS => 4,
        _ => 0,
    }
}

/// Whether a type's removals wait ([`Source::removes_last`](xds::Source::removes_last)). A workload that names a missing authorization is
/// closed, as is a Service that names a missing policy or Route, and a Route's share for a missing Backend: so first the name is removed.
pub fn removes_last(type_url: &str) -> bool {
    matches!(
        type_url,
        TYPE_AUTHORIZATION | TYPE_WAYPOINT_POLICY | TYPE_WAYPOINT_BACKEND | TYPE_WAYPOINT_ROUTE
    )
}

impl xds::Source for Shared {
    type Client = Subscriber;

    fn collection(&self, client: &Subscriber, type_url: &str) -> Result<Arc<Collection>, Status> {
        let (caller, sources) = (&client.caller, &self.sources);
        match (caller.role, type_url) {
            (Role::Ztunnel, TYPE_ADDRESS) => Ok(sources.addresses()),
            (Role::Ztunnel, TYPE_AUTHORIZATION) => Ok(sources.authorizations(caller.node())),
            (Role::Agent, TYPE_POD_CAPTURE) => Ok(sources.pod_captures(caller.node())),
            (Role::Agent, TYPE_ENROLLED_NAMESPACE) => Ok(sources.enrolled_namespaces()),
            (Role::Agent, TYPE_NODE_CONFIG) => Ok(sources.node_config(caller.node())),
            (
                Role::Waypoint,
                TYPE_WAYPOINT_SETTINGS
                | TYPE_WAYPOINT_SERVICE
                | TYPE_WAYPOINT_ROUTE
                | TYPE_WAYPOINT_BACKEND
                | TYPE_WAYPOINT_POLICY
                | TYPE_WORKLOAD
                | TYPE_AUTHORIZATION,
            ) => self.of_waypoint(caller, type_url),
            (role, _) => {
                let message = format!(
                    "a client of type {} may not subscribe to {type_url:?}",
                    role.label()
                );
                Err(caller
                    .refuse(Reason::NotAllowed, message)
                    .record(&self.metrics, WHAT))
            }
        }
    }

    fn rank(&self, type_url: &str) -> u8 {
        rank(type_url)
    }

    fn removes_last(&self, type_url: &str) -> bool {
        removes_last(type_url)
    }

    fn sent(&self, client: &Subscriber, type_url: &str, resources: usize) {
        client.open.sent(type_url, resources);
    }

    fn acknowledged(&self, client: &Subscriber, took: Duration) {
        self.metrics.acknowledged(client.caller.role.label(), took);
    }

    fn most_names(&self, client: &Subscriber) -> usize {
        client.caller.role.most_names()
    }

    fn limited(&self, client: &Subscriber) {
        let message = format!("more than {} names", client.caller.role.most_names());
        client
            .caller
            .refuse(Reason::Limit, message)
            .record(&self.metrics, WHAT);
    }

    fn rejected(&self, client: &Subscriber, type_url: &str) {
        self.metrics.rejected(client.caller.role.label(), type_url);
    }
}

impl Shared {
    /// The configuration of the calling waypoint: its pod determines which one, never the request.
    fn of_waypoint(&self, caller: &Caller, type_url: &str) -> Result<Arc<Collection>, Status> {
        let found = caller
            .waypoint()
            .and_then(|(namespace, name)| self.sources.waypoint(namespace, name));
        let Some(told) = found else {
            let message = "the waypoint is no longer desired, and its Service is deleted";
            return Err(caller
                .refuse(Reason::NotAllowed, message)
                .record(&self.metrics, WHAT));
        };
        Ok(match type_url {
            TYPE_WAYPOINT_SETTINGS => told.settings,
            TYPE_WAYPOINT_SERVICE => told.services,
            TYPE_WAYPOINT_ROUTE => told.routes,
            TYPE_WAYPOINT_BACKEND => told.backends,
            TYPE_WAYPOINT_POLICY => told.policies,
            TYPE_WORKLOAD => told.workloads,
            _ => told.authorizations,
        })
    }
}
