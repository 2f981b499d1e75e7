use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ambit_wire::names::TOKEN_AUDIENCE;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::{Api, PostParams};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::control::peers::{Limit, Peers};

/// How long a review is cached.
const BELIEVED: Duration = Duration::from_secs(60);
const MOST_BELIEVED: usize = 10_000;
/// How long a refusal is cached. Short, since a token that a pod has just received may be ahead of the API server.
const REFUSED: Duration = Duration::from_secs(10);
/// Time limit for the API server.
const REVIEW: Duration = Duration::from_secs(5);
/// Concurrent reviews: clients with forged tokens must not overload the API server.
const REVIEWS_AT_ONCE: usize = 16;
/// Reviews running or waiting for their turn; clients past that retry. A ztunnel that reconnects makes several calls at
/// once.
const REVIEWS: Limit = Limit {
    of_one: 32,
    of_all: 512,
};
const LONGEST_TOKEN: usize = 16 * 1024;

/// The API server's review of a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Review {
    /// User: `system:serviceaccount:<namespace>:<name>` for service accounts.
    pub username: String,
    /// UID of that user: of the ServiceAccount object.
    pub uid: Option<String>,
    /// Name of the pod to which the token is bound.
    pub pod_name: Option<String>,
    /// UID of the pod to which the token is bound.
    pub pod_uid: Option<String>,
    /// Node of that pod (Kubernetes 1.32 and later).
    pub node_name: Option<String>,
}

impl Review {
    /// Namespace and name of the service account.
    pub(super) fn service_account(&self) -> Option<(&str, &str)> {
        self.username
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')
    }
}

/// Why a token was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The token is not valid (for this audience).
    #[error("{0}")]
    Invalid(String),
    /// The API server did not respond; the client may retry.
    #[error("{0}")]
    Unavailable(String),
    /// Too many reviews wait; the client may retry.
    #[error("{0}")]
    Busy(String),
}

/// Reviews tokens.
#[tonic::async_trait]
pub trait TokenReviewer: Send + Sync + 'static {
    /// The review of `token` (for the audience `istio-ca`).
    async fn review(&self, token: &str) -> Result<Review, ReviewError>;
}

/// Reviews tokens through the API server, by `TokenReview`.
pub struct KubeTokenReviewer {
    reviews: Api<TokenReview>,
}

impl KubeTokenReviewer {
    /// Uses `client`, whose account needs the right to create TokenReviews.
    pub fn new(client: kube::Client) -> Self {
        Self {
            reviews: Api::all(client),
        }
    }
}

#[tonic::async_trait]
impl TokenReviewer for KubeTokenReviewer {
    async fn review(&self, token: &str) -> Result<Review, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..Default::default()
        };
        let answer = self.reviews.create(&PostParams::default(), &review).await;
        interpret(answer.map_err(|e| ReviewError::Unavailable(e.to_string()))?)
    }
}

fn interpret(review: TokenReview) -> Result<Review, ReviewError> {
    let status = review.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        let why = status
            .error
            .filter(|e| !e.is_empty())
            .unwrap_or_else(|| "the API server did not accept it".to_owned());
        return Err(ReviewError::Invalid(format!("the token is not valid: {why}")));
    }
    if !status
        .audiences
        .unwrap_or_default()
        .iter()
        .any(|audience| audience == TOKEN_AUDIENCE)
    {
        return Err(ReviewError::Invalid(format!(
            "the token is not for the audience {TOKEN_AUDIENCE}"
        )));
    }
    let user = status.user.unwrap_or_default();
    let extra = |user: &UserInfo, key: &str| {
        user.extra
            .as_ref()?
            .get(&format!("authentication.kubernetes.io/{key}"))?
            .first()
            .cloned()
    };
    Ok(Review {
        pod_name: extra(&user, "pod-name"),
        pod_uid: extra(&user, "pod-uid"),
        node_name: extra(&user, "node-name"),
        uid: user.uid.filter(|uid| !uid.is_empty()),
        username: user.username.unwrap_or_default(),
    })
}

type Remembered = HashMap<[u8; 32], (Result<Review, String>, SystemTime)>;

/// Caches a review for a minute, but never beyond the token's own expiry, and a refusal for ten seconds.
pub(super) struct ReviewCache {
    reviewer: Arc<dyn TokenReviewer>,
    remembered: Mutex<Remembered>,
    under_way: Semaphore,
    peers: Peers,
}

impl ReviewCache {
    pub(super) fn new(reviewer: Arc<dyn TokenReviewer>) -> Self {
        Self {
            reviewer,
            remembered: Mutex::default(),
            under_way: Semaphore::new(REVIEWS_AT_ONCE),
            peers: Peers::new(REVIEWS),
        }
    }

    /// The review of `token`, and its latest expiry; for a client at `peer`.
    pub(super) async fn review(
        &self,
        token: &str,
        peer: Option<IpAddr>,
    ) -> Result<(Review, SystemTime), ReviewError> {
        let now = SystemTime::now();
        let expiry = expiry(token)
            .ok_or_else(|| ReviewError::Invalid("the token is not a service account's".to_owned()))?;
        if expiry <= now {
            return Err(ReviewError::Invalid("the token has expired".to_owned()));
        }
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.remembered(&key, now) {
            return known.map(|review| (review, expiry)).map_err(ReviewError::Invalid);
        }
        // Clients without an address share a place.
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let busy = || ReviewError::Busy("too many token reviews wait: retry".to_owned());
        let _place = self.peers.admit(peer).ok_or_else(busy)?;
        let Ok(_permit) = self.under_way.acquire().await else {
            return Err(ReviewError::Unavailable("shutting down".to_owned()));
        };
        // Calls of one client come together: they share the review of the first one.
        if let Some(known) = self.remembered(&key, now) {
            return known.map(|review| (review, expiry)).map_err(ReviewError::Invalid);
        }
        let asked = timeout(REVIEW, self.reviewer.review(token)).await;
        let answer = match asked {
            Ok(Ok(review)) => Ok(review),
            Ok(Err(ReviewError::Invalid(why))) => Err(why),
            Ok(Err(other)) => return Err(other),
            Err(_) => {
                let message = format!("the API server did not respond within {} s", REVIEW.as_secs());
                return Err(ReviewError::Unavailable(message));
            }
        };
        let until = now + if answer.is_ok() { BELIEVED } else { REFUSED };
        self.remember(key, answer.clone(), expiry.min(until), now);
        answer
            .map(|review| (review, expiry))
            .map_err(ReviewError::Invalid)
    }

    fn remembered(&self, key: &[u8; 32], now: SystemTime) -> Option<Result<Review, String>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, until) = remembered.get(key)?;
        // Setting a clock back extends nothing.
        let left = until.duration_since(now).ok()?;
        (!left.is_zero() && left <= BELIEVED).then(|| answer.clone())
    }

    fn remember(&self, key: [u8; 32], answer: Result<Review, String>, until: SystemTime, now: SystemTime) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_BELIEVED {
            remembered.retain(|_, (_, until)| *until > now);
        }
        if remembered.len() >= MOST_BELIEVED {
            // Anybody can cause refusals: they do not take the places of cached reviews.
            remembered.retain(|_, (answer, _)| answer.is_ok());
        }
        if remembered.len() < MOST_BELIEVED {
            remembered.insert(key, (answer, until));
        }
    }
}

/// When a JSON web token expires, by its own content: enough to bound a cache, and to keep malformed tokens from the
/// API server.
fn expiry(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    if token.len() > LONGEST_TOKEN {
        return None;
    }
    let mut parts = token.split('.');
    let (_header, claims, _signature, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next())
    else {
        return None;
    };
    let claims: Claims = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests;
