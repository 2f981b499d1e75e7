use std::sync::atomic::Ordering;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;

use super::*;
use crate::control::testing::{Cluster, token, token_until};

fn known(username: &str) -> Review {
    Review {
        username: username.to_owned(),
        ..Default::default()
    }
}

async fn review(cache: &ReviewCache, token: &str) -> Result<Review, ReviewError> {
    cache.review(token, None).await.map(|(review, _)| review)
}

/// A caller that comes again and again with a bad token costs the API server one review.
#[tokio::test]
async fn reviews_and_refusals_are_cached() {
    let cluster = Arc::new(Cluster::default());
    let cache = ReviewCache::new(Arc::clone(&cluster) as _);
    let (good, bad) = (token("good"), token("bad"));
    cluster.know(&good, known("someone"));
    for _ in 0..2 {
        assert!(matches!(review(&cache, &bad).await, Err(ReviewError::Invalid(_))));
        assert_eq!(review(&cache, &good).await.unwrap(), known("someone"));
    }
    assert_eq!(cluster.asked.load(Ordering::SeqCst), 2);

    cluster.api_down.store(true, Ordering::SeqCst);
    assert!(review(&cache, &good).await.is_ok());
    // That the API server is away is not the token's fault: nothing is remembered of it.
    let third = token("third");
    assert!(matches!(
        review(&cache, &third).await,
        Err(ReviewError::Unavailable(_))
    ));
    cluster.api_down.store(false, Ordering::SeqCst);
    cluster.know(&third, known("third"));
    assert_eq!(review(&cache, &third).await.unwrap(), known("third"));
}

struct Silent;

#[tonic::async_trait]
impl TokenReviewer for Silent {
    async fn review(&self, _token: &str) -> Result<Review, ReviewError> {
        std::future::pending().await
    }
}

/// An API server that does not answer holds nobody for ever, and whoever floods it takes his own places only.
#[tokio::test(start_paused = true)]
async fn concurrent_reviews_are_bounded() {
    let cache = Arc::new(ReviewCache::new(Arc::new(Silent)));
    let [greedy, other] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().ok());
    let flood = (0..REVIEWS.of_one).map(|n| {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move { cache.review(&token(&n.to_string()), greedy).await })
    });
    let flood: Vec<_> = flood.collect();
    tokio::task::yield_now().await;
    assert!(matches!(
        cache.review(&token("more"), greedy).await,
        Err(ReviewError::Busy(_))
    ));
    assert!(matches!(
        cache.review(&token("x"), other).await,
        Err(ReviewError::Unavailable(_))
    ));
    for one in flood {
        assert!(matches!(one.await.unwrap(), Err(ReviewError::Unavailable(_))));
    }
    assert!(matches!(
        cache.review(&token("more"), greedy).await,
        Err(ReviewError::Unavailable(_))
    ));
}

#[tokio::test]
async fn malformed_token_does_not_reach_the_api_server() {
    let cluster = Arc::new(Cluster::default());
    let cache = ReviewCache::new(Arc::clone(&cluster) as _);
    let expired = token_until("x", SystemTime::now() - Duration::from_secs(1));
    let long = format!("{}{}", token("x"), "x".repeat(LONGEST_TOKEN));
    for bad in [
        "",
        "x",
        "a.b",
        "a.b.c.d",
        "e30.e30.x",
        expired.as_str(),
        long.as_str(),
    ] {
        assert!(
            matches!(review(&cache, bad).await, Err(ReviewError::Invalid(_))),
            "{bad}"
        );
    }
    assert_eq!(cluster.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn review_counts_only_for_our_audience() {
    let answer = |authenticated, audience: &str, error: Option<&str>| {
        let extra = ["pod-name", "pod-uid", "node-name"].map(|key| {
            (
                format!("authentication.kubernetes.io/{key}"),
                vec![format!("the-{key}")],
            )
        });
        let user = UserInfo {
            username: Some("system:serviceaccount:ambit-system:ambit-agent".to_owned()),
            extra: Some(extra.into()),
            ..Default::default()
        };
        let status = TokenReviewStatus {
            authenticated: Some(authenticated),
            audiences: Some(vec![audience.to_owned()]),
            error: error.map(str::to_owned),
            user: Some(user),
        };
        interpret(TokenReview {
            status: Some(status),
            ..Default::default()
        })
    };
    let review = answer(true, "istio-ca", None).unwrap();
    assert_eq!(review.service_account(), Some(("ambit-system", "ambit-agent")));
    assert_eq!(review.pod_uid.as_deref(), Some("the-pod-uid"));
    assert_eq!(review.node_name.as_deref(), Some("the-node-name"));
    assert_eq!(known("admin").service_account(), None);

    let error = answer(true, "https://kubernetes.default.svc", None).unwrap_err();
    assert!(error.to_string().contains("audience istio-ca"), "{error}");
    let error = answer(false, "istio-ca", Some("invalid bearer token")).unwrap_err();
    assert!(error.to_string().contains("invalid bearer token"), "{error}");
    assert!(interpret(TokenReview::default()).is_err());
}
