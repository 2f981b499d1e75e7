use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ambit_wire::agent::node_agent_server::NodeAgent;
use ambit_wire::agent::{
    CaptureAck, CaptureReport, CaptureState, NodeState, PodReport, capture_report::What,
};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, FuturesUnordered};
use futures::{FutureExt as _, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::Shared;
use super::auth::Caller;
use super::ending::until;
use super::refusal::Reason;
use super::role::Role;

const WHAT: &str = "capture reports";
/// Records written at once for one agent.
const AT_ONCE: usize = 32;
/// Reports of one agent waiting to be recorded; more are not read until there is room.
const WAITING: usize = 1024;

/// `NodeAgent`: reports of agents, which are recorded as annotations of pods.
pub(super) struct Reports(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl NodeAgent for Reports {
    type ReportStream = BoxStream<'static, Result<CaptureAck, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<CaptureReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let caller = self
            .0
            .caller(request.metadata(), request.extensions(), WHAT)
            .await?;
        if caller.role != Role::Agent {
            let message = format!("a client of type {} may not report captures", caller.role.label());
            return Err(caller
                .refuse(Reason::NotAllowed, message)
                .record(&self.0.metrics, WHAT));
        }
        info!(%caller, peer = ?caller.addresses.peer, "report stream opened");
        let ending = self.0.ending(&caller);
        let session = Session {
            shutdown: self.0.shutdown.clone(),
            recorder: Arc::new(Recorder {
                shared: Arc::clone(&self.0),
                caller,
            }),
            reports: Some(request.into_inner()),
            queues: HashMap::new(),
            waiting: 0,
            under_way: FuturesUnordered::new(),
        };
        let acks = stream::unfold(session, |mut session| async move {
            Some((session.next().await?, session))
        });
        Ok(Response::new(until(acks, ending)))
    }
}

/// One agent's stream. Reports about one pod are recorded in order, those about different pods at once.
struct Session {
    recorder: Arc<Recorder>,
    shutdown: CancellationToken,
    /// `None` once the agent has ended its side, or the stream has failed.
    reports: Option<Streaming<CaptureReport>>,
    /// By pod UID (empty: the node); present while a record is in progress.
    queues: HashMap<String, VecDeque<CaptureReport>>,
    waiting: usize,
    under_way: FuturesUnordered<BoxFuture<'static, (String, CaptureAck)>>,
}

impl Session {
    async fn next(&mut self) -> Option<Result<CaptureAck, Status>> {
        loop {
            if self.reports.is_none() && self.under_way.is_empty() {
                return None;
            }
            let room = self.waiting < WAITING && self.under_way.len() < AT_ONCE;
            let reading = room && self.reports.is_some() && !self.shutdown.is_cancelled();
            let idle = self.reports.is_some() && self.under_way.is_empty();
            tokio::select! {
                biased;
                Some((key, ack)) = self.under_way.next() => {
                    self.start_next(key);
                    return Some(Ok(ack));
                }
                () = self.shutdown.cancelled(), if idle => {
                    self.reports = None;
                    return Some(Err(Status::unavailable("the control plane is shutting down")));
                }
                report = read(&mut self.reports), if reading => match report {
                    Ok(Some(report)) => self.take(report),
                    Ok(None) => self.reports = None,
                    Err(status) => {
                        debug!(caller = %self.recorder.caller, %status, "report stream lost");
                        return None;
                    }
                },
            }
        }
    }

    fn take(&mut self, report: CaptureReport) {
        let key = match &report.what {
            Some(What::Pod(pod)) => pod.uid.clone(),
            _ => String::new(),
        };
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.push_back(report);
            self.waiting += 1;
        } else {
            self.queues.insert(key.clone(), VecDeque::new());
            self.start(key, report);
        }
    }

    fn start(&mut self, key: String, report: CaptureReport) {
        let recorder = Arc::clone(&self.recorder);
        self.under_way
            .push(async move { (key, recorder.record(report).await) }.boxed());
    }

    fn start_next(&mut self, key: String) {
        match self.queues.get_mut(&key).and_then(VecDeque::pop_front) {
            Some(report) => {
                self.waiting -= 1;
                self.start(key, report);
            }
            None => {
                self.queues.remove(&key);
            }
        }
    }
}

async fn read(reports: &mut Option<Streaming<CaptureReport>>) -> Result<Option<CaptureReport>, Status> {
    match reports {
        Some(reports) => reports.message().await,
        None => Ok(None),
    }
}

struct Recorder {
    shared: Arc<Shared>,
    caller: Caller,
}

impl Recorder {
    async fn record(&self, report: CaptureReport) -> CaptureAck {
        let recorded = match &report.what {
            Some(What::Pod(pod)) => self.record_pod(pod).await,
            Some(What::Node(state)) => {
                let (agent, state) = (
                    self.caller.agent_pod(),
                    NodeState::try_from(*state).unwrap_or_default(),
                );
                self.shared
                    .sink
                    .record_node(&agent, state)
                    .await
                    .map_err(|e| e.to_string())
            }
            None => Err("the report has no content".to_owned()),
        };
        self.shared.metrics.reported(recorded.is_ok());
        let error = recorded.err().unwrap_or_default();
        if !error.is_empty() {
            warn!(caller = %self.caller, sequence = report.sequence, error, "report not recorded");
        }
        CaptureAck {
            sequence: report.sequence,
            error,
        }
    }

    async fn record_pod(&self, report: &PodReport) -> Result<(), String> {
        let (shared, uid) = (&self.shared, &report.uid);
        let find = || shared.directory.pod(uid);
        let pod = match report.state() {
            // A deleted pod has nothing to record.
            CaptureState::Releasing | CaptureState::Released => match find() {
                Some(pod) => pod,
                None => return Ok(()),
            },
            _ => {
                let pod = shared.find_or_wait(self.caller.node(), find).await;
                pod.ok_or_else(|| format!("the control plane has no pod {uid}"))?
            }
        };
        if pod.node != self.caller.node() {
            let message = format!("pod {}/{} runs on node {:?}", pod.namespace, pod.name, pod.node);
            let status = self
                .caller
                .refuse(Reason::NotOnNode, message)
                .record(&shared.metrics, WHAT);
            return Err(status.message().to_owned());
        }
        debug!(caller = %self.caller, pod = %pod.name, namespace = %pod.namespace, state = ?report.state(), "report");
        shared
            .sink
            .record_pod(&pod, report)
            .await
            .map_err(|e| e.to_string())
    }
}
