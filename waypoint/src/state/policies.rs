//! What policies say of requests.

use std::sync::Arc;
use std::time::Duration;

use ambit_l7::Plan;
use ambit_wire::waypoint as wire;
use ambit_wire::waypoint_policy::WaypointPolicy;

use super::{Retry, RuleSet};

/// The longest pause before a retry of a route, as a multiple of the least.
const LONGEST_BACKOFF: u32 = 10;

/// What policies say of the requests of a service, of one of its ports, or of a rule of a route there.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestPolicies {
    /// The authorization rules.
    pub(crate) rules: RuleSet,
    /// Timeout of a request, all attempts together, until the head of the response.
    pub(crate) timeout: Option<Chosen<Duration>>,
    pub(crate) retry: Option<Chosen<Retry>>,
}

/// The part of one policy, or of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen<T> {
    /// The policy, `<namespace>/<name>`; or the rule of the route.
    pub(crate) policy: Arc<str>,
    pub(crate) value: T,
}

/// The policies for one part of the requests, by name (`<namespace>/<name>`).
#[derive(Debug, Clone, Default)]
pub(super) struct PolicyNames {
    /// Policies with rules, set by set.
    pub(super) sets: Vec<Vec<Arc<str>>>,
    timeout: Option<Arc<str>>,
    retry: Option<Arc<str>>,
}

impl PolicyNames {
    pub(super) fn new(sets: Vec<wire::RuleSet>, timeout: String, retry: String) -> Self {
        let some = |name: String| (!name.is_empty()).then(|| Arc::from(name));
        Self {
            sets: sets
                .into_iter()
                .map(|set| set.policies.into_iter().map(Arc::from).collect())
                .collect(),
            timeout: some(timeout),
            retry: some(retry),
        }
    }

    pub(super) fn names_any(&self, policies: &[Arc<str>]) -> bool {
        let rules = self.sets.iter().flatten();
        let mut all = rules.chain(&self.timeout).chain(&self.retry);
        all.any(|name| policies.contains(name))
    }
}

impl From<wire::ScopedPolicies> for PolicyNames {
    fn from(from: wire::ScopedPolicies) -> Self {
        Self::new(from.authorization, from.timeout, from.retry)
    }
}

impl RequestPolicies {
    /// For a part of the requests, with policies of its own: the rules of all apply, and their timeout and retries go
    /// before.
    pub(super) fn narrowed(
        &self,
        names: &PolicyNames,
        policy: impl Fn(&str) -> Option<Arc<WaypointPolicy>>,
    ) -> Self {
        fn chosen<T>(name: &Option<Arc<str>>, value: impl FnOnce(&str) -> Option<T>) -> Option<Chosen<T>> {
            let policy = name.as_ref()?;
            Some(Chosen {
                value: value(policy)?,
                policy: Arc::clone(policy),
            })
        }
        let timeout = chosen(&names.timeout, |name| policy(name)?.timeout);
        let retry = chosen(&names.retry, |name| policy(name)?.retry.clone());
        Self {
            rules: self.rules.and(&names.sets, policy),
            timeout: timeout.or_else(|| self.timeout.clone()),
            retry: retry.or_else(|| self.retry.clone()),
        }
    }

    /// For the requests of a rule of a route, whose own timeouts and retries go before those of policies. What the rule
    /// does not say is the policies'.
    pub(super) fn of_rule(mut self, plan: &Plan) -> Self {
        match plan.timeouts.request {
            None => {}
            Some(Duration::ZERO) => self.timeout = None,
            Some(timeout) => self.timeout = Some(Chosen::of(plan, timeout)),
        }
        let of_policy = self
            .retry
            .as_ref()
            .and_then(|policy| policy.value.per_try_timeout);
        let own = plan.timeouts.backend_request;
        let per_try = own.map_or(of_policy, |own| Some(own).filter(|own| !own.is_zero()));
        match (&plan.retry, &mut self.retry) {
            (Some(retry), _) => {
                let retry = retries(retry.attempts(), retry.codes(), retry.backoff(), per_try);
                self.retry = Some(Chosen::of(plan, retry));
            }
            (None, Some(policy)) => policy.value.per_try_timeout = per_try,
            (None, None) if per_try.is_some() => {
                self.retry = Some(Chosen::of(plan, retries(0, &[], Duration::ZERO, per_try)));
            }
            (None, None) => {}
        }
        self
    }
}

impl<T> Chosen<T> {
    fn of(plan: &Plan, value: T) -> Self {
        Self {
            policy: Arc::clone(&plan.label),
            value,
        }
    }
}

/// Retries of a route, as a policy has them.
fn retries(attempts: u32, codes: &[u16], backoff: Duration, per_try_timeout: Option<Duration>) -> Retry {
    Retry {
        attempts,
        status_codes: codes.to_vec(),
        connect_failure: true,
        reset: true,
        per_try_timeout,
        backoff_min: backoff,
        backoff_base: backoff.saturating_mul(2),
        backoff_max: backoff.saturating_mul(LONGEST_BACKOFF),
        non_idempotent: false,
    }
}
