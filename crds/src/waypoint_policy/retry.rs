//! Retries.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which requests are retried, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.codes) && size(self.codes) > 0) || (has(self.conditions) && size(self.conditions) > 0)")
        .message("retry needs codes or conditions: without them no request is retried"),
)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Maximum of retries of a request, from 1 to 10. Defaults to 2.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,

    /// Status codes that are retried, from 400 to 599: 502, 503.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 400, max = 599)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub codes: Vec<u16>,

    /// Failures that are retried. ConnectFailure: no connection to the endpoint was established. Reset: the connection
    /// ended, or timeouts.backendRequest was over, before a response arrived. Defaults to ConnectFailure and Reset.
    #[serde(default = "default_conditions")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub conditions: Vec<RetryCondition>,

    /// The longest pause before the first retry, from 1ms to 1m. It doubles with each retry, up to ten times as long.
    /// The waypoint waits a random part of it. Defaults to 25ms.
    #[serde(default = "default_backoff")]
    #[schemars(length(max = 24), regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1m')")
        .message("backoff must be between 1ms and 1m"))]
    pub backoff: String,

    /// Whether requests that are not idempotent (POST, PATCH) are retried, too: the application may then process a
    /// request twice. Requests that their endpoint has certainly not processed are retried in any case. Defaults to
    /// false.
    #[serde(default)]
    pub non_idempotent: bool,

    /// Not accepted: use codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("false").message("statusCodes is now codes"))]
    pub status_codes: Option<Vec<u16>>,

    /// Not accepted: use spec.timeouts.backendRequest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("false").message("perTryTimeout is now spec.timeouts.backendRequest"))]
    pub per_try_timeout: Option<String>,
}

/// A failure that can be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryCondition {
    /// No connection to the endpoint was established.
    ConnectFailure,
    /// The connection ended, or the time for one attempt was over, before a response arrived.
    Reset,
}

fn default_attempts() -> u32 {
    2
}

fn default_conditions() -> Vec<RetryCondition> {
    vec![RetryCondition::ConnectFailure, RetryCondition::Reset]
}

fn default_backoff() -> String {
    "25ms".to_owned()
}
