//! Ztunnels and agents come and go; captured pods do not notice.

use crate::harness::{Node, Pod};
use crate::ztunnel::{Held, Ztunnel, read_text};
use ambit_agent::snapshot::Snapshot;
use ambit_wire::agent::CaptureState;
use std::os::fd::{AsFd, OwnedFd};

fn inode(socket: &OwnedFd) -> u64 {
    rustix::fs::fstat(socket).expect("asked").st_ino
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_wait_while_a_ztunnel_is_gone() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    drop(ztunnel.die());

    let mut waiting = pod.connect().expect("not refused");
    let mut next = Ztunnel::connect(&node, Held::new()).await;
    next.serves("a").await;
    next.answer_one("a", "next");
    assert_eq!(read_text(&mut waiting, 4), "next");
    agent.reaches(&pod, CaptureState::Captured).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_takes_listeners_over_and_the_pod_stays_captured() {
    let (pod, other) = (Pod::new("a"), Pod::new("b"));
    let node = Node::new(&[&pod, &other]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true), other.record(true)]);
    ztunnel.serves("a").await;
    ztunnel.serves("b").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    agent.reaches(&other, CaptureState::Captured).await;
    let snapshot = agent.stop().await;
    let listeners = inode(&ztunnel.pods["a"].1[0]);
    let mut waiting = pod.connect().expect("not refused while there is no agent");

    // No operator answers: the snapshot is enough.
    let agent = node.agent(&snapshot);
    let mut reports = agent.reports.subscribe();
    let mut ztunnel = Ztunnel::connect(&node, ztunnel.die()).await;
    ztunnel.serves("a").await;
    ztunnel
        .until(|ztunnel| ztunnel.snapshot_done && ztunnel.pods.contains_key("b"))
        .await;
    let report = agent.reaches(&pod, CaptureState::Captured).await;
    assert_eq!(report.netns_inode, pod.netns.inode());
    agent.reaches(&other, CaptureState::Captured).await;
    assert_eq!(inode(&ztunnel.pods["a"].1[0]), listeners, "the same sockets");
    ztunnel.answer_one("a", "served");
    assert_eq!(read_text(&mut waiting, 6), "served");

    // And now that agent's ztunnel dies as well: the listeners are the agent's.
    drop(ztunnel.die());
    let waiting = pod.connect().expect("not refused");
    drop(waiting);
    let states: Vec<_> = reports
        .borrow_and_update()
        .pods
        .values()
        .map(|(_, report)| report.state())
        .collect();
    assert_eq!(states, [CaptureState::Captured; 2]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shut_down_listener_is_repaired() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    let listener = socket2::SockRef::from(&ztunnel.pods["a"].1[0]);
    listener
        .shutdown(std::net::Shutdown::Both)
        .expect("a hostile ztunnel may");
    drop(ztunnel.die());
    let mut next = Ztunnel::connect(&node, Held::new()).await;
    next.serves("a").await;
    let mut client = pod.connect().expect("listens again");
    next.answer_one("a", "ok");
    assert_eq!(read_text(&mut client, 2), "ok");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_ztunnel_takes_over_and_the_older_one_drains() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut old = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    old.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;

    let mut new = Ztunnel::connect(&node, Held::new()).await;
    new.serves("a").await;
    old.until(|old| !old.removed.is_empty()).await;
    assert!(!old.removed[0].force);

    // The new one fails: the old one is asked again.
    drop(new.die());
    old.until(|old| old.pods.contains_key("a")).await;
    let mut client = pod.connect().expect("not refused");
    old.answer_one("a", "back");
    assert_eq!(read_text(&mut client, 4), "back");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_of_another_namespace_are_not_taken_over() {
    let (pod, other) = (Pod::new("a"), Pod::new("b"));
    let node = Node::new(&[&pod, &other]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true), other.record(true)]);
    ztunnel.serves("a").await;
    ztunnel.until(|ztunnel| ztunnel.pods.contains_key("b")).await;
    agent.reaches(&pod, CaptureState::Captured).await;
    agent.reaches(&other, CaptureState::Captured).await;
    let snapshot = agent.stop().await;

    // A ztunnel that was broken into says that b's listeners are a's.
    let mut held = ztunnel.die();
    let (identity, _) = held.remove("a").expect("held");
    let (_, theirs) = held.remove("b").expect("held");
    held.insert("a".to_owned(), (identity, theirs));
    let agent = node.agent(&snapshot);
    let mut ztunnel = Ztunnel::connect(&node, held).await;
    ztunnel
        .until(|ztunnel| {
            ztunnel.pods.get("a").is_some_and(|(_, sockets)| {
                ambit_agent::netns::socket_netns_inode(sockets[0].as_fd()).expect("asked")
                    == pod.netns.inode()
            })
        })
        .await;
    agent.reaches(&pod, CaptureState::Captured).await;
    agent.stop().await;
}
