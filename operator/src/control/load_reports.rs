//! Load reports of waypoints.

use std::sync::Arc;

use ambit_wire::waypoint::waypoint_server::Waypoint;
use ambit_wire::waypoint::{Load, LoadAck};
use futures::stream::{self, BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use super::Shared;
use super::auth::Caller;
use super::ending::until;
use super::loads::LoadStream;
use super::refusal::Reason;

const WHAT: &str = "load reports";

/// `Waypoint`: the load of waypoints.
pub(super) struct LoadReports(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Waypoint for LoadReports {
    type ReportStream = BoxStream<'static, Result<LoadAck, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<Load>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let caller = self
            .0
            .caller(request.metadata(), request.extensions(), WHAT)
            .await?;
        let Some((namespace, name)) = caller.waypoint() else {
            let message = format!("a client of type {} may not report load", caller.role.label());
            return Err(caller
                .refuse(Reason::NotAllowed, message)
                .record(&self.0.metrics, WHAT));
        };
        info!(%caller, waypoint = name, peer = ?caller.addresses.peer, "load stream opened");
        let ending = self.0.ending(&caller);
        let session = Session {
            load: self.0.loads.stream(namespace, name, &caller.pod.uid),
            caller,
            reports: Some(request.into_inner()),
            shutdown: self.0.shutdown.clone(),
        };
        let acks = stream::unfold(session, |mut session| async move {
            Some((session.next().await?, session))
        });
        Ok(Response::new(until(acks, ending)))
    }
}

/// One replica's stream.
struct Session {
    caller: Caller,
    load: LoadStream,
    /// `None` after the stream has ended.
    reports: Option<Streaming<Load>>,
    shutdown: CancellationToken,
}

impl Session {
    async fn next(&mut self) -> Option<Result<LoadAck, Status>> {
        let reports = self.reports.as_mut()?;
        let next = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(Status::unavailable("the control plane is shutting down")),
            report = reports.message() => match report {
                Ok(Some(load)) => Ok(LoadAck {
                    excess_milli: self.load.report(&load),
                }),
                Ok(None) => return None,
                Err(status) => {
                    debug!(caller = %self.caller, %status, "load stream lost");
                    return None;
                }
            },
        };
        if next.is_err() {
            self.reports = None;
        }
        Some(next)
    }
}
