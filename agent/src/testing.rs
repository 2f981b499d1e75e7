//! What the agent takes from a ztunnel and from the control plane, with nothing behind it: for tests.

use ambit_wire::broker_channel::Channel;
use ambit_wire::xds::Batch;
use ambit_wire::xds::Handler as _;

use crate::broker::session;
use crate::capture::{FromSession, Handle, SessionId};
use crate::control::Updates;

/// Talks with a ztunnel at the other end of `channel` until it has gone or broken the protocol; tells `heard` all that the agent would act
/// on, and returns why the conversation ended before its time.
pub async fn converse(channel: Channel, mut heard: impl FnMut(FromSession)) -> Option<String> {
    let (manager, mut next) = Handle::to_nobody();
    let conversation = session::converse(channel, SessionId(1), &manager, "testing");
    tokio::pin!(conversation);
    let ended = std::future::poll_fn(|cx| {
        let mut ended = conversation.as_mut().poll(cx);
        // What is taken makes room for more.
        while ended.is_pending() {
            let Some(event) = next() else {
                return std::task::Poll::Pending;
            };
            heard(event);
            ended = conversation.as_mut().poll(cx);
        }
        ended
    })
    .await;
    while let Some(event) = next() {
        heard(event);
    }
    ended.err().map(|error| error.to_string())
}

/// Takes what a control plane sends; returns how many resources of each batch are rejected.
pub async fn update(batches: Vec<Batch>) -> Vec<usize> {
    let (manager, _) = Handle::to_nobody();
    let mut updates = Updates::new(manager);
    let mut rejected = Vec::new();
    for batch in batches {
        rejected.push(updates.apply(batch).await.len());
    }
    rejected
}
