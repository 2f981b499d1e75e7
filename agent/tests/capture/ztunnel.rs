//! A ztunnel that speaks the broker protocol and answers each connection with its name.

use crate::harness::{Node, PATIENCE};
use ambit_wire::broker::from_agent::Message as FromAgentMessage;
use ambit_wire::broker::from_ztunnel::Message as ToAgent;
use ambit_wire::broker::{
    Ack, FromAgent, FromZtunnel, HeldDone, HeldListeners, Hello, PodIdentity, RemovePod,
};
use ambit_wire::broker_channel::Channel;
use ambit_wire::names::BROKER_VERSION;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

pub(crate) struct Ztunnel {
    channel: Channel,
    pub(crate) pods: BTreeMap<String, (PodIdentity, Vec<OwnedFd>)>,
    pub(crate) removed: Vec<RemovePod>,
    pub(crate) snapshot_done: bool,
    /// What it answers to AddPod.
    pub(crate) refusal: &'static str,
    pub(crate) refused: usize,
}

/// What a ztunnel holds of pods, as it would over a loss of its agent.
pub(crate) type Held = BTreeMap<String, (PodIdentity, Vec<OwnedFd>)>;

impl Ztunnel {
    /// Connects and says what it holds.
    pub(crate) async fn connect(node: &Node, held: Held) -> Self {
        let channel = Channel::connect(node.socket()).expect("connected");
        let ztunnel = Self {
            channel,
            pods: held,
            removed: vec![],
            snapshot_done: false,
            refusal: "",
            refused: 0,
        };
        ztunnel
            .send(
                ToAgent::Hello(Hello {
                    version: BROKER_VERSION,
                    revision: "test".into(),
                }),
                &[],
            )
            .await;
        for (pod, sockets) in ztunnel.pods.values() {
            ztunnel
                .send(
                    ToAgent::HeldListeners(HeldListeners {
                        pod: Some(pod.clone()),
                    }),
                    sockets,
                )
                .await;
        }
        ztunnel.send(ToAgent::HeldDone(HeldDone {}), &[]).await;
        ztunnel
    }

    async fn send(&self, message: ToAgent, descriptors: &[OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let message = FromZtunnel {
            message: Some(message),
        };
        self.channel.send(&message, &descriptors).await.expect("sent");
    }

    /// Takes messages until `done`; acknowledges what is to be.
    pub(crate) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let received = tokio::time::timeout(PATIENCE, self.channel.recv::<FromAgent>()).await;
            let (message, descriptors) = received
                .expect("the agent speaks")
                .expect("a message")
                .expect("the agent is there");
            match message.message.expect("known") {
                FromAgentMessage::Hello(hello) => assert_eq!(hello.version, BROKER_VERSION),
                FromAgentMessage::AddPod(add) => {
                    let pod = add.pod.expect("a pod");
                    if !self.refusal.is_empty() {
                        self.refused += 1;
                        self.acknowledge(add.sequence, self.refusal).await;
                        continue;
                    }
                    self.pods.insert(pod.uid.clone(), (pod, descriptors));
                    self.acknowledge(add.sequence, "").await;
                }
                FromAgentMessage::RemovePod(remove) => {
                    // Connections are not kept here; one that has none is done at once.
                    self.pods.remove(&remove.uid);
                    self.acknowledge(remove.sequence, "").await;
                    self.removed.push(remove);
                }
                FromAgentMessage::SnapshotDone(_) => self.snapshot_done = true,
            }
        }
    }

    async fn acknowledge(&self, sequence: u64, error: &str) {
        self.send(
            ToAgent::Ack(Ack {
                sequence,
                error: error.into(),
            }),
            &[],
        )
        .await;
    }

    pub(crate) async fn serves(&mut self, uid: &str) {
        self.until(|ztunnel| ztunnel.pods.contains_key(uid) && ztunnel.snapshot_done)
            .await;
    }

    /// Accepts one outbound connection of the pod that waits, and answers it.
    pub(crate) fn answer_one(&self, uid: &str, text: &str) -> std::net::TcpStream {
        let listener = socket2::SockRef::from(&self.pods[uid].1[0]);
        let (connection, _) = listener.accept().expect("a connection waits");
        let mut stream = std::net::TcpStream::from(connection);
        stream.set_nonblocking(false).expect("blocking");
        stream.write_all(text.as_bytes()).expect("answered");
        stream
    }

    /// Dies; what it held of listeners is gone with it unless taken along.
    pub(crate) fn die(self) -> Held {
        self.pods
    }
}

pub(crate) fn read_text(stream: &mut std::net::TcpStream, length: usize) -> String {
    let mut text = vec![0; length];
    stream.read_exact(&mut text).expect("answered");
    String::from_utf8(text).expect("UTF-8")
}
