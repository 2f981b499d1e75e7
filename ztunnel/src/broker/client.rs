//! The session with the agent (`crates/wire/proto/broker.proto`, `docs/protocols.md`).

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ambit_wire::broker::{
    Ack, AddPod, FromAgent, FromZtunnel, HeldDone, HeldListeners, Hello, RemovePod, from_agent,
    from_ztunnel::Message,
};
use ambit_wire::broker_channel::{Channel, Error};
use ambit_wire::names::BROKER_VERSION;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::events::PodEvents;
use crate::sockets::Handed;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the agent closed the connection")]
    Closed,
    #[error(transparent)]
    Channel(#[from] Error),
    #[error(
        "the agent has version {0} of the protocol, this ztunnel {BROKER_VERSION}: upgrade the older one"
    )]
    Version(u32),
    #[error("the agent violated the protocol: {0}")]
    Protocol(&'static str),
}

/// Keeps a session with the agent open.
pub(crate) struct Broker<E> {
    pub(crate) path: PathBuf,
    pub(crate) revision: String,
    pub(crate) events: Arc<E>,
}

impl<E: PodEvents> Broker<E> {
    /// Runs until `shutdown`: connects, and reconnects after each loss. Meanwhile the pods are served with the sockets
    /// received so far.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut delay = FIRST_DELAY;
        let mut attempts: u32 = 0;
        loop {
            let ended = match Channel::connect(&self.path) {
                Ok(channel) => {
                    delay = FIRST_DELAY;
                    attempts = 0;
                    tracing::info!(socket = %self.path.display(), "connected to the node agent");
                    let ended = shutdown.run_until_cancelled(self.converse(&channel)).await;
                    self.events.disconnected();
                    match ended {
                        Some(ended) => ended,
                        None => return,
                    }
                }
                Err(error) => Ended::Channel(error.into()),
            };
            // Logged once when the agent is lost, then every half a minute.
            if attempts.is_multiple_of(30) {
                tracing::warn!(
                    socket = %self.path.display(),
                    error = %ended,
                    "no node agent: the ztunnel serves its pods, and accepts no others; is the \
                     ambit-agent of this node running?"
                );
            }
            attempts = attempts.wrapping_add(1);
            if shutdown
                .run_until_cancelled(tokio::time::sleep(delay))
                .await
                .is_none()
            {
                return;
            }
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    pub(crate) async fn converse(&self, channel: &Channel) -> Ended {
        match self.exchange(channel).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn exchange(&self, channel: &Channel) -> Result<std::convert::Infallible, Ended> {
        let (outbox, mut queue) = mpsc::unbounded_channel();
        send(
            channel,
            Message::Hello(Hello {
                version: BROKER_VERSION,
                revision: self.revision.clone(),
            }),
            &[],
        )
        .await?;
        for (pod, handed) in self.events.held() {
            let message = Message::HeldListeners(HeldListeners { pod: Some(pod) });
            send(channel, message, &handed.descriptors()).await?;
        }
        send(channel, Message::HeldDone(HeldDone {}), &[]).await?;
        let (first, _) = channel.recv::<FromAgent>().await?.ok_or(Ended::Closed)?;
        match first.message {
            Some(from_agent::Message::Hello(hello)) if hello.version == BROKER_VERSION => {}
            Some(from_agent::Message::Hello(hello)) => return Err(Ended::Version(hello.version)),
            _ => return Err(Ended::Protocol("its first message was not Hello")),
        }
        self.events.connected();
        let received = self.receive_all(channel, &outbox);
        tokio::try_join!(send_all(channel, &mut queue), received).map(|(never, _)| never)
    }

    async fn receive_all(
        &self,
        channel: &Channel,
        outbox: &mpsc::UnboundedSender<Message>,
    ) -> Result<std::convert::Infallible, Ended> {
        // Fails only when the session has ended; the next one begins with the whole state.
        let acknowledge = |sequence, error| _ = outbox.send(Message::Ack(Ack { sequence, error }));
        // Ends with this session, and with it the acknowledgements that wait for connections to end.
        let mut removals = tokio::task::JoinSet::new();
        // The pods named so far; `None` after the snapshot.
        let mut named = Some(Vec::new());
        loop {
            let (message, descriptors) = tokio::select! {
                received = channel.recv::<FromAgent>() => received?.ok_or(Ended::Closed)?,
                Some(_) = removals.join_next(), if !removals.is_empty() => continue,
            };
            match message.message {
                Some(from_agent::Message::AddPod(AddPod { sequence, pod })) => {
                    let pod = pod.ok_or(Ended::Protocol("AddPod without a pod"))?;
                    let handed = Handed::new(descriptors)
                        .ok_or(Ended::Protocol("AddPod without five or seven descriptors"))?;
                    if let Some(named) = &mut named {
                        named.push(pod.uid.clone());
                    }
                    let uid = pod.uid.clone();
                    let added = self.events.add(pod, handed);
                    let error = added.map_or_else(|error| format!("pod {uid}: {error}"), |()| String::new());
                    acknowledge(sequence, error);
                }
                Some(from_agent::Message::RemovePod(RemovePod { sequence, uid, force })) => {
                    let removed = self.events.remove(&uid, force);
                    let outbox = outbox.clone();
                    removals.spawn(async move {
                        removed.await;
                        let error = String::new();
                        _ = outbox.send(Message::Ack(Ack { sequence, error }));
                    });
                }
                Some(from_agent::Message::SnapshotDone(_)) => {
                    if let Some(named) = named.take() {
                        self.events.snapshot_done(&named);
                    }
                }
                Some(from_agent::Message::Hello(_)) => return Err(Ended::Protocol("a second Hello")),
                // From a newer agent, which supports our version and needs no response.
                None => tracing::debug!("unknown message from the agent"),
            }
        }
    }
}

async fn send_all(
    channel: &Channel,
    queue: &mut mpsc::UnboundedReceiver<Message>,
) -> Result<std::convert::Infallible, Ended> {
    while let Some(message) = queue.recv().await {
        send(channel, message, &[]).await?;
    }
    Err(Ended::Closed)
}

async fn send(channel: &Channel, message: Message, descriptors: &[BorrowedFd<'_>]) -> Result<(), Ended> {
    Ok(channel
        .send(
            &FromZtunnel {
                message: Some(message),
            },
            descriptors,
        )
        .await?)
}
