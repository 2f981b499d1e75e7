//! Load watches of the operator.

use std::sync::Arc;

use ambit_wire::loads::loads_server::Loads;
use ambit_wire::loads::{Changes, SpreadRequest, SpreadResponse, WatchRequest};
use futures::stream::{self, BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::info;

use super::Shared;
use super::auth::Caller;
use super::ending::until;
use super::loads::LoadWatch;
use super::refusal::Reason;
use super::role::Role;

const WHAT: &str = "load watch";

/// `Loads`: the reports that this replica has from waypoints, for the operator.
pub(super) struct LoadWatches(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Loads for LoadWatches {
    type WatchStream = BoxStream<'static, Result<Changes, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let shared = &self.0;
        let caller = self.operator(&request).await?;
        let Some(watch) = shared.loads.watch() else {
            let refusal = caller.refuse(Reason::Limit, "too many watches are open".to_owned());
            return Err(refusal.record(&shared.metrics, WHAT));
        };
        info!(%caller, peer = ?caller.addresses.peer, "load watch opened");
        let session = Session {
            watch: Some(watch),
            shutdown: shared.shutdown.clone(),
        };
        let changes = stream::unfold(session, |mut session| async move {
            Some((session.next().await?, session))
        });
        Ok(Response::new(until(changes, shared.ending(&caller))))
    }

    async fn spread(&self, request: Request<SpreadRequest>) -> Result<Response<SpreadResponse>, Status> {
        self.operator(&request).await?;
        let replicas = request.into_inner().replicas.into_iter();
        self.0
            .loads
            .spread(replicas.map(|replica| (replica.uid, replica.in_flight_milli)));
        Ok(Response::new(SpreadResponse {}))
    }
}

impl LoadWatches {
    /// The caller, which must be the operator.
    async fn operator<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let shared = &self.0;
        let caller = shared
            .caller(request.metadata(), request.extensions(), WHAT)
            .await?;
        if caller.role == Role::Operator {
            return Ok(caller);
        }
        let message = format!("a client of type {} may not watch loads", caller.role.label());
        Err(caller
            .refuse(Reason::NotAllowed, message)
            .record(&shared.metrics, WHAT))
    }
}

struct Session {
    /// `None` after the stream has ended.
    watch: Option<LoadWatch>,
    shutdown: CancellationToken,
}

impl Session {
    async fn next(&mut self) -> Option<Result<Changes, Status>> {
        let watch = self.watch.as_mut()?;
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {
                self.watch = None;
                Some(Err(Status::unavailable("the control plane is shutting down")))
            }
            replicas = watch.next() => Some(Ok(Changes { replicas })),
        }
    }
}
