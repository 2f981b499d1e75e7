//! The windows of one connection's streams: narrow by right, wide while memory is lent for each of them.
//!
//! HTTP/2 knows no window of one stream: SETTINGS change those of all. So all are widened when one stream needs it, and narrowed when none
//! has for a while, or when there is nothing to lend for the next one. A loan ends when its stream can hold no more than a narrow window:
//! after the peer has acknowledged, and what came before has been read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Context;
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::memory::{Borrower, Loan};

/// HTTP/2's own, which holds before any SETTINGS.
const NARROW: u32 = 65_535;
/// Streams that a connection with wide windows can take when there is nothing more to lend: as many may come before the peer has heard
/// that windows are narrow again.
const SPARES: usize = 4;
/// A stream on which so much is read within [`RUN_TIME`] needs a wide window.
const RUN: usize = 256 << 10;
const RUN_TIME: Duration = Duration::from_secs(1);

/// The windows of one connection.
#[derive(Debug)]
pub(super) struct Windows {
    memory: Borrower,
    narrow: u32,
    wide: u32,
    state: Mutex<State>,
    /// There is something to do for the connection's task.
    pending: AtomicBool,
    /// Wide windows were needed since the last look.
    needed: AtomicBool,
    task: AtomicWaker,
}

#[derive(Debug)]
struct State {
    level: Level,
    /// To be narrow, or wide.
    wanted: Level,
    spares: Vec<Loan>,
    streams: Vec<Weak<Credit>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Narrow,
    Wide,
    /// The peer has not acknowledged yet.
    Narrowing,
}

/// What one stream may hold.
#[derive(Debug)]
pub(super) struct Credit {
    windows: Arc<Windows>,
    loan: Mutex<Option<Loan>>,
    /// The loan is to be given back.
    recalled: AtomicBool,
    /// Of the stream's task.
    waker: AtomicWaker,
}

impl Windows {
    pub(super) fn new(memory: Borrower, most: u32) -> Arc<Self> {
        Arc::new(Self {
            memory,
            narrow: NARROW.min(most),
            wide: most,
            state: Mutex::new(State {
                level: Level::Narrow,
                wanted: Level::Narrow,
                spares: Vec::new(),
                streams: Vec::new(),
            }),
            pending: AtomicBool::new(false),
            needed: AtomicBool::new(false),
            task: AtomicWaker::new(),
        })
    }

    /// What a connection begins with.
    pub(super) fn initial(&self) -> u32 {
        self.narrow
    }

    fn lend(&self) -> Option<Loan> {
        self.memory.borrow((self.wide - self.narrow) as usize)
    }

    /// For one more stream. `None` while windows are wide and nothing can be lent for it: then another connection, with narrow ones, has
    /// to take it.
    pub(super) fn open(self: &Arc<Self>) -> Option<Arc<Credit>> {
        let mut state = self.state.lock();
        let mut loan = None;
        if state.level != Level::Narrow {
            if state.spares.len() < SPARES {
                match self.lend() {
                    Some(loan) => state.spares.push(loan),
                    None => self.want(&mut state, Level::Narrow),
                }
            }
            loan = Some(state.spares.pop()?);
        }
        let credit = Arc::new(Credit {
            windows: Arc::clone(self),
            loan: Mutex::new(loan),
            recalled: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        if state.streams.len() == state.streams.capacity() {
            state.streams.retain(|stream| stream.strong_count() > 0);
        }
        state.streams.push(Arc::downgrade(&credit));
        Some(credit)
    }

    fn want(&self, state: &mut State, level: Level) {
        state.wanted = level;
        self.pending.store(true, Ordering::Release);
        self.task.wake();
    }

    /// To be called from time to time: narrows windows that nobody has needed since the last call.
    pub(super) fn tick(&self) {
        let needed = self.needed.swap(false, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.level == Level::Wide && !needed {
            self.want(&mut state, Level::Narrow);
        }
    }

    /// To be called in each turn of the connection's task, which is woken when there is something to do. `set` sends SETTINGS; it fails while
    /// earlier ones are not acknowledged. Whether there is something to send.
    pub(super) fn poll(&self, cx: &Context<'_>, set: impl FnOnce(u32) -> bool) -> bool {
        self.task.register(cx.waker());
        if !self.pending.swap(false, Ordering::Acquire) {
            return false;
        }
        let mut state = self.state.lock();
        match (state.level, state.wanted) {
            (Level::Narrow, Level::Wide) => self.widen(&mut state, set),
            (Level::Wide, Level::Narrow) => {
                // Tried again in the next turn; an acknowledgement makes one.
                self.pending.store(true, Ordering::Release);
                let sent = set(self.narrow);
                if sent {
                    state.level = Level::Narrowing;
                }
                sent
            }
            (Level::Narrowing, _) => {
                // It can be said once more when it has been acknowledged.
                let acknowledged = set(self.narrow);
                if acknowledged {
                    self.recall(&mut state);
                } else {
                    self.pending.store(true, Ordering::Release);
                }
                acknowledged
            }
            _ => false,
        }
    }

    fn widen(&self, state: &mut State, set: impl FnOnce(u32) -> bool) -> bool {
        state.streams.retain(|stream| stream.strong_count() > 0);
        let streams: Vec<_> = state.streams.iter().filter_map(Weak::upgrade).collect();
        let without: Vec<_> = streams.iter().filter(|s| s.loan.lock().is_none()).collect();
        let mut loans = Vec::new();
        for _ in 0..without.len() + SPARES {
            let Some(loan) = self.lend() else {
                // Until a stream needs it again.
                state.wanted = Level::Narrow;
                return false;
            };
            loans.push(loan);
        }
        if !set(self.wide) {
            self.pending.store(true, Ordering::Release);
            return false;
        }
        state.level = Level::Wide;
        for (stream, loan) in without.iter().zip(loans.drain(SPARES..)) {
            *stream.loan.lock() = Some(loan);
        }
        for stream in streams {
            stream.recalled.store(false, Ordering::Release);
        }
        state.spares = loans;
        true
    }

    fn recall(&self, state: &mut State) {
        state.level = Level::Narrow;
        state.wanted = Level::Narrow;
        state.spares.clear();
        for stream in state.streams.iter().filter_map(Weak::upgrade) {
            if stream.loan.lock().is_some() {
                stream.recalled.store(true, Ordering::Release);
                stream.waker.wake();
            }
        }
    }
}

impl Credit {
    /// The stream's task waits. It is woken when the loan is to be given back.
    pub(super) fn waits(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Gives the loan back if that is wanted, and `held` bytes fit into a narrow window; whether it does.
    pub(super) fn settle(&self, held: impl FnOnce() -> usize) -> bool {
        if !self.recalled.load(Ordering::Acquire) || held() > self.windows.narrow as usize {
            return false;
        }
        let _state = self.windows.state.lock();
        // Windows may have been widened again meanwhile.
        let settled = self.recalled.swap(false, Ordering::AcqRel);
        if settled {
            self.loan.lock().take();
        }
        settled
    }
}

/// Finds out whether a stream needs a wide window.
#[derive(Debug)]
pub(super) struct Run {
    bytes: usize,
    since: Instant,
}

impl Run {
    pub(super) fn new() -> Self {
        Self {
            bytes: 0,
            since: Instant::now(),
        }
    }

    /// So many bytes were read.
    pub(super) fn read(&mut self, bytes: usize, credit: &Credit) {
        self.bytes += bytes;
        if self.bytes < RUN {
            return;
        }
        let windows = &credit.windows;
        if self.since.elapsed() < RUN_TIME && windows.wide > windows.narrow {
            windows.needed.store(true, Ordering::Relaxed);
            let mut state = windows.state.lock();
            if state.level == Level::Narrow {
                windows.want(&mut state, Level::Wide);
            }
        }
        *self = Self::new();
    }
}
