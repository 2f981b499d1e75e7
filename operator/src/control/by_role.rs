//! Configuration streams with a message limit by role: the client is authenticated before anything is decoded.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use ambit_wire::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryServiceServer, SERVICE_NAME,
};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

use super::Shared;
use super::discovery::{Discovery, WHAT};
use super::role::Role;

impl Role {
    /// A client that reconnects sends the version of each resource that it holds, in one message.
    fn longest_request(self) -> usize {
        match self {
            Self::Ztunnel => 64 << 20,
            Self::Agent => 1 << 20,
            Self::Waypoint => 4 << 20,
            // It may subscribe to nothing, and the service responds with that.
            Self::Operator => 4 << 10,
        }
    }

    /// Maximum of names in a request, or subscribed, of one type.
    pub(super) fn most_names(self) -> usize {
        match self {
            Self::Ztunnel => 1_000_000,
            Self::Agent => 10_000,
            Self::Waypoint => 50_000,
            Self::Operator => 0,
        }
    }
}

/// The service of delta xDS, by the role of the caller.
#[derive(Clone)]
pub(super) struct ByRole {
    shared: Arc<Shared>,
    discovery: Arc<Discovery>,
}

impl ByRole {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            discovery: Arc::new(Discovery(Arc::clone(&shared))),
            shared,
        }
    }
}

impl NamedService for ByRole {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for ByRole {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Self { shared, discovery } = self.clone();
        async move {
            let metadata = MetadataMap::from_headers(request.headers().clone());
            let caller = match shared.caller(&metadata, request.extensions(), WHAT).await {
                Ok(caller) => caller,
                Err(status) => return Ok(status.into_http()),
            };
            let longest = caller.role.longest_request();
            request.extensions_mut().insert(caller);
            AggregatedDiscoveryServiceServer::from_arc(discovery)
                .max_decoding_message_size(longest)
                .call(request)
                .await
        }
        .boxed()
    }
}
