//! One session with a ztunnel.

use crate::capture::{FromSession, Handle, Outgoing, SessionId};
use ambit_wire::broker::from_agent::Message as ToZtunnel;
use ambit_wire::broker::from_ztunnel::Message as FromZtunnelMessage;
use ambit_wire::broker::{FromAgent, FromZtunnel, Hello, PodIdentity};
use ambit_wire::broker_channel::{Channel, Error as ChannelError};
use ambit_wire::names::BROKER_VERSION;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// The time for a ztunnel to send Hello and the listeners that it has.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// More pods than a node can have.
const MOST_HELD: usize = 4096;
/// The maximum of acknowledgements of one ztunnel that the manager has not processed.
const ACKS: usize = 64;
/// The longest error in an acknowledgement; it appears in logs and statuses.
const LONGEST_ERROR: usize = 1024;

/// Why a session ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(
        "its broker protocol is version {theirs}, ours is {BROKER_VERSION}: use compatible releases of \
         agent and ztunnel"
    )]
    Version { theirs: u32 },
    #[error("expected {expected}, received {received}")]
    Unexpected {
        expected: &'static str,
        received: &'static str,
    },
    #[error("it did not send its greeting and its pods within {}s", GREETING_TIME.as_secs())]
    Silent,
    #[error("it has listeners of more than {MOST_HELD} pods")]
    TooMany,
}

struct Greeting {
    revision: String,
    held: Vec<(PodIdentity, Vec<OwnedFd>)>,
}

/// Serves a ztunnel until it closes the connection or violates the protocol.
pub(crate) async fn converse(
    channel: Channel,
    id: SessionId,
    manager: &Handle,
    our_revision: &str,
) -> Result<(), SessionError> {
    let hello = Hello {
        version: BROKER_VERSION,
        revision: our_revision.to_owned(),
    };
    channel
        .send(
            &FromAgent {
                message: Some(ToZtunnel::Hello(hello)),
            },
            &[],
        )
        .await?;
    let greeting = tokio::time::timeout(GREETING_TIME, greet(&channel))
        .await
        .map_err(|_| SessionError::Silent)??;
    let Some(Greeting { revision, held }) = greeting else {
        return Ok(());
    };

    let (outbox, outgoing) = mpsc::unbounded_channel();
    manager.ztunnel(FromSession::Ready {
        id,
        revision,
        outbox,
        held,
    });
    // Both directions concurrently: a ztunnel that waits for us to read must not block our writes.
    let ended = tokio::select! {
        ended = write(&channel, outgoing) => ended,
        ended = read(&channel, id, manager) => ended,
    };
    manager.ztunnel(FromSession::Gone(id));
    ended
}

/// Hello, HeldListeners of each pod, HeldDone. `None` when the ztunnel has closed the connection.
async fn greet(channel: &Channel) -> Result<Option<Greeting>, SessionError> {
    let revision = match receive(channel).await? {
        None => return Ok(None),
        Some((FromZtunnelMessage::Hello(hello), _)) if hello.version == BROKER_VERSION => hello.revision,
        Some((FromZtunnelMessage::Hello(hello), _)) => {
            return Err(SessionError::Version {
                theirs: hello.version,
            });
        }
        Some((other, _)) => {
            return Err(SessionError::Unexpected {
                expected: "Hello",
                received: name(&other),
            });
        }
    };
    let mut held = vec![];
    loop {
        match receive(channel).await? {
            None => return Ok(None),
            Some((FromZtunnelMessage::HeldDone(_), _)) => return Ok(Some(Greeting { revision, held })),
            Some((FromZtunnelMessage::HeldListeners(listeners), sockets)) => {
                if held.len() >= MOST_HELD {
                    return Err(SessionError::TooMany);
                }
                held.push((listeners.pod.unwrap_or_default(), sockets));
            }
            Some((other, _)) => {
                return Err(SessionError::Unexpected {
                    expected: "HeldListeners or HeldDone",
                    received: name(&other),
                });
            }
        }
    }
}

async fn write(
    channel: &Channel,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
) -> Result<(), SessionError> {
    while let Some(next) = outgoing.recv().await {
        let message = FromAgent {
            message: Some(next.message.clone()),
        };
        channel.send(&message, &next.descriptors()).await?;
    }
    Ok(())
}

async fn read(channel: &Channel, id: SessionId, manager: &Handle) -> Result<(), SessionError> {
    let acks = Arc::new(Semaphore::new(ACKS));
    while let Some((message, _)) = receive(channel).await? {
        match message {
            FromZtunnelMessage::Ack(mut ack) => {
                let end = ack.error.floor_char_boundary(LONGEST_ERROR);
                ack.error.truncate(end);
                ack.error.shrink_to_fit();
                // The queue of the manager is unbounded, so this semaphore is the limit. It is never closed.
                let Ok(permit) = Arc::clone(&acks).acquire_owned().await else {
                    return Ok(());
                };
                manager.ztunnel(FromSession::Ack(id, ack, Some(permit)));
            }
            other => {
                return Err(SessionError::Unexpected {
                    expected: "Ack",
                    received: name(&other),
                });
            }
        }
    }
    Ok(())
}

async fn receive(channel: &Channel) -> Result<Option<(FromZtunnelMessage, Vec<OwnedFd>)>, SessionError> {
    loop {
        match channel.recv::<FromZtunnel>().await? {
            None => return Ok(None),
            Some((
                FromZtunnel {
                    message: Some(message),
                },
                descriptors,
            )) => return Ok(Some((message, descriptors))),
            // A message of a later minor version, which needs no action here.
            Some((FromZtunnel { message: None }, _)) => {
                tracing::debug!("a message of an unknown kind was ignored")
            }
        }
    }
}

fn name(message: &FromZtunnelMessage) -> &'static str {
    match message {
        FromZtunnelMessage::Hello(_) => "Hello",
        FromZtunnelMessage::Ack(_) => "Ack",
        FromZtunnelMessage::HeldListeners(_) => "HeldListeners",
        FromZtunnelMessage::HeldDone(_) => "HeldDone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambit_wire::broker::{Ack, HeldDone};

    async fn send(channel: &Channel, message: FromZtunnelMessage) {
        let message = FromZtunnel {
            message: Some(message),
        };
        // The agent may already have closed the connection.
        _ = channel.send(&message, &[]).await;
    }

    /// A compromised ztunnel sends as many messages as it can while the manager is busy.
    #[tokio::test]
    async fn a_flood_of_acknowledgements_waits_at_its_sender() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let (manager, mut next) = Handle::to_nobody();
        let conversation =
            tokio::spawn(async move { converse(ours, SessionId(1), &manager, "testing").await });
        let flood = tokio::spawn(async move {
            let hello = Hello {
                version: BROKER_VERSION,
                revision: String::new(),
            };
            send(&theirs, FromZtunnelMessage::Hello(hello)).await;
            send(&theirs, FromZtunnelMessage::HeldDone(HeldDone {})).await;
            for sequence in 0..20_000 {
                let error = "e".repeat(2 * LONGEST_ERROR);
                send(&theirs, FromZtunnelMessage::Ack(Ack { sequence, error })).await;
            }
        });
        // Received from the queue, but not processed.
        let (mut taken, mut others) = (vec![], vec![]);
        while taken.len() < ACKS {
            match next() {
                Some(FromSession::Ack(_, ack, permit)) => {
                    assert_eq!(ack.error.len(), LONGEST_ERROR);
                    taken.push(permit);
                }
                // The way to the ztunnel, which stays open.
                Some(other) => others.push(other),
                None => {
                    assert!(!conversation.is_finished());
                    tokio::task::yield_now().await;
                }
            }
        }
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(next().is_none(), "more than the manager takes");
        taken.pop();
        while next().is_none() {
            tokio::task::yield_now().await;
        }
        flood.abort();
        conversation.abort();
    }
}
