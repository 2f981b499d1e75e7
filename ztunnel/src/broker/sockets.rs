//! Unconnected sockets of one pod's network namespace, made by the agent and kept in store.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ambit_wire::broker::{NeedSockets, from_ztunnel::Message};
use ambit_wire::names::BROKER_MAX_SOCKETS;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Outbox;

/// Why there is no socket.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("no socket from the node agent within {}s; is the agent of this node running?", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("the node agent could not make a socket: {0}")]
    Agent(String),
    #[error("the pod is going away")]
    Closed,
}

/// A pod's store of sockets. It grows with the traffic: each connection that finds it empty doubles what is kept.
#[derive(Debug)]
pub(crate) struct SocketPool {
    uid: Arc<str>,
    outbox: Outbox,
    low: usize,
    high: usize,
    v4: Mutex<Store>,
    v6: Mutex<Store>,
}

#[derive(Debug)]
struct Store {
    idle: Vec<OwnedFd>,
    waiting: VecDeque<oneshot::Sender<Result<OwnedFd, SocketError>>>,
    /// Asked for and not answered, request by request.
    asked: VecDeque<usize>,
    /// How many to keep. 0 until the first is needed.
    keep: usize,
    /// Fewest that lay idle since the last [`SocketPool::shrink`].
    fewest: usize,
    closed: bool,
}

impl Store {
    fn new(keep: usize) -> Mutex<Self> {
        let store = Self {
            idle: Vec::new(),
            waiting: VecDeque::new(),
            asked: VecDeque::new(),
            keep,
            fewest: 0,
            closed: false,
        };
        Mutex::new(store)
    }

    /// How many to ask for now: not for every single one that is taken, but before half of the store is gone.
    fn lack(&mut self) -> usize {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let wanted = self.keep + self.waiting.len();
        let coming: usize = self.asked.iter().sum();
        let lack = wanted.saturating_sub(self.idle.len() + coming);
        if self.waiting.len() > coming || lack * 2 >= wanted {
            lack
        } else {
            0
        }
    }
}

impl SocketPool {
    /// An empty store that keeps `low` IPv4 sockets, and up to `high` of either version once they are needed. IPv6 sockets are
    /// asked for from the first use on.
    pub(crate) fn new(uid: Arc<str>, outbox: Outbox, low: usize, high: usize) -> Self {
        let pool = Self {
            uid,
            outbox,
            low,
            high: high.max(1),
            v4: Store::new(low),
            v6: Store::new(0),
        };
        pool.ask(4, &mut pool.v4.lock());
        pool
    }

    fn store(&self, ip_version: u32) -> &Mutex<Store> {
        if ip_version == 6 { &self.v6 } else { &self.v4 }
    }

    /// A socket to connect to `address` with, waiting up to `timeout` for the agent to make one.
    pub(crate) async fn take(&self, address: IpAddr, timeout: Duration) -> Result<OwnedFd, SocketError> {
        let ip_version = if address.is_ipv4() { 4 } else { 6 };
        let receiver = {
            let mut store = self.store(ip_version).lock();
            if store.closed {
                return Err(SocketError::Closed);
            }
            if let Some(socket) = store.idle.pop() {
                store.fewest = store.fewest.min(store.idle.len());
                self.ask(ip_version, &mut store);
                return Ok(socket);
            }
            store.fewest = 0;
            store.keep = (store.keep * 2).clamp(1, self.high);
            let (sender, receiver) = oneshot::channel();
            store.waiting.push_back(sender);
            self.ask(ip_version, &mut store);
            receiver
        };
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(SocketError::Closed),
            Err(_) => Err(SocketError::Timeout(timeout)),
        }
    }

    fn ask(&self, ip_version: u32, store: &mut Store) {
        let mut lack = store.lack();
        while lack > 0 {
            let count = lack.min(BROKER_MAX_SOCKETS);
            let need = NeedSockets {
                uid: self.uid.to_string(),
                ip_version,
                count: count as u32,
            };
            if !self.outbox.send(Message::NeedSockets(need)) {
                return;
            }
            store.asked.push_back(count);
            lack -= count;
        }
    }

    /// The agent's answer to the oldest request.
    pub(crate) fn deliver(&self, ip_version: u32, sockets: Vec<OwnedFd>, error: &str) {
        let mut store = self.store(ip_version).lock();
        store.asked.pop_front();
        if store.closed {
            return;
        }
        store.idle.extend(sockets);
        while let Some(waiting) = store.waiting.pop_front() {
            let Some(socket) = store.idle.pop() else {
                store.waiting.push_front(waiting);
                break;
            };
            if let Err(Ok(back)) = waiting.send(Ok(socket)) {
                store.idle.push(back);
            }
        }
        if error.is_empty() {
            self.ask(ip_version, &mut store);
        } else if store.asked.is_empty() {
            // Nobody is asked again before the next connection comes: no loop of failures.
            for waiting in store.waiting.drain(..) {
                waiting.send(Err(SocketError::Agent(error.to_owned()))).ok();
            }
        }
    }

    /// There is a new agent: what the old one was asked for is asked again.
    pub(crate) fn reconnected(&self) {
        for ip_version in [4, 6] {
            let mut store = self.store(ip_version).lock();
            store.asked.clear();
            self.ask(ip_version, &mut store);
        }
    }

    /// Keeps half as many where half of them lay idle since the last call, but not fewer than at first.
    pub(crate) fn shrink(&self) {
        for (store, low) in [(&self.v4, self.low), (&self.v6, 0)] {
            let mut store = store.lock();
            if store.fewest * 2 >= store.keep {
                store.keep = (store.keep / 2).max(low);
                let keep = store.keep;
                store.idle.truncate(keep);
            }
            store.fewest = store.idle.len();
        }
    }

    /// Gives all sockets back, and fails those who wait.
    pub(crate) fn close(&self) {
        for ip_version in [4, 6] {
            let mut store = self.store(ip_version).lock();
            store.closed = true;
            store.idle.clear();
            store.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests;
