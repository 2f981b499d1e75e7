//! Which parts a plan has: what a rule does not use costs one test of a bit.

use crate::{Action, Plan};

/// A set of parts of a [`Plan`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages(u16);

impl Stages {
    /// [`Plan::cors`].
    pub const CORS: Self = Self(1);
    /// The action is a redirect.
    pub const REDIRECT: Self = Self(1 << 1);
    /// The rule changes the request's headers.
    pub const REQUEST_HEADERS: Self = Self(1 << 2);
    /// The rule rewrites host or path.
    pub const REWRITE: Self = Self(1 << 3);
    /// The rule has mirrors.
    pub const MIRROR: Self = Self(1 << 4);
    /// There is more than one backend.
    pub const SPLIT: Self = Self(1 << 5);
    /// At least one backend has filters of its own.
    pub const BACKEND_FILTERS: Self = Self(1 << 6);
    /// There is a timeout.
    pub const TIMEOUT: Self = Self(1 << 7);
    /// There are retries.
    pub const RETRY: Self = Self(1 << 8);
    /// The rule changes the response's headers.
    pub const RESPONSE_HEADERS: Self = Self(1 << 9);

    pub(super) fn of(plan: &Plan) -> Self {
        let backends = match &plan.action {
            Action::Forward(split) => split.backends(),
            Action::Redirect(_) | Action::Invalid => &[],
        };
        let own_filters = |backend: &crate::Backend| backend.filters != crate::Filters::default();
        [
            (Self::CORS, plan.cors.is_some()),
            (Self::REDIRECT, matches!(plan.action, Action::Redirect(_))),
            (Self::REQUEST_HEADERS, !plan.filters.request_headers.is_empty()),
            (Self::REWRITE, plan.filters.rewrite.is_some()),
            (Self::MIRROR, !plan.filters.mirrors.is_empty()),
            (Self::SPLIT, backends.len() > 1),
            (Self::BACKEND_FILTERS, backends.iter().any(own_filters)),
            (Self::TIMEOUT, plan.timeouts != crate::Timeouts::default()),
            (Self::RETRY, plan.retry.is_some()),
            (Self::RESPONSE_HEADERS, !plan.filters.response_headers.is_empty()),
        ]
        .into_iter()
        .filter(|(_, present)| *present)
        .fold(Self(0), |set, (stage, _)| set.with(stage))
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of these are in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
