//! CNI calls.

use crate::harness::{Node, Pod};
use crate::ztunnel::{Held, Ztunnel};
use ambit_agent::capture::{Admission, AdmissionRequest, ControlEvent, Reason};
use ambit_agent::snapshot::{SandboxRecord, Snapshot};
use ambit_wire::agent::{CaptureState, NodeConfig};

fn request(pod: &Pod) -> AdmissionRequest {
    let sandbox = SandboxRecord {
        sandbox_id: format!("sandbox-{}", pod.uid),
        netns_path: pod.path.clone(),
        netns_inode: pod.netns.inode(),
        addresses: vec!["10.0.1.9".into()],
    };
    AdmissionRequest {
        uid: pod.uid.clone(),
        namespace: "shop".into(),
        name: "web".into(),
        sandbox,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pod_starts_once_its_rules_are_in_force() {
    let pod = Pod::new("a");
    // The runtime does not list the sandbox while its network is being made.
    let node = Node::new(&[]);
    let agent = node.agent(&Snapshot::default());
    let mut record = pod.record(true);
    record.addresses.clear();
    agent.tell(vec![record]);
    agent
        .reports_that(&pod, |report| report.reason == "SandboxNotFound")
        .await;
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    let handle = agent.handle.clone();
    let add = tokio::spawn({
        let request = request(&pod);
        async move { handle.admit(request).await }
    });
    ztunnel.serves("a").await;
    assert_eq!(add.await.expect("answered"), Ok(Admission::Captured));
    assert!(pod.ruleset().contains("tproxy to :15001"));
    assert_eq!(
        ztunnel.pods["a"].0.addresses,
        ["10.0.1.9"],
        "from the call: the operator does not know them yet"
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_operator_names_later_waits_for_it() {
    let pod = Pod::new("a");
    let node = Node::new(&[]);
    let agent = node.agent(&Snapshot::default());
    agent.tell(vec![]);
    let handle = agent.handle.clone();
    let add = tokio::spawn({
        let request = request(&pod);
        async move { handle.admit(request).await }
    });
    agent.handle.control(ControlEvent::Pods(vec![pod.record(false)]));
    assert_eq!(add.await.expect("answered"), Ok(Admission::NotCaptured));
    agent.stop().await;
}

/// The runtime may call again before the first call has its answer; both are of one sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_is_answered_as_the_first_one() {
    let pod = Pod::new("a");
    let node = Node::new(&[]);
    let agent = node.agent(&Snapshot::default());
    agent.tell(vec![]);
    let mut first = Box::pin(agent.handle.admit(request(&pod)));
    let mut second = Box::pin(agent.handle.admit(request(&pod)));
    for call in [&mut first, &mut second] {
        assert!(futures::poll!(call).is_pending());
    }
    agent.handle.control(ControlEvent::Pods(vec![pod.record(true)]));
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    let serving = ztunnel.serves("a");
    let (first, second, ()) = tokio::join!(first, second, serving);
    assert_eq!(
        (first, second),
        (Ok(Admission::Captured), Ok(Admission::Captured))
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_operator_enrolled_namespaces_wait_and_others_start() {
    let pod = Pod::new("a");
    let node = Node::new(&[]);
    let snapshot = Snapshot {
        enrolled_namespaces: vec!["shop".into()],
        ..Default::default()
    };
    let agent = node.agent(&snapshot);
    let failure = agent
        .handle
        .admit(request(&pod))
        .await
        .expect_err("not outside the mesh");
    assert_eq!(failure.reason, Reason::PodUnknown);
    assert!(failure.message.contains("shop"), "{failure}");
    let elsewhere = AdmissionRequest {
        namespace: "other".into(),
        ..request(&pod)
    };
    assert_eq!(agent.handle.admit(elsewhere).await, Ok(Admission::NotCaptured));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_never_told_anything_starts_no_pod() {
    let pod = Pod::new("a");
    let node = Node::new(&[]);
    let agent = node.first_agent();
    agent.handle.control(ControlEvent::Connected(false));
    let failure = agent
        .handle
        .admit(request(&pod))
        .await
        .expect_err("its namespace may be enrolled");
    assert_eq!(failure.reason, Reason::PodUnknown);
    assert!(failure.message.contains("never sent"), "{failure}");
    let snapshot = agent.stop().await;
    assert_eq!(
        snapshot,
        Snapshot::default(),
        "the next agent is not to take it for an operator's word"
    );

    // Told that there is nothing.
    let agent = node.first_agent();
    agent.tell(vec![]);
    agent
        .keeps(|snapshot| snapshot.enrolled_namespaces == ["shop"])
        .await;
    let snapshot = agent.stop().await;
    let agent = node.agent(&snapshot);
    let elsewhere = AdmissionRequest {
        namespace: "other".into(),
        ..request(&pod)
    };
    assert_eq!(agent.handle.admit(elsewhere).await, Ok(Admission::NotCaptured));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_agents_calls_wait_for_the_operator() {
    let pod = Pod::new("a");
    let node = Node::new(&[]);
    let agent = node.first_agent();
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    let handle = agent.handle.clone();
    let mut add = std::pin::pin!(handle.admit(request(&pod)));
    let mut other = std::pin::pin!(handle.admit(AdmissionRequest {
        uid: "b".into(),
        ..request(&pod)
    }));
    assert!(futures::poll!(&mut add).is_pending() && futures::poll!(&mut other).is_pending());
    agent.handle.control(ControlEvent::Connected(false));
    agent.handle.control(ControlEvent::Connected(true));
    agent.handle.control(ControlEvent::Pods(vec![pod.record(true)]));
    ztunnel.serves("a").await;
    assert_eq!(add.await, Ok(Admission::Captured));
    // The mesh is going: nobody is held up.
    agent.handle.control(ControlEvent::Node(NodeConfig {
        uninstall: true,
        ..Default::default()
    }));
    assert_eq!(other.await, Ok(Admission::NotCaptured));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ztunnel_the_call_fails_with_that_reason() {
    let pod = Pod::new("a");
    let node = Node::new(&[]);
    let agent = node.agent(&Snapshot::default());
    agent.tell(vec![pod.record(true)]);
    let failure = agent
        .handle
        .admit(request(&pod))
        .await
        .expect_err("nobody serves it");
    assert_eq!(failure.reason, Reason::NoZtunnel);
    assert_eq!(pod.ruleset(), "");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_goes_takes_its_descriptors_along() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    agent
        .handle
        .sandbox_gone(Some("a".into()), "an-earlier-sandbox".into());
    agent.handle.sandbox_gone(Some("a".into()), "sandbox-a".into());
    ztunnel.until(|ztunnel| !ztunnel.removed.is_empty()).await;
    assert!(ztunnel.removed[0].force);
    assert_eq!(pod.output("ss", &["-Htln"]), "", "nobody holds a listener");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_next_sandbox_is_captured_anew() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;

    // The node was rebooted: the same pod, another namespace.
    let next = Pod::new("a");
    let handle = agent.handle.clone();
    let add = tokio::spawn({
        let request = request(&next);
        async move { handle.admit(request).await }
    });
    ztunnel
        .until(|ztunnel| {
            ztunnel
                .pods
                .get("a")
                .is_some_and(|(pod, _)| pod.netns_inode == next.netns.inode())
        })
        .await;
    assert_eq!(add.await.expect("answered"), Ok(Admission::Captured));
    assert!(next.ruleset().contains("tproxy to :15001"));
    agent.stop().await;
}
