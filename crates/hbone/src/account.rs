//! Whom the bytes of a stream are counted for while they wait.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts bytes that wait, for one of those who share the memory.
pub trait Account: Send + Sync + fmt::Debug {
    /// So many bytes more have come. False where there is no room for them: then they are not counted.
    fn hold(&self, bytes: usize) -> bool;

    /// So many bytes more wait that cannot be left: they have been counted elsewhere before, or are bounded otherwise.
    fn hold_anyway(&self, bytes: usize);

    /// So many wait no more.
    fn release(&self, bytes: usize);

    /// Whether there is little room left: the other side is to send less.
    fn is_short(&self) -> bool;
}

/// Whose account the bytes of a stream go on; nobody's at first. The stream and all its bytes that wait share it.
#[derive(Debug, Clone, Default)]
pub struct Payer(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    account: Option<Arc<dyn Account>>,
    held: usize,
}

impl Payer {
    /// What waits from now on, and what waits already, goes on this account.
    pub fn set(&self, account: Option<Arc<dyn Account>>) {
        let mut state = self.0.lock();
        if let Some(account) = &account {
            account.hold_anyway(state.held);
        }
        let before = std::mem::replace(&mut state.account, account);
        if let Some(before) = before {
            before.release(state.held);
        }
    }

    pub(crate) fn hold(&self, bytes: usize) -> bool {
        let mut state = self.0.lock();
        let fits = state.account.as_ref().is_none_or(|account| account.hold(bytes));
        if fits {
            state.held += bytes;
        }
        fits
    }

    pub(crate) fn hold_anyway(&self, bytes: usize) {
        let mut state = self.0.lock();
        state.held += bytes;
        if let Some(account) = &state.account {
            account.hold_anyway(bytes);
        }
    }

    pub(crate) fn release(&self, bytes: usize) {
        let mut state = self.0.lock();
        state.held -= bytes;
        if let Some(account) = &state.account {
            account.release(bytes);
        }
    }

    pub(crate) fn is_short(&self) -> bool {
        let state = self.0.lock();
        state.account.as_ref().is_some_and(|account| account.is_short())
    }
}
