//! The end of a stream: with its token, its connection, or the client's pod.

use std::sync::Arc;
use std::time::Duration;

use ambit_tls::WallClock;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use futures::{FutureExt as _, Stream};
use rand::Rng as _;
use tonic::Status;

use super::Shared;
use super::auth::Caller;
use super::interfaces::Directory;

/// How often the client's pod is looked up.
const LOOK: Duration = Duration::from_secs(5);

impl Shared {
    /// Resolves when a stream of `caller` is to end, with the status for it.
    pub(super) fn ending(&self, caller: &Caller) -> BoxFuture<'static, Status> {
        let clock = WallClock::default();
        let since = clock.now();
        let left = caller.expiry.duration_since(since).unwrap_or_default();
        // Spread, so that streams opened together do not end together. The kubelet renews a token at 80% of its life.
        let due = since + left.mul_f64(rand::rng().random_range(0.9..1.0));
        let call = Arc::clone(&caller.call);
        let gone = gone(Arc::clone(&self.directory), caller.pod.uid.clone());
        async move {
            tokio::select! {
                () = clock.reached(due) => Status::unavailable("the token expires: open the stream again with a new one"),
                status = call.ended() => status,
                () = gone => Status::unauthenticated("the client's pod is no longer live"),
            }
        }
        .boxed()
    }
}

async fn gone(directory: Arc<dyn Directory>, uid: String) {
    while directory.pod(&uid).is_some() {
        tokio::time::sleep(LOOK).await;
    }
}

/// `responses` until `ending`, whose status is the last item.
pub(super) fn until<T: Send + 'static>(
    responses: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ending: BoxFuture<'static, Status>,
) -> BoxStream<'static, Result<T, Status>> {
    let state = Some((responses.boxed(), ending));
    stream::unfold(state, |state| async move {
        let (mut responses, mut ending) = state?;
        tokio::select! {
            biased;
            status = &mut ending => Some((Err(status), None)),
            response = responses.next() => Some((response?, Some((responses, ending)))),
        }
    })
    .boxed()
}
