//! What is tried again, and when.

use std::time::Duration;

use ambit_wire::waypoint_policy::Retry;
use http::StatusCode;
use rand::Rng;

/// Why a try came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The endpoint has certainly not looked at the request: no connection came about, or it says so.
    Unseen,
    /// The endpoint closed a connection that it had kept open, most likely before it read the request.
    Stale,
    /// The connection ended, or the time for one try was over, before an answer came.
    Reset,
    /// There is a response, and it cannot be passed on.
    Unusable,
    /// An answer that may be tried again.
    Status(StatusCode),
}

/// A right to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    /// After this pause.
    pub(crate) pause: Duration,
    /// By the policy; else for nothing, because the endpoint has not looked at the request.
    pub(crate) by_policy: bool,
}

/// What is left of a request's right to be tried again.
#[derive(Debug)]
pub(crate) struct Budget<'a> {
    policy: Option<&'a Retry>,
    /// Whether the endpoint may see the request twice.
    repeatable: bool,
    /// Retries that the policy paid for.
    spent: u32,
    /// One retry of a request that was not looked at is for nothing.
    free: bool,
}

impl<'a> Budget<'a> {
    pub(crate) fn new(policy: Option<&'a Retry>, idempotent: bool) -> Self {
        Self {
            repeatable: idempotent || policy.is_some_and(|policy| policy.non_idempotent),
            policy,
            spent: 0,
            free: true,
        }
    }

    /// Whether a second try is possible at all, after the endpoint may have seen the first: then the body is kept.
    pub(crate) fn may_repeat(&self) -> bool {
        self.repeatable
    }

    /// The policy, where it pays for a retry.
    fn paid(&self, failed: Failed) -> Option<&'a Retry> {
        let allowed = match (failed, self.policy) {
            (Failed::Stale | Failed::Reset | Failed::Status(_), _) if !self.repeatable => false,
            (Failed::Unusable, _) | (_, None) => false,
            (Failed::Unseen, Some(policy)) => policy.connect_failure,
            (Failed::Stale | Failed::Reset, Some(policy)) => policy.reset,
            (Failed::Status(status), Some(policy)) => policy.status_codes.contains(&status.as_u16()),
        };
        self.policy
            .filter(|policy| allowed && self.spent < policy.attempts)
    }

    /// Whether the policy pays for a retry.
    pub(crate) fn is_paid(&self, failed: Failed) -> bool {
        self.paid(failed).is_some()
    }

    /// Whether there is a retry for nothing.
    pub(crate) fn is_free(&self, failed: Failed) -> bool {
        self.free && (failed == Failed::Unseen || (failed == Failed::Stale && self.repeatable))
    }

    /// Takes a retry, if there is one for this; one that the policy pays for only where that `may_pay`.
    pub(crate) fn take(&mut self, failed: Failed, may_pay: bool) -> Option<Again> {
        if let Some(policy) = self.paid(failed).filter(|_| may_pay) {
            self.spent += 1;
            return Some(Again {
                pause: pause(policy, self.spent, &mut rand::rng()),
                by_policy: true,
            });
        }
        if !self.is_free(failed) {
            return None;
        }
        self.free = false;
        Some(Again {
            pause: Duration::ZERO,
            by_policy: false,
        })
    }
}

/// The least pause, and a random part of a span that doubles with each retry: many clients whose requests failed at once do not come back at once.
fn pause(policy: &Retry, retry: u32, random: &mut impl Rng) -> Duration {
    let doubled = policy
        .backoff_base
        .saturating_mul(1_u32.checked_shl(retry - 1).unwrap_or(u32::MAX))
        .min(policy.backoff_max);
    let least = policy.backoff_min.min(doubled);
    least + (doubled - least).mul_f64(random.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Budget<'_> {
        fn has(&self, failed: Failed) -> bool {
            self.is_paid(failed) || self.is_free(failed)
        }
    }

    fn policy() -> Retry {
        Retry {
            attempts: 2,
            status_codes: vec![503],
            connect_failure: true,
            reset: true,
            per_try_timeout: None,
            backoff_min: Duration::ZERO,
            backoff_base: Duration::from_millis(10),
            backoff_max: Duration::from_millis(100),
            non_idempotent: false,
        }
    }

    #[test]
    fn a_policy_pays_for_its_attempts_and_one_unseen_request_is_free() {
        let policy = policy();
        let mut budget = Budget::new(Some(&policy), true);
        assert!(budget.has(Failed::Status(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(!budget.has(Failed::Status(StatusCode::BAD_GATEWAY)));
        assert!(
            budget
                .take(Failed::Status(StatusCode::SERVICE_UNAVAILABLE), true)
                .is_some()
        );
        assert!(budget.take(Failed::Reset, false).is_none());
        assert!(budget.take(Failed::Reset, true).is_some());
        assert!(!budget.has(Failed::Status(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(budget.take(Failed::Reset, true).is_none());
        assert!(budget.has(Failed::Unseen));
        assert!(budget.take(Failed::Unseen, true).is_some());
        assert!(!budget.has(Failed::Unseen));
        assert!(budget.take(Failed::Unseen, true).is_none());
    }

    #[test]
    fn what_is_not_idempotent_is_tried_again_only_when_unseen_or_asked() {
        let mut policy = policy();
        let mut budget = Budget::new(Some(&policy), false);
        assert!(!budget.may_repeat());
        assert!(!budget.has(Failed::Status(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(
            budget
                .take(Failed::Status(StatusCode::SERVICE_UNAVAILABLE), true)
                .is_none()
        );
        assert!(budget.take(Failed::Reset, true).is_none());
        assert!(budget.take(Failed::Stale, true).is_none());
        assert!(budget.take(Failed::Unseen, true).is_some());
        policy.non_idempotent = true;
        let mut budget = Budget::new(Some(&policy), false);
        assert!(budget.take(Failed::Reset, true).is_some());
    }

    #[test]
    fn without_a_policy_only_what_was_not_looked_at_is_tried_once_more() {
        let mut budget = Budget::new(None, true);
        assert!(budget.take(Failed::Reset, true).is_none());
        assert!(
            budget
                .take(Failed::Status(StatusCode::SERVICE_UNAVAILABLE), true)
                .is_none()
        );
        let free = Again {
            pause: Duration::ZERO,
            by_policy: false,
        };
        assert_eq!(budget.take(Failed::Stale, true), Some(free));
        assert_eq!(budget.take(Failed::Unseen, true), None);
    }

    #[test]
    fn pauses_double_up_to_their_bound_and_are_random() {
        let policy = policy();
        let mut random = rand::rng();
        for (retry, bound) in [(1, 10), (2, 20), (3, 40), (5, 100), (40, 100)] {
            let pauses: Vec<_> = (0..200).map(|_| pause(&policy, retry, &mut random)).collect();
            let bound = Duration::from_millis(bound);
            assert!(pauses.iter().all(|pause| *pause <= bound), "{retry}");
            assert!(pauses.iter().any(|pause| *pause > bound / 2), "{retry}");
            assert!(pauses.iter().any(|pause| *pause < bound / 2), "{retry}");
        }
    }

    #[test]
    fn no_pause_is_shorter_than_the_least() {
        let policy = Retry {
            backoff_min: Duration::from_millis(100),
            backoff_base: Duration::from_millis(200),
            backoff_max: Duration::from_secs(1),
            ..policy()
        };
        let mut random = rand::rng();
        for (retry, bound) in [(1, 200), (2, 400), (6, 1000), (40, 1000)] {
            let pauses: Vec<_> = (0..200)
                .map(|_| pause(&policy, retry, &mut random).as_millis())
                .collect();
            assert!(
                pauses.iter().all(|pause| (100..=bound).contains(pause)),
                "{retry}"
            );
            assert!(pauses.iter().any(|pause| *pause > (100 + bound) / 2), "{retry}");
        }
    }
}
