//! A node agent whose pods are loopback addresses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ambit_wire::broker::{
    Ack, AddPod, FromAgent, FromZtunnel, Hello, PodIdentity, RemovePod, SnapshotDone, from_agent,
    from_ztunnel::Message,
};
use ambit_wire::broker_channel::{Channel, Listener};
use ambit_wire::names::{BROKER_VERSION, PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND};
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// One conversation with a ztunnel.
pub(crate) struct Agent {
    channel: Arc<Channel>,
    sequence: u64,
    /// What the ztunnel held when it connected.
    pub(crate) held: Vec<(PodIdentity, Vec<OwnedFd>)>,
    acks: mpsc::UnboundedReceiver<Ack>,
    reading: JoinHandle<()>,
}

pub(crate) fn listeners(ip: Ipv4Addr) -> Vec<OwnedFd> {
    let listen = |port| OwnedFd::from(TcpListener::bind((ip, port)).unwrap());
    let listeners = [PORT_OUTBOUND, PORT_INBOUND, PORT_HBONE].map(listen);
    // Without the mark and the transparency of the real ones: addresses of the loopback are everybody's.
    let seeds = [
        OwnedFd::from(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()),
        OwnedFd::from(Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()),
    ];
    for seed in &seeds {
        socket2::SockRef::from(seed).set_nonblocking(true).unwrap();
    }
    listeners.into_iter().chain(seeds).collect()
}

pub(crate) fn identity(name: &str, ip: Ipv4Addr) -> PodIdentity {
    PodIdentity {
        uid: format!("{name}-uid"),
        name: name.into(),
        namespace: "test".into(),
        service_account: name.into(),
        addresses: vec![ip.to_string()],
        trust_domain: "cluster.local".into(),
        netns_inode: 1,
    }
}

impl Agent {
    /// Waits for the ztunnel and exchanges greetings; the caller adds pods and ends the snapshot.
    pub(crate) async fn accept(listener: &Listener) -> Self {
        let (channel, _) = listener.accept().await.unwrap();
        let channel = Arc::new(channel);
        let hello = Hello {
            version: BROKER_VERSION,
            revision: "test".into(),
        };
        send(&channel, from_agent::Message::Hello(hello), &[]).await;
        let mut held = Vec::new();
        loop {
            let (message, descriptors) = channel.recv::<FromZtunnel>().await.unwrap().unwrap();
            match message.message.unwrap() {
                Message::Hello(hello) => assert_eq!(hello.version, BROKER_VERSION),
                Message::HeldListeners(listeners) => held.push((listeners.pod.unwrap(), descriptors)),
                Message::HeldDone(_) => break,
                other => panic!("{other:?} before HeldDone"),
            }
        }
        let (ack_sender, acks) = mpsc::unbounded_channel();
        let reading = tokio::spawn(read(Arc::clone(&channel), ack_sender));
        Self {
            channel,
            sequence: 0,
            held,
            acks,
            reading,
        }
    }

    /// Tells of a pod and awaits that it is served.
    pub(crate) async fn add(&mut self, pod: PodIdentity, listeners: &[OwnedFd]) {
        self.sequence += 1;
        let sequence = self.sequence;
        send(
            &self.channel,
            from_agent::Message::AddPod(AddPod {
                sequence,
                pod: Some(pod),
            }),
            listeners,
        )
        .await;
        assert_eq!(
            self.ack().await,
            Ack {
                sequence,
                error: String::new()
            }
        );
    }

    pub(crate) async fn snapshot_done(&self) {
        send(
            &self.channel,
            from_agent::Message::SnapshotDone(SnapshotDone {}),
            &[],
        )
        .await;
    }

    /// Tells that a pod is released; [`Agent::ack`] comes when it is done.
    pub(crate) async fn remove(&mut self, uid: &str, force: bool) {
        self.sequence += 1;
        let remove = RemovePod {
            sequence: self.sequence,
            uid: uid.into(),
            force,
        };
        send(&self.channel, from_agent::Message::RemovePod(remove), &[]).await;
    }

    pub(crate) async fn ack(&mut self) -> Ack {
        tokio::time::timeout(Duration::from_secs(20), self.acks.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// Whether an acknowledgement has come that nobody has looked at.
    pub(crate) fn has_ack(&self) -> bool {
        !self.acks.is_empty()
    }

    /// Dies without a word.
    pub(crate) async fn die(&mut self) {
        self.reading.abort();
        (&mut self.reading).await.ok();
        // Closes the old conversation's socket.
        self.channel = Arc::new(Channel::pair().unwrap().0);
    }

    /// Resolves when the ztunnel has closed the conversation.
    pub(crate) async fn closed(&mut self) {
        (&mut self.reading).await.unwrap();
    }
}

async fn read(channel: Arc<Channel>, acks: mpsc::UnboundedSender<Ack>) {
    while let Ok(Some((message, _))) = channel.recv::<FromZtunnel>().await {
        match message.message.unwrap() {
            Message::Ack(ack) => acks.send(ack).unwrap(),
            other => panic!("unexpected {other:?}"),
        }
    }
}

async fn send(channel: &Channel, message: from_agent::Message, descriptors: &[OwnedFd]) {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    // The ztunnel may have gone meanwhile.
    channel
        .send(
            &FromAgent {
                message: Some(message),
            },
            &descriptors,
        )
        .await
        .ok();
}

pub(crate) fn listen(path: &Path) -> Listener {
    Listener::bind(path).unwrap()
}

pub(crate) fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}
