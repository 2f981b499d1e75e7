//! The session of node agent and ztunnel, from either side, and the control plane's resources for agents: no action
//! before the greeting, an acknowledgement for every message that requires one, and nothing stored beyond its limit.
//!
//! Input: the side, then steps: packets with descriptors beside them, or resources.
#![no_main]

use std::fs::File;
use std::os::fd::AsFd;

use ambit_agent::capture::FromSession;
use ambit_fuzz::Steps;
use ambit_wire::broker::{FromAgent, FromZtunnel, from_agent};
use ambit_wire::broker_channel::Channel;
use ambit_wire::names::{TYPE_ENROLLED_NAMESPACE, TYPE_NODE_CONFIG, TYPE_POD_CAPTURE};
use ambit_wire::xds::{Batch, Resource};
use ambit_ztunnel::testing::Event;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use tokio::runtime::{Builder, Runtime};

/// Maximum of an acknowledgement's text that the agent keeps.
const LONGEST_ERROR: usize = 1024;

/// Sends packets; `true` if the other side has ended the session.
struct Other {
    channel: Channel,
    null: File,
}

impl Other {
    async fn send<M: Message + Default>(&self, packet: &[u8], descriptors: usize) -> Result<Option<M>, ()> {
        let message = M::decode(packet).ok();
        // Only a message that encodes to the same bytes is sent unchanged.
        let descriptors = vec![self.null.as_fd(); descriptors];
        let sent = self.channel.send(&Raw(packet), &descriptors).await;
        match sent {
            Ok(()) => Ok(message),
            // An empty packet is not a message.
            Err(ambit_wire::broker_channel::Error::MessageLength(_)) => Ok(None),
            Err(_) => Err(()),
        }
    }
}

/// Raw bytes.
#[derive(Debug, Default)]
struct Raw<'a>(&'a [u8]);

impl Message for Raw<'_> {
    fn encode_raw(&self, buffer: &mut impl prost::bytes::BufMut) {
        buffer.put_slice(self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::wire_type::WireType,
        _: &mut impl prost::bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}

fn other() -> (Other, Channel) {
    let (channel, theirs) = Channel::pair().expect("a pair of sockets");
    let null = File::open("/dev/null").expect("/dev/null");
    (Other { channel, null }, theirs)
}

/// We are the ztunnel.
async fn to_agent(steps: Steps<'_>) {
    let (ztunnel, agent) = other();
    let mut heard = Vec::new();
    let conversation = ambit_agent::testing::converse(agent, |event| heard.push(event));
    let saying = async move {
        for (kind, packet) in steps {
            if ztunnel
                .send::<FromZtunnel>(packet, usize::from(kind % 8))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    tokio::join!(conversation, saying);
    for (at, event) in heard.iter().enumerate() {
        match event {
            FromSession::Ready { .. } => assert_eq!(at, 0, "greeted twice"),
            FromSession::Ack(_, ack, _) => {
                assert!(at > 0, "an acknowledgement before the greeting");
                assert!(ack.error.len() <= LONGEST_ERROR, "{} bytes", ack.error.len());
            }
            FromSession::Gone(_) => assert!(at > 0 && at + 1 == heard.len(), "gone, and still there"),
        }
    }
    let greeted = matches!(heard.first(), Some(FromSession::Ready { .. }));
    assert_eq!(greeted, matches!(heard.last(), Some(FromSession::Gone(_))));
}

/// We are the agent.
async fn to_ztunnel(steps: Steps<'_>) {
    let (agent, ztunnel) = other();
    let conversation = ambit_ztunnel::testing::converse(ztunnel);
    let saying = async move {
        let mut answered = Vec::new();
        for _ in 0..2 {
            // Its greeting: Hello, and no held listeners.
            let greeting = agent.channel.recv::<FromZtunnel>().await;
            assert!(matches!(greeting, Ok(Some(_))), "{greeting:?}");
        }
        for (kind, packet) in steps {
            let Ok(message) = agent.send::<FromAgent>(packet, usize::from(kind % 8)).await else {
                break;
            };
            use from_agent::Message::{AddPod, RemovePod};
            let Some(
                AddPod(ambit_wire::broker::AddPod { sequence, .. })
                | RemovePod(ambit_wire::broker::RemovePod { sequence, .. }),
            ) = message.and_then(|m: FromAgent| m.message)
            else {
                continue;
            };
            // Either it responds, or the session is over.
            let Ok(Some((answer, _))) = agent.channel.recv::<FromZtunnel>().await else {
                break;
            };
            let Some(ambit_wire::broker::from_ztunnel::Message::Ack(ack)) = answer.message else {
                panic!("{answer:?} is no acknowledgement");
            };
            assert_eq!(ack.sequence, sequence);
            answered.push(ack);
        }
        answered.len()
    };
    let ((events, _), answered) = tokio::join!(conversation, saying);
    let acted = events
        .iter()
        .filter(|event| matches!(event, Event::Add(..) | Event::Remove(_)))
        .count();
    assert!(
        answered <= acted && acted <= answered + 1,
        "{answered} answers to {events:?}"
    );
    assert!(
        events.first().is_none_or(|first| *first == Event::Connected),
        "{events:?}"
    );
    for event in &events {
        if let Event::Add(_, descriptors) = event {
            assert!(matches!(descriptors, 5 | 7), "{descriptors} descriptors");
        }
    }
}

/// We are the control plane, and send an agent its node's configuration.
async fn update(steps: Steps<'_>) {
    let types = [
        TYPE_POD_CAPTURE,
        TYPE_ENROLLED_NAMESPACE,
        TYPE_NODE_CONFIG,
        "other",
    ];
    let batches = steps.map(|(kind, bytes)| Batch {
        type_url: types[usize::from(kind % 4)].to_owned(),
        added: vec![Resource {
            name: ["uid", "node"][usize::from(kind >> 2 & 1)].to_owned(),
            version: String::new(),
            bytes: bytes.to_vec(),
        }],
        removed: (kind & 16 != 0).then(|| "uid".to_owned()).into_iter().collect(),
        complete: kind & 8 != 0,
    });
    for rejected in ambit_agent::testing::update(batches.collect()).await {
        assert!(rejected <= 1);
    }
}

thread_local!(static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime"));

fuzz_target!(|data: &[u8]| {
    let Some((side, rest)) = data.split_first() else {
        return;
    };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            match side % 3 {
                0 => to_agent(Steps(rest)).await,
                1 => to_ztunnel(Steps(rest)).await,
                _ => update(Steps(rest)).await,
            }
        });
    });
});
