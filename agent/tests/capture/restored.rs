//! A captured pod whose rules, routes or listeners are removed by something else.

use crate::harness::{Agent, Node, PATIENCE, Pod};
use crate::ztunnel::{Held, Ztunnel, read_text};
use ambit_agent::capture::{ControlEvent, Leaving};
use ambit_agent::snapshot::Snapshot;
use ambit_wire::agent::{CaptureState, NodeConfig};
use std::time::Duration;

/// All that makes the redirection, as a person sees it.
fn redirection(pod: &Pod) -> [String; 3] {
    [
        pod.ruleset(),
        pod.output("ip", &["rule"]) + &pod.output("ip", &["-6", "rule"]),
        pod.output("ip", &["route", "list", "table", "100"]),
    ]
}

async fn captured(pod: &Pod) -> (Node, Agent, Ztunnel) {
    let node = Node::new(&[pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves(&pod.uid).await;
    agent.reaches(pod, CaptureState::Captured).await;
    (node, agent, ztunnel)
}

/// What a container with NET_ADMIN that loads a firewall does to its pod, as a whole and in parts.
#[tokio::test(flavor = "multi_thread")]
async fn lost_rules_come_back() {
    let pod = Pod::new("a");
    let (_node, agent, ztunnel) = captured(&pod).await;
    let before = redirection(&pod);
    let rule: &'static str = before[1]
        .lines()
        .find(|line| line.contains("lookup 100"))
        .and_then(|line| line.split_whitespace().find(|word| word.starts_with("0x")))
        .map(|mark| &*mark.to_owned().leak())
        .expect("a rule on the mark");
    let losses: [(&str, &[&str], &str); 5] = [
        ("nft", &["delete", "table", "inet", "ambit"], "table"),
        ("nft", &["flush", "ruleset"], "table"),
        ("nft", &["flush", "table", "inet", "ambit"], "table"),
        (
            "ip",
            Vec::leak(vec!["rule", "del", "fwmark", rule, "lookup", "100"]),
            "rule",
        ),
        ("ip", &["route", "flush", "table", "100"], "route"),
    ];
    for (times, (program, arguments, part)) in (1..).zip(losses) {
        pod.output(program, arguments);
        let report = agent
            .reports_that(&pod, |report| {
                report.reason == "RulesRestored" && report.message.contains(&format!("{times} times "))
            })
            .await;
        assert_eq!(report.state(), CaptureState::Captured);
        assert!(
            report.message.contains(part),
            "{program} {arguments:?}: {}",
            report.message
        );
        assert_eq!(redirection(&pod), before, "after {program} {arguments:?}");
    }
    let mut client = pod.connect().expect("redirected");
    ztunnel.answer_one("a", "meshed");
    assert_eq!(read_text(&mut client, 6), "meshed");
    agent.stop().await;
}

/// Without a notification, as a shut-down socket makes none: found by the look of every minute. On one thread, so that time can be stopped.
#[tokio::test]
async fn a_listener_that_was_shut_down_listens_again() {
    let pod = Pod::new("a");
    let (_node, agent, ztunnel) = captured(&pod).await;
    let listener = socket2::SockRef::from(&ztunnel.pods["a"].1[0]);
    listener
        .shutdown(std::net::Shutdown::Both)
        .expect("a hostile ztunnel may");
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(90)).await;
    tokio::time::resume();
    let report = agent
        .reports_that(&pod, |report| report.reason == "RulesRestored")
        .await;
    assert!(report.message.contains("listener"), "{}", report.message);
    assert!(listener.is_listener().expect("asked"));
    agent.stop().await;
}

fn uninstall(agent: &Agent) {
    agent.handle.control(ControlEvent::Node(NodeConfig {
        uninstall: true,
        drain_deadline_seconds: 3600,
        ..Default::default()
    }));
}

/// Agents that are deleted before their pods are released, as the garbage collector does: with nobody to serve them, redirected pods would
/// have no network.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ends_with_the_mesh_leaves_no_pod_redirected() {
    let pod = Pod::new("a");
    let (_node, agent, ztunnel) = captured(&pod).await;
    let _open = pod.connect().expect("redirected");
    let _served = ztunnel.answer_one("a", "open");
    uninstall(&agent);
    let mut leaving = agent.leaving.clone();
    let heard = leaving.wait_for(|leaving| *leaving == Leaving::Releasing);
    tokio::time::timeout(PATIENCE, heard)
        .await
        .expect("in time")
        .expect("the agent runs");
    let leaving = agent.leaving.clone();
    agent.stop().await;
    assert_eq!(*leaving.borrow(), Leaving::Released);
    assert_eq!(redirection(&pod)[0], "");
    assert!(!redirection(&pod)[1].contains("lookup 100"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_upgraded_releases_nothing() {
    let pod = Pod::new("a");
    let (_node, agent, _ztunnel) = captured(&pod).await;
    let before = redirection(&pod);
    agent.stop().await;
    assert_eq!(redirection(&pod), before);
}
