//! Pods captured, handed over and released, in network namespaces of their own. Needs root.

#![allow(clippy::expect_used, reason = "a test that cannot be set up fails")]

mod admission;
mod harness;
mod operator;
mod restored;
mod takeover;
mod unnamed;
mod ztunnel;

use ambit_agent::snapshot::Snapshot;
use ambit_wire::agent::CaptureState;
use ambit_wire::broker::from_ztunnel::Message as ToAgent;
use ambit_wire::broker::{FromAgent, FromZtunnel, Hello};
use ambit_wire::broker_channel::Channel;
use harness::{Node, PATIENCE, Pod};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use ztunnel::{Held, Ztunnel, read_text};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_captured_and_its_connections_come_to_the_ztunnel() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    let report = agent.reaches(&pod, CaptureState::Captured).await;
    assert_eq!(report.netns_inode, pod.netns.inode());

    let identity = &ztunnel.pods["a"].0;
    assert_eq!(
        (identity.namespace.as_str(), identity.service_account.as_str()),
        ("shop", "web")
    );
    assert_eq!(
        (identity.addresses.as_slice(), identity.netns_inode),
        (["10.0.1.7".to_owned()].as_slice(), pod.netns.inode())
    );
    let mut client = pod.connect().expect("redirected to the ztunnel");
    ztunnel.answer_one("a", "hello");
    assert_eq!(read_text(&mut client, 5), "hello");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_has_the_address_that_the_application_wanted() {
    let pod = Pod::new("a");
    for addition in [
        ["-6", "address", "add", "fd00::7/128", "dev", "lo", "nodad"].as_slice(),
        &["-6", "route", "add", "default", "dev", "lo"],
    ] {
        pod.output("ip", addition);
    }
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    for to in ["10.1.2.3:80", "[2001:db8::1]:443"] {
        let address: SocketAddr = to.parse().expect("an address");
        let connect = move || std::net::TcpStream::connect_timeout(&address, PATIENCE);
        let mut client = pod.run(connect).expect("redirected to the ztunnel");
        let server = ztunnel.answer_one("a", "hello");
        assert_eq!(read_text(&mut client, 5), "hello");
        let local = server.local_addr().expect("asked");
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        assert_eq!(local, address);
        let from = client.local_addr().expect("asked");
        let peer = server.peer_addr().expect("asked");
        assert_eq!(SocketAddr::new(peer.ip().to_canonical(), peer.port()), from);
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_ztunnel_nothing_is_redirected_and_the_reason_is_told() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    agent.tell(vec![pod.record(true)]);
    let report = agent
        .reports_that(&pod, |report| report.reason == "NoZtunnel")
        .await;
    assert_eq!(report.state(), CaptureState::Pending);
    assert_eq!(pod.ruleset(), "");
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_application_has_is_a_named_failure() {
    let pod = Pod::new("a");
    let listener = pod.run(|| std::net::TcpListener::bind("0.0.0.0:15006").expect("bound"));
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    agent.tell(vec![pod.record(true)]);
    let report = agent.reaches(&pod, CaptureState::Failed).await;
    assert_eq!(report.reason, "PortInUse");
    assert!(report.message.contains("15006"), "{}", report.message);
    drop(listener);
    agent
        .reports_that(&pod, |report| report.reason == "NoZtunnel")
        .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_pod_keeps_its_connections_until_they_end_and_then_has_nothing_of_ours() {
    let pod = Pod::new("a");
    let before = (
        pod.output("ip", &["rule"]),
        pod.output("ip", &["route", "list", "table", "all"]),
    );
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    let mut client = pod.connect().expect("redirected");
    let mut server = ztunnel.answer_one("a", "first");
    assert_eq!(read_text(&mut client, 5), "first");

    agent.tell(vec![pod.record(false)]);
    agent.reaches(&pod, CaptureState::Releasing).await;
    agent.record_release(&pod);
    while pod.ruleset().contains("tproxy to") {
        tokio::task::yield_now().await;
    }
    std::io::Write::write_all(&mut server, b"later").expect("still redirected");
    assert_eq!(read_text(&mut client, 5), "later");
    drop((client, server));
    ztunnel.until(|ztunnel| !ztunnel.removed.is_empty()).await;
    assert!(!ztunnel.removed[0].force, "its connections may end by themselves");
    agent.reaches(&pod, CaptureState::Released).await;
    assert_eq!(pod.ruleset(), "");
    let after = (
        pod.output("ip", &["rule"]),
        pod.output("ip", &["route", "list", "table", "all"]),
    );
    assert_eq!(after, before);
    ztunnel.die();
    assert_eq!(pod.output("ss", &["-Htln"]), "", "no listener is left");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seeds_are_of_the_pod_marked_and_transparent_and_others_cannot_reach_them() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    agent.tell(vec![pod.record(true)]);
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    let sockets = &ztunnel.pods["a"].1;
    assert_eq!(sockets.len(), 7);
    for (index, socket) in sockets[3..].iter().enumerate() {
        let inode = ambit_agent::netns::socket_netns_inode(socket.as_fd()).expect("asked");
        assert_eq!(inode, pod.netns.inode());
        let socket = socket2::SockRef::from(socket);
        assert_eq!(socket.mark().expect("asked"), 0x539);
        assert!(socket.ip_transparent_v4().expect("asked") && socket.nonblocking().expect("asked"));
        assert_eq!(socket.is_listener().expect("asked"), index % 2 == 0);
    }
    for listener in [&sockets[3], &sockets[5]] {
        let address = socket2::SockRef::from(listener).local_addr().expect("asked");
        let address = address.as_socket().expect("an IP address");
        let connect = |mark: u32| {
            pod.run(move || {
                let domain = socket2::Domain::for_address(address);
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
                socket.set_mark(mark)?;
                // No packet is lost on the loopback: one that is not answered by then was dropped.
                socket.connect_timeout(&address.into(), std::time::Duration::from_millis(500))
            })
        };
        assert!(connect(0).is_err(), "{address} can be reached by the application");
        connect(0x539).expect("reached by the proxy");
    }
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_ztunnel_refuses_is_not_redirected_and_tried_again() {
    let pod = Pod::new("a");
    let node = Node::new(&[&pod]);
    let agent = node.agent(&Snapshot::default());
    let mut ztunnel = Ztunnel::connect(&node, Held::new()).await;
    ztunnel.refusal = "too many pods";
    agent.tell(vec![pod.record(true)]);
    ztunnel.until(|ztunnel| ztunnel.refused == 1).await;
    let report = agent.reaches(&pod, CaptureState::Failed).await;
    assert_eq!(report.reason, "ZtunnelRefused");
    assert!(report.message.contains("too many pods"), "{}", report.message);
    assert_eq!(pod.ruleset(), "");
    ztunnel.refusal = "";
    ztunnel.serves("a").await;
    agent.reaches(&pod, CaptureState::Captured).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ztunnel_of_another_version_is_sent_away() {
    let node = Node::new(&[]);
    let agent = node.agent(&Snapshot::default());
    let channel = Channel::connect(node.socket()).expect("connected");
    let hello = ToAgent::Hello(Hello {
        version: 99,
        revision: "next".into(),
    });
    channel
        .send(&FromZtunnel { message: Some(hello) }, &[])
        .await
        .expect("sent");
    let (first, _) = channel
        .recv::<FromAgent>()
        .await
        .expect("received")
        .expect("greeted");
    assert!(
        first.message.is_some(),
        "so that its log can say which version the agent has"
    );
    assert!(
        channel.recv::<FromAgent>().await.expect("received").is_none(),
        "closed"
    );
    agent.stop().await;
}
