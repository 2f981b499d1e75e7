use ambit_policy::{Action, Policy};

use super::*;
use crate::proxy::testing::{APPLICATION, pod, proxy, server};

/// Applies to namespace `test`. Without rules an allow policy allows nobody.
fn nobody() -> Policy {
    let authorization = ambit_wire::security::Authorization {
        name: "nobody".into(),
        namespace: "test".into(),
        scope: ambit_wire::security::Scope::Namespace.into(),
        action: ambit_wire::security::Action::Allow.into(),
        ..ambit_wire::security::Authorization::default()
    };
    let policy = Policy::try_from(authorization).unwrap();
    assert_eq!(policy.action, Action::Allow);
    policy
}

#[tokio::test]
async fn a_policy_applied_while_the_application_is_connected_to_ends_the_connection() {
    let proxy = proxy(false);
    let pod = pod(&proxy);
    proxy.state.apply_addresses(&[], [server()]);
    let attempt = Attempt {
        proxy: &proxy,
        pod: &pod,
        peer: SocketAddr::from(([10, 9, 0, 2], 40_000)),
        principal: None,
        destination: APPLICATION,
        changes: proxy.state.authorization_changed(),
    };
    let workload = attempt.workload().await.unwrap();
    assert!(attempt.decide(&workload).is_allowed());
    let record = attempt.record(&workload);

    // Where the application is slow to accept, policies have time to change.
    proxy.state.apply_policies(vec![nobody()], &[]);
    attempt
        .proceed(record, async |_: &Record| panic!("copied what a policy denies"))
        .await;
    let metrics = proxy.metrics.render(crate::observe::Gauges::default()).unwrap();
    assert!(
        metrics.contains(r#"response_flags="DENY""#),
        "not recorded as denied: {metrics}"
    );
}
