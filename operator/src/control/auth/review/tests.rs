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

#[tokio::test]
async fn a_review_is_believed_for_a_while_a_refusal_is_not() {
    let cluster = Arc::new(Cluster::default());
    let cache = ReviewCache::new(Arc::clone(&cluster) as _);
    let (good, bad) = (token("good"), token("bad"));
    cluster.know(&good, known("someone"));
    assert!(matches!(cache.review(&bad).await, Err(ReviewError::Invalid(_))));
    assert_eq!(cache.review(&good).await.unwrap(), known("someone"));
    assert_eq!(cache.review(&good).await.unwrap(), known("someone"));
    assert_eq!(cluster.asked.load(Ordering::SeqCst), 2);
    cluster.know(&bad, known("someone else"));
    assert_eq!(cache.review(&bad).await.unwrap(), known("someone else"));

    cluster.api_down.store(true, Ordering::SeqCst);
    assert!(cache.review(&good).await.is_ok());
    assert!(matches!(
        cache.review(&token("third")).await,
        Err(ReviewError::Unavailable(_))
    ));
}

#[tokio::test]
async fn what_is_plainly_no_valid_token_does_not_reach_the_api_server() {
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
            matches!(cache.review(bad).await, Err(ReviewError::Invalid(_))),
            "{bad}"
        );
    }
    assert_eq!(cluster.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn an_answer_counts_only_for_our_audience() {
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
