//! Timeouts and retries (GEP-1742, GEP-1731).

use std::time::Duration;

use crate::error::{At, FieldResult};
use crate::{Reason, RetrySpec, TimeoutSpec};

/// More retries than this are never made for one request.
pub const MAX_RETRIES: u32 = 10;

/// What the API leaves to implementations; Istio and Envoy have these values.
const DEFAULT_RETRIES: u32 = 2;
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// The timeouts of a rule. Zero: none, whatever else would apply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// For the whole request, with all its retries.
    pub request: Option<Duration>,
    /// For each attempt.
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    pub(crate) fn compile(spec: &TimeoutSpec) -> FieldResult<Self> {
        let timeouts = Self {
            request: spec.request,
            backend_request: spec.backend_request,
        };
        match (timeouts.request, timeouts.backend_request) {
            (Some(request), Some(backend)) if !request.is_zero() && backend > request => {
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

    /// The least wait before a retry.
    pub fn backoff(&self) -> Duration {
        self.backoff
    }
}
