//! Reports of this replica's load to the control plane: the operator scales by them.

use std::sync::Arc;
use std::time::Duration;

use ambit_wire::control_channel::TokenFile;
use ambit_wire::waypoint as wire;
use ambit_wire::waypoint::waypoint_client::WaypointClient;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::observe::Load;

const INTERVAL: Duration = Duration::from_secs(1);
/// Pause before a stream is opened again: over a new connection, which may reach another replica.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Time for the control plane to accept the stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a channel to the control plane with a TCP connection of its own.
pub(crate) type Dial = Arc<dyn Fn() -> Channel + Send + Sync>;

/// Reports every second, and at once when draining begins.
pub(crate) struct Reporter {
    pub(crate) dial: Dial,
    pub(crate) token: TokenFile,
    pub(crate) load: Arc<Load>,
    pub(crate) draining: CancellationToken,
}

impl Reporter {
    /// Runs until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut pause = PAUSE;
        loop {
            let mut accepted = false;
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.stream(&mut accepted) => ended,
            };
            if accepted {
                pause = PAUSE;
            }
            tracing::info!(code = ?ended.code(), error = ended.message(), retry_in = ?pause, "load reports cannot be sent");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One stream, until it ends.
    async fn stream(&self, accepted: &mut bool) -> Status {
        let mut client = WaypointClient::with_interceptor((self.dial)(), self.token.clone());
        let (reports, outgoing) = mpsc::channel(2);
        if reports.try_send(self.report()).is_err() {
            return Status::internal("the stream ended before it began");
        }
        let call = client.report(ReceiverStream::new(outgoing));
        let mut acknowledgements = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("the control plane did not accept the stream"),
        };
        let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = self.draining.is_cancelled();
        loop {
            tokio::select! {
                acknowledgement = acknowledgements.message() => match acknowledgement {
                    Ok(Some(acknowledgement)) => {
                        *accepted = true;
                        self.load.excess().set(acknowledgement.excess_milli);
                        continue;
                    }
                    Ok(None) => return Status::unavailable("the control plane ended the stream"),
                    Err(status) => return status,
                },
                () = self.draining.cancelled(), if !told => told = true,
                _ = interval.tick() => {}
            }
            if reports.try_send(self.report()).is_err() {
                return Status::unavailable("the control plane no longer accepts reports");
            }
        }
    }

    fn report(&self) -> wire::Load {
        let sample = self.load.sample();
        wire::Load {
            in_flight_milli: sample.in_flight_milli,
            requests: sample.requests,
            connections: sample.connections,
            draining: self.draining.is_cancelled(),
        }
    }
}

#[cfg(test)]
mod tests;
