//! Timeouts and retries (GEP-1742, GEP-1731).

use std::time::Duration;

use http::StatusCode;

use crate::error::{At, FieldResult};
use crate::{Reason, RetrySpec, TimeoutSpec};

/// More retries than this are never made for one request.
pub const MAX_RETRIES: u32 = 10;

/// What the API leaves to implementations; Istio and Envoy have these values.
const DEFAULT_RETRIES: u32 = 2;
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// The longest wait, as a multiple of the shortest.
const MAX_BACKOFF: u32 = 10;

/// The timeouts of a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For the whole request, with all its retries.
    pub request: Option<Duration>,
    /// For each attempt.
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    pub(crate) fn compile(spec: &TimeoutSpec) -> FieldResult<Self> {
        let positive = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
        let timeouts = Self {
            request: positive(spec.request),
            backend_request: positive(spec.backend_request),
        };
        match (timeouts.request, timeouts.backend_request) {
            (Some(request), Some(backend)) if backend > request => {
                Err(Reason::TimeoutOrder).at("backendRequest")
            }
            _ => Ok(timeouts),
        }
    }
}

/// The retries of a rule. Which methods may be repeated is the caller's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    codes: Box<[u16]>,
    attempts: u32,
    backoff: Duration,
}

impl Retry {
    pub(crate) fn compile(spec: &RetrySpec) -> FieldResult<Self> {
        for (i, code) in spec.codes.iter().enumerate() {
            if !(400..=599).contains(code) {
                return Err(Reason::RetryStatus(*code)).at(format_args!("codes[{i}]"));
            }
        }
        Ok(Self {
            codes: spec.codes.as_slice().into(),
            attempts: spec.attempts.unwrap_or(DEFAULT_RETRIES).min(MAX_RETRIES),
            backoff: spec.backoff.unwrap_or(DEFAULT_BACKOFF),
        })
    }

    /// How often a request may be repeated: at most [`MAX_RETRIES`].
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The statuses that are retried.
    pub fn codes(&self) -> &[u16] {
        &self.codes
    }

    /// Whether a response with this status is retried.
    pub fn is_retriable(&self, status: StatusCode) -> bool {
        self.codes.contains(&status.as_u16())
    }

    /// The wait before a retry, of which 0 is the first: never less than the configured one, at most ten times it. The
    /// range doubles with each retry, and a number that is uniform over its whole range says where in it.
    pub fn backoff(&self, retry: u32, random: u32) -> Duration {
        let most = 2u32.saturating_pow(retry.saturating_add(1)).min(MAX_BACKOFF);
        let range = self.backoff.saturating_mul(most - 1);
        let nanos = (range.as_nanos() * u128::from(random)) >> 32;
        let extra = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.backoff.saturating_add(extra)
    }
}
