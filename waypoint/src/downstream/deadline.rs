//! When a response has to have ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::state::{Chosen, Retry};

/// The end of a timeout, which is the end of the whole response (GEP-1742).
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
    /// Whose timeout it is: a policy, or the rule of a route.
    pub(super) policy: Arc<str>,
    of_attempt: bool,
    /// Only while a body is awaited: most are there with the head.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Of a request that begins now, with all of its attempts.
    pub(super) fn of_request(timeout: &Chosen<Duration>) -> Self {
        Self::new(&timeout.policy, timeout.value, false)
    }

    /// Of an attempt that begins now, where attempts have one.
    pub(super) fn of_attempt(retry: &Chosen<Retry>) -> Option<Self> {
        let limit = retry.value.per_try_timeout?;
        Some(Self::new(&retry.policy, limit, true))
    }

    fn new(policy: &Arc<str>, limit: Duration, of_attempt: bool) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
            policy: Arc::clone(policy),
            of_attempt,
            timer: None,
        }
    }

    /// The earlier of two.
    pub(super) fn first(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        one.into_iter().chain(other).min_by_key(|deadline| deadline.at)
    }

    /// Awaits `work` until then.
    pub(super) async fn limit<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.at, work).await.ok()
    }

    /// Whether it has passed.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.at
    }

    /// Resolves when it has passed.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.at;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        timer.as_mut().poll(cx)
    }

    /// What the caller, the log and the metrics are told.
    pub(super) fn reason(&self) -> String {
        let attempt = if self.of_attempt { " for one attempt" } else { "" };
        format!("timeout: {} {:?}{attempt}", self.policy, self.limit)
    }
}
