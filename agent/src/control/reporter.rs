//! The stream of reports to the control plane.

use crate::capture::Handle;
use crate::report::{Reports, State};
use ambit_wire::TokenFile;
use ambit_wire::agent::capture_report::What;
use ambit_wire::agent::node_agent_client::NodeAgentClient;
use ambit_wire::agent::{CaptureAck, CaptureReport, NodeState};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(5);
/// The pause before a report that could not be recorded is sent again.
const REPEAT: Duration = Duration::from_secs(2);
/// The maximum of reports in flight.
const IN_FLIGHT: usize = 64;

/// Sends reports until it is stopped.
#[derive(Debug)]
pub struct Reporter {
    client: NodeAgentClient<InterceptedService<Channel, TokenFile>>,
    reports: Reports,
    manager: Handle,
}

/// The subject of a report: the UID of a pod, or the node.
type Subject = Option<String>;

/// The reports that one stream has sent.
#[derive(Debug, Default)]
struct Sent {
    sequence: u64,
    /// By sequence number: the subject, and the state of the pod.
    waiting: BTreeMap<u64, (Subject, i32)>,
    /// The version of each report that was sent.
    pods: BTreeMap<String, u64>,
    node: Option<NodeState>,
}

impl Reporter {
    /// A reporter over `channel`.
    pub fn new(channel: Channel, token: TokenFile, reports: Reports, manager: Handle) -> Self {
        Self {
            client: NodeAgentClient::with_interceptor(channel, token),
            reports,
            manager,
        }
    }

    /// Keeps a stream open until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut delay = FIRST_DELAY;
        loop {
            let mut answered = false;
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.stream(&mut answered) => ended,
            };
            delay = if answered {
                FIRST_DELAY
            } else {
                (delay * 2).min(LAST_DELAY)
            };
            tracing::warn!(error = ended.message(), code = ?ended.code(), retry_in = ?delay, "reports \
                 cannot be sent to the control plane");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Runs one stream, which begins with the whole state.
    async fn stream(&self, answered: &mut bool) -> Status {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let mut state = self.reports.subscribe();
        let mut sent = Sent::default();
        let mut client = self.client.clone();
        let open = client.report(ReceiverStream::new(receiver));
        tokio::pin!(open);
        // The server may respond only after the first report.
        let mut acks = loop {
            tokio::select! {
                opened = &mut open => match opened {
                    Ok(response) => break response.into_inner(),
                    Err(status) => return status,
                },
                outcome = send_changes(&mut state, &mut sent, &sender) => if let Err(status) = outcome { return status },
            }
        };
        let mut repeat = tokio::time::interval(REPEAT);
        let mut failed = vec![];
        loop {
            tokio::select! {
                ack = acks.message() => match ack {
                    Ok(Some(ack)) => {
                        *answered = true;
                        failed.extend(self.on_ack(&mut sent, &ack));
                    }
                    Ok(None) => return Status::unavailable("the control plane ended the stream"),
                    Err(status) => return status,
                },
                outcome = send_changes(&mut state, &mut sent, &sender) => if let Err(status) = outcome { return status },
                _ = repeat.tick(), if !failed.is_empty() => {
                    for subject in failed.drain(..) {
                        match subject {
                            Some(uid) => _ = sent.pods.remove(&uid),
                            None => sent.node = None,
                        }
                    }
                    state.mark_changed();
                }
            }
        }
    }

    /// The subject that has to be sent again, if any.
    fn on_ack(&self, sent: &mut Sent, ack: &CaptureAck) -> Option<Subject> {
        let (subject, state) = sent.waiting.remove(&ack.sequence)?;
        if !ack.error.is_empty() {
            tracing::warn!(
                pod.uid = subject,
                error = ack.error,
                "the control plane could not record a report; will send it again"
            );
            return Some(subject);
        }
        if let Some(uid) = subject {
            self.manager.reported(uid, state);
        }
        None
    }
}

/// Waits for a change, and sends the reports that differ from those that were sent. Cancel-safe: a report is recorded
/// when sent.
async fn send_changes(
    state: &mut watch::Receiver<State>,
    sent: &mut Sent,
    sender: &mpsc::Sender<CaptureReport>,
) -> Result<(), Status> {
    loop {
        // Reserves room first: after that, nothing waits until the report is recorded as sent.
        let permit = sender
            .reserve()
            .await
            .map_err(|_| Status::unavailable("the stream has ended"))?;
        let Some((what, subject, noted)) = next(&state.borrow_and_update(), sent) else {
            drop(permit);
            return state
                .changed()
                .await
                .map_err(|_| Status::cancelled("the agent is stopping"));
        };
        sent.sequence += 1;
        sent.waiting.insert(sent.sequence, (subject, noted));
        permit.send(CaptureReport {
            sequence: sent.sequence,
            what: Some(what),
        });
    }
}

/// The next report that was not sent in its current version; records it as sent.
fn next(state: &State, sent: &mut Sent) -> Option<(What, Subject, i32)> {
    sent.pods.retain(|uid, _| state.pods.contains_key(uid));
    let unsent = state
        .pods
        .iter()
        .find(|(uid, (version, _))| sent.pods.get(*uid) != Some(version));
    if let Some((uid, (version, report))) = unsent {
        sent.pods.insert(uid.clone(), *version);
        return Some((What::Pod(report.clone()), Some(uid.clone()), report.state));
    }
    if state.node == NodeState::Unspecified || sent.node == Some(state.node) {
        return None;
    }
    sent.node = Some(state.node);
    Some((What::Node(state.node.into()), None, state.node.into()))
}
