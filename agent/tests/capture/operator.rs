//! What the operator says and is told, over the types of the wire.

use crate::harness::{Agent, Node, PATIENCE, Pod};
use crate::ztunnel::{Held, Ztunnel, read_text};
use ambit_agent::capture::{Admission, AdmissionRequest, ControlEvent, Leaving};
use ambit_agent::control::{Reporter, Updates};
use ambit_agent::snapshot::{SandboxRecord, Snapshot};
use ambit_wire::TokenFile;
use ambit_wire::agent::capture_report::What;
use ambit_wire::agent::node_agent_server::{NodeAgent, NodeAgentServer};
use ambit_wire::agent::{CaptureAck, CaptureReport, CaptureState, EnrolledNamespace, NodeConfig, NodeState};
use ambit_wire::names::{TYPE_ENROLLED_NAMESPACE, TYPE_NODE_CONFIG, TYPE_POD_CAPTURE};
use ambit_wire::xds::{Batch, Handler, Resource};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

fn resource(name: &str, message: &impl Message) -> Resource {
    Resource {
        name: name.into(),
        version: "1".into(),
        bytes: message.encode_to_vec(),
    }
}

fn batch(type_url: &str, added: Vec<Resource>) -> Batch {
    Batch {
        type_url: type_url.into(),
        added,
        removed: vec![],
        complete: true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_over_xds_captures_and_what_is_missing_stays_as_it_is() {
    let (pod, gone) = (Pod::new("a"), Pod::new("b"));
    let node = Node::new(&[&pod, &gone]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![gone.record(true)]);
    ztunnel.serves("b").await;
    agent.reaches(&gone, CaptureState::Captured).await;
    let snapshot = agent.stop().await;

    let agent = node.agent(&snapshot);
    let mut ztunnel = Ztunnel::connect(&node, ztunnel.die()).await;
    ztunnel.serves("b").await;
    let mut updates = Updates::new(agent.handle.clone());
    let namespace = EnrolledNamespace { name: "shop".into() };
    assert_eq!(
        updates
            .apply(batch(TYPE_ENROLLED_NAMESPACE, vec![resource("shop", &namespace)]))
            .await,
        []
    );
    let added = vec![
        resource("a", &pod.record(true)),
        resource("another-name", &pod.record(true)),
    ];
    let rejected = updates.apply(batch(TYPE_POD_CAPTURE, added)).await;
    assert_eq!(
        rejected.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
        ["another-name"]
    );
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    // The whole truth does not have it, and its sandbox is still there.
    assert!(gone.ruleset().contains("tproxy to :15001"));
    assert_eq!(ztunnel.removed, []);
    let mut client = gone.connect().expect("redirected");
    ztunnel.answer_one("b", "b");
    assert_eq!(read_text(&mut client, 1), "b");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstallation_releases_every_pod_and_lets_new_ones_start() {
    let (pod, other) = (Pod::new("a"), Pod::new("b"));
    let node = Node::new(&[&pod, &other]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true), other.record(true)]);
    ztunnel.serves("a").await;
    ztunnel.serves("b").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    agent.reaches(&other, CaptureState::Captured).await;

    let config = NodeConfig {
        uninstall: true,
        drain_deadline_seconds: 5,
        ..Default::default()
    };
    let mut updates = Updates::new(agent.handle.clone());
    updates
        .apply(batch(TYPE_NODE_CONFIG, vec![resource("node", &config)]))
        .await;
    ztunnel.until(|ztunnel| ztunnel.removed.len() == 2).await;
    let mut leaving = agent.leaving.clone();
    let waited = tokio::time::timeout(
        PATIENCE,
        leaving.wait_for(|leaving| *leaving == Leaving::Released),
    )
    .await;
    waited.expect("in time").expect("the agent runs");
    assert_eq!((pod.ruleset(), other.ruleset()), (String::new(), String::new()));

    let sandbox = SandboxRecord {
        sandbox_id: "s".into(),
        netns_path: pod.path.clone(),
        netns_inode: pod.netns.inode(),
        addresses: vec![],
    };
    let request = AdmissionRequest {
        uid: "a".into(),
        namespace: "shop".into(),
        name: "web".into(),
        sandbox,
    };
    assert_eq!(agent.handle.admit(request).await, Ok(Admission::NotCaptured));
    agent.stop().await;
}

/// Hands each report to the test, and answers as the test says.
struct Operator {
    reports: mpsc::UnboundedSender<(CaptureReport, mpsc::UnboundedSender<CaptureAck>)>,
}

#[tonic::async_trait]
impl NodeAgent for Operator {
    type ReportStream = BoxStream<'static, Result<CaptureAck, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<CaptureReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let (acks, answers) = mpsc::unbounded_channel();
        let reports = self.reports.clone();
        let mut stream = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(report)) = stream.next().await {
                if reports.send((report, acks.clone())).is_err() {
                    return;
                }
            }
        });
        let answers = tokio_stream::wrappers::UnboundedReceiverStream::new(answers);
        Ok(Response::new(answers.map(Ok).boxed()))
    }
}

struct Reporting {
    received: mpsc::UnboundedReceiver<(CaptureReport, mpsc::UnboundedSender<CaptureAck>)>,
    stop: CancellationToken,
    _token: tempfile::NamedTempFile,
}

impl Reporting {
    async fn start(agent: &Agent) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound");
        let (reports, received) = mpsc::unbounded_channel();
        let server = Server::builder().add_service(NodeAgentServer::new(Operator { reports }));
        let stop = CancellationToken::new();
        tokio::spawn(
            server.serve_with_incoming_shutdown(
                TcpListenerStream::new(listener),
                stop.clone().cancelled_owned(),
            ),
        );
        let token = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(token.path(), "token").expect("written");
        let channel = Endpoint::try_from(format!("http://{address}"))
            .expect("an address")
            .connect_lazy();
        let reporter = Reporter::new(
            channel,
            TokenFile::new(token.path()),
            agent.reports.clone(),
            agent.handle.clone(),
        );
        tokio::spawn(reporter.run(stop.clone()));
        Self {
            received,
            stop,
            _token: token,
        }
    }

    async fn next(&mut self) -> (CaptureReport, mpsc::UnboundedSender<CaptureAck>) {
        let next = tokio::time::timeout(PATIENCE, self.received.recv()).await;
        next.expect("a report in time").expect("the operator runs")
    }
}

fn pod_state(report: &CaptureReport) -> Option<CaptureState> {
    match &report.what {
        Some(What::Pod(pod)) => Some(pod.state()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_begin_with_the_whole_state_and_are_repeated_until_recorded() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    agent.reports.set_node(NodeState::Installed);

    let mut operator = Reporting::start(&agent).await;
    let (first, acks) = operator.next().await;
    assert_eq!(
        (first.sequence, pod_state(&first)),
        (1, Some(CaptureState::Captured))
    );
    let (second, _) = operator.next().await;
    assert_eq!(second.what, Some(What::Node(NodeState::Installed.into())));

    let refused = CaptureAck {
        sequence: first.sequence,
        error: "the API server does not answer".into(),
    };
    acks.send(refused).expect("sent");
    let (again, _) = operator.next().await;
    assert_eq!((again.sequence, &again.what), (3, &first.what));

    agent.handle.control(ControlEvent::Pods(vec![pod.record(false)]));
    let (releasing, acks) = operator.next().await;
    assert_eq!(pod_state(&releasing), Some(CaptureState::Releasing));
    acks.send(CaptureAck {
        sequence: releasing.sequence,
        error: String::new(),
    })
    .expect("sent");
    ztunnel.until(|ztunnel| !ztunnel.removed.is_empty()).await;
    while pod_state(&operator.next().await.0) != Some(CaptureState::Released) {}
    operator.stop.cancel();
    agent.stop().await;
}
