//! Bytes that wait in the waypoint, counted for the caller for whom they came.
//!
//! One budget covers them all, shared out by the caller's identity ([`Shares`](ambit_runtime::Shares)). What arrives and does not fit ends
//! the stream that it came on; that is counted. Before it comes to that, a caller that holds most of its share gets no windows back
//! beyond a small one, and its new connections and requests are refused.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use ambit_identity::SpiffeId;
use ambit_runtime::Holder;
use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use prometheus::IntCounter;

/// A caller's account.
#[derive(Clone)]
pub(crate) struct Account(Arc<Inner>);

struct Inner {
    holder: Arc<Holder<SpiffeId>>,
    /// Counts what there was no room for.
    overloads: IntCounter,
}

/// There is no room for what came.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the waypoint is overloaded")]
pub(crate) struct NoRoom;

impl Account {
    pub(crate) fn new(holder: Arc<Holder<SpiffeId>>, overloads: IntCounter) -> Self {
        Self(Arc::new(Inner { holder, overloads }))
    }

    /// For something new, unless the caller holds most of its share already.
    pub(crate) fn admit(&self, bytes: usize) -> Option<Held> {
        let mut held = self.nothing();
        (!self.0.holder.is_short() && held.0.grow(bytes)).then_some(held)
    }

    /// Counts what is bounded otherwise, or has been counted elsewhere before.
    pub(crate) fn hold_anyway(&self, bytes: usize) -> Held {
        let mut held = self.nothing();
        held.0.grow_anyway(bytes);
        held
    }

    /// Nothing yet.
    pub(crate) fn nothing(&self) -> Held {
        Held(self.0.holder.nothing(), self.clone())
    }

    /// Whether the caller holds most of its share.
    pub(crate) fn is_short(&self) -> bool {
        self.0.holder.is_short()
    }

    /// As streams of HBONE count on it.
    pub(crate) fn payer(&self) -> Arc<dyn ambit_hbone::Account> {
        Arc::new(self.clone())
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account")
    }
}

impl ambit_hbone::Account for Account {
    fn hold(&self, bytes: usize) -> bool {
        let fits = self.0.holder.add(bytes);
        if !fits {
            self.0.overloads.inc();
        }
        fits
    }

    fn hold_anyway(&self, bytes: usize) {
        self.0.holder.add_anyway(bytes);
    }

    fn release(&self, bytes: usize) {
        self.0.holder.subtract(bytes);
    }

    fn is_short(&self) -> bool {
        Self::is_short(self)
    }
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Held(ambit_runtime::Held<SpiffeId>, Account);

impl Held {
    /// So many more.
    ///
    /// # Errors
    /// When there is no room for them; that is counted.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if self.0.grow(bytes) {
            return Ok(());
        }
        self.1.0.overloads.inc();
        Err(NoRoom)
    }

    /// So many more, without a word where there is no room for them.
    pub(crate) fn try_grow(&mut self, bytes: usize) -> bool {
        self.0.grow(bytes)
    }

    /// So many more that are bounded otherwise.
    pub(crate) fn grow_anyway(&mut self, bytes: usize) {
        self.0.grow_anyway(bytes);
    }

    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.0.shrink(bytes);
    }

    pub(crate) fn clear(&mut self) {
        self.0.shrink(usize::MAX);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.places()
    }
}

/// What a stream of HTTP/2 has given to h2 and is not written yet.
#[derive(Debug)]
pub(crate) struct Outbox(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    bytes: AtomicUsize,
    account: Account,
    sender: AtomicWaker,
    /// There until the last of the bytes is written or given up.
    _under_way: Arc<()>,
}

/// Bytes on their way through h2, which drops them once they are written or given up.
#[derive(Debug)]
pub(crate) struct Parcel {
    data: Bytes,
    size: usize,
    outbox: Arc<Waiting>,
}

impl Outbox {
    pub(crate) fn new(account: Account) -> Self {
        Self::of(account, Arc::default())
    }

    /// Holds `under_way` for as long as anything of it is.
    pub(crate) fn of(account: Account, under_way: Arc<()>) -> Self {
        Self(Arc::new(Waiting {
            bytes: AtomicUsize::new(0),
            account,
            sender: AtomicWaker::new(),
            _under_way: under_way,
        }))
    }

    /// Ready when more may be given to h2: at once, or while the account is short only when all before is written.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let has_room = || !self.0.account.is_short() || self.0.bytes.load(Ordering::Acquire) == 0;
        if has_room() {
            return Poll::Ready(());
        }
        self.0.sender.register(cx.waker());
        match has_room() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// To be given to h2.
    pub(crate) fn parcel(&self, data: Bytes) -> Parcel {
        let size = data.len();
        self.0.bytes.fetch_add(size, Ordering::AcqRel);
        self.0.account.0.holder.add_anyway(size);
        let outbox = Arc::clone(&self.0);
        Parcel { data, size, outbox }
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.outbox.account.0.holder.subtract(self.size);
        if self.outbox.bytes.fetch_sub(self.size, Ordering::AcqRel) == self.size {
            self.outbox.sender.wake();
        }
    }
}

impl Buf for Parcel {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, n: usize) {
        self.data.advance(n);
    }
}

/// What hyper has taken from a body and not written yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unwritten(Arc<Mutex<Writing>>);

#[derive(Debug, Default)]
struct Writing {
    held: Option<Held>,
    /// Who takes more of the body.
    taking: Option<Waker>,
}

impl Writing {
    fn wake_if_empty(&mut self) {
        if self.held.as_ref().is_none_or(|held| held.bytes() == 0)
            && let Some(taking) = self.taking.take()
        {
            taking.wake();
        }
    }
}

impl Unwritten {
    /// Counts it on this account from now on, or on none.
    pub(crate) fn set(&self, account: Option<&Account>) {
        let mut writing = self.0.lock();
        let bytes = writing.held.as_ref().map_or(0, Held::bytes);
        writing.held = account.map(|account| account.hold_anyway(bytes));
    }

    /// Ready when hyper may take more: at once, or while the account is short only when all before is written.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut writing = self.0.lock();
        let full = writing
            .held
            .as_ref()
            .is_some_and(|held| held.bytes() > 0 && held.1.is_short());
        if full {
            writing.taking = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn taken(&self, bytes: usize) {
        if let Some(held) = &mut self.0.lock().held {
            held.grow_anyway(bytes);
        }
    }

    /// Bytes of the body, or of what is between.
    pub(crate) fn written(&self, bytes: usize) {
        let mut writing = self.0.lock();
        if let Some(held) = &mut writing.held {
            held.shrink(bytes);
        }
        writing.wake_if_empty();
    }

    /// Nothing is left.
    pub(crate) fn flushed(&self) {
        self.written(usize::MAX);
    }

    /// A body that hyper takes from.
    pub(crate) fn of<B>(&self, body: B) -> Taken<B> {
        self.of_with(body, ())
    }

    /// The same, with what is to be dropped with it.
    pub(crate) fn of_with<B, G>(&self, body: B, guard: G) -> Taken<B, G> {
        let unwritten = self.clone();
        Taken {
            body,
            unwritten,
            _guard: guard,
        }
    }
}

/// A body that counts what is taken from it.
pub(crate) struct Taken<B, G = ()> {
    body: B,
    unwritten: Unwritten,
    _guard: G,
}

impl<B> Taken<B> {
    pub(crate) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body<Data = Bytes> + Unpin, G: Unpin> Body for Taken<B, G> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        ready!(self.unwritten.poll_room(cx));
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.unwritten.taken(data.len());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use ambit_runtime::Shares;

    use super::*;

    /// Of somebody who shares so many bytes with nobody.
    pub(crate) fn account(bytes: usize) -> Account {
        let identity = SpiffeId::new("cluster.local", "shop", "client").unwrap();
        let overloads = IntCounter::new("overloads", "What there was no room for").unwrap();
        Account::new(Shares::new(bytes).holder(&identity), overloads)
    }
}
