//! Pods that the operator names no more while they are still on the node.

use crate::harness::{Agent, Node, Pod};
use crate::ztunnel::{Held, Ztunnel, read_text};
use ambit_agent::capture::{AdmissionRequest, ControlEvent, Leaving, Reason};
use ambit_agent::snapshot::{SandboxRecord, Snapshot};
use ambit_wire::agent::{CaptureState, NodeConfig};

fn gone(agent: &Agent, pod: &Pod) {
    agent
        .handle
        .control(ControlEvent::PodsGone(vec![pod.uid.clone()]));
}

/// A node with one captured pod, "a".
async fn captured(pod: &Pod) -> (Node, Agent, Ztunnel) {
    let node = Node::new(&[pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(pod, CaptureState::Captured).await;
    (node, agent, ztunnel)
}

fn nothing_is_left(snapshot: &Snapshot) -> bool {
    snapshot.pods.is_empty() && snapshot.sandboxes.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_named_no_more_stays_captured_until_its_sandbox_ends() {
    let (pod, other) = (Pod::new("a"), Pod::new("b"));
    let (node, agent, mut ztunnel) = captured(&pod).await;
    node.sandboxes.add(&other);
    // Deleted by force: its containers still run.
    gone(&agent, &pod);
    agent.handle.control(ControlEvent::Pods(vec![other.record(true)]));
    ztunnel.until(|ztunnel| ztunnel.pods.contains_key("b")).await;
    agent.reaches(&other, CaptureState::Captured).await;
    assert!(pod.ruleset().contains("tproxy to :15001"));
    assert_eq!(ztunnel.removed, []);
    let mut client = pod.connect().expect("redirected");
    ztunnel.answer_one("a", "still");
    assert_eq!(read_text(&mut client, 5), "still");
    assert!(
        !agent.reports.subscribe().borrow().pods.contains_key("a"),
        "there is nothing to write a report on"
    );

    agent.handle.sandbox_gone(Some("a".into()), "sandbox-a".into());
    ztunnel.until(|ztunnel| !ztunnel.removed.is_empty()).await;
    assert_eq!(
        (ztunnel.removed[0].uid.as_str(), ztunnel.removed[0].force),
        ("a", true)
    );
    agent
        .keeps(|snapshot| snapshot.pods.len() == 1 && snapshot.sandboxes.len() == 1)
        .await;
    assert_eq!(pod.output("ss", &["-Htln"]), "", "nobody holds a listener");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_named_again_is_as_the_operator_says() {
    let pod = Pod::new("a");
    let (_node, agent, mut ztunnel) = captured(&pod).await;
    gone(&agent, &pod);
    agent.handle.control(ControlEvent::Pods(vec![pod.record(true)]));
    agent.reaches(&pod, CaptureState::Captured).await;
    assert_eq!(ztunnel.removed, []);
    gone(&agent, &pod);
    agent.handle.control(ControlEvent::Pods(vec![pod.record(false)]));
    ztunnel.until(|ztunnel| !ztunnel.removed.is_empty()).await;
    agent.reaches(&pod, CaptureState::Released).await;
    assert_eq!(pod.ruleset(), "");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstallation_releases_pods_that_nobody_names() {
    let pod = Pod::new("a");
    let (_node, agent, mut ztunnel) = captured(&pod).await;
    gone(&agent, &pod);
    agent.handle.control(ControlEvent::Node(NodeConfig {
        uninstall: true,
        ..Default::default()
    }));
    ztunnel.until(|ztunnel| !ztunnel.removed.is_empty()).await;
    let mut leaving = agent.leaving.clone();
    leaving
        .wait_for(|leaving| *leaving == Leaving::Released)
        .await
        .expect("the agent runs");
    assert_eq!(pod.ruleset(), "");
    agent.keeps(nothing_is_left).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_sandbox_ended_first_is_forgotten() {
    let pod = Pod::new("a");
    let (node, agent, mut ztunnel) = captured(&pod).await;
    node.sandboxes.remove("a");
    agent.handle.sandbox_gone(Some("a".into()), "sandbox-a".into());
    gone(&agent, &pod);
    ztunnel.until(|ztunnel| !ztunnel.removed.is_empty()).await;
    agent.keeps(nothing_is_left).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ended_while_the_agent_was_away_is_forgotten() {
    let pod = Pod::new("a");
    let (node, agent, ztunnel) = captured(&pod).await;
    let snapshot = agent.stop().await;
    node.sandboxes.remove("a");
    drop((ztunnel.die(), pod));

    let agent = node.agent(&snapshot);
    agent.tell(vec![]);
    agent.keeps(nothing_is_left).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_keeps_a_pod_that_nobody_names() {
    let pod = Pod::new("a");
    let (node, agent, ztunnel) = captured(&pod).await;
    gone(&agent, &pod);
    let snapshot = agent.stop().await;
    // Nobody brings the listeners: they are made again, for who the pod is said to be on disk.
    drop(ztunnel.die());
    let agent = node.agent(&snapshot);
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![]);
    ztunnel.serves("a").await;
    assert_eq!(ztunnel.pods["a"].0.service_account, "web");
    let mut client = pod.connect().expect("redirected");
    ztunnel.answer_one("a", "ok");
    assert_eq!(read_text(&mut client, 2), "ok");
    agent.stop().await;
}

/// On one thread, so that time can be stopped: it goes on as soon as nobody has anything to do.
#[tokio::test]
async fn a_sandbox_whose_end_was_missed_is_let_go() {
    let pod = Pod::new("a");
    let (node, agent, mut ztunnel) = captured(&pod).await;
    node.sandboxes.remove("a");
    tokio::time::pause();
    gone(&agent, &pod);
    ztunnel.until(|ztunnel| !ztunnel.removed.is_empty()).await;
    assert!(ztunnel.removed[0].force, "its end, and no release");
    // A look at its rules may be under way, on a thread that no stopped clock waits for.
    tokio::time::resume();
    agent.keeps(nothing_is_left).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_under_way_fails_when_its_pod_is_named_no_more_and_ends() {
    let pod = Pod::new("a");
    let node = Node::new(&[]);
    let agent = node.agent(&Snapshot::default());
    agent.tell(vec![pod.record(true)]);
    let request = AdmissionRequest {
        uid: "a".into(),
        namespace: "shop".into(),
        name: "web".into(),
        sandbox: SandboxRecord {
            sandbox_id: "sandbox-a".into(),
            netns_path: pod.path.clone(),
            netns_inode: pod.netns.inode(),
            addresses: vec![],
        },
    };
    let handle = agent.handle.clone();
    let add = tokio::spawn(async move { handle.admit(request).await });
    agent
        .reports_that(&pod, |report| report.reason == "NoZtunnel")
        .await;
    gone(&agent, &pod);
    agent.handle.sandbox_gone(Some("a".into()), "sandbox-a".into());
    let failure = add
        .await
        .expect("answered")
        .expect_err("it is not to start outside the mesh");
    assert_eq!(failure.reason, Reason::PodUnknown);
    agent.stop().await;
}
