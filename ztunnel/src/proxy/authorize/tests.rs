use ambit_policy::{Action, Policy};

use super::*;
use crate::proxy::testing::{APPLICATION, at_address_of_the_server, pod, proxy, server};

/// Without rules an allow policy allows nobody.
fn nobody(namespace: &str) -> Policy {
    let authorization = ambit_wire::security::Authorization {
        name: "nobody".into(),
        namespace: namespace.into(),
        scope: ambit_wire::security::Scope::Namespace.into(),
        action: ambit_wire::security::Action::Allow.into(),
        ..ambit_wire::security::Authorization::default()
    };
    let policy = Policy::try_from(authorization).unwrap();
    assert_eq!(policy.action, Action::Allow);
    policy
}

/// A client in plaintext.
fn attempt<'a>(proxy: &'a Arc<Proxy>, pod: &'a Arc<Pod>) -> Attempt<'a> {
    Attempt {
        proxy,
        pod,
        peer: SocketAddr::from(([10, 9, 0, 2], 40_000)),
        principal: None,
        destination: APPLICATION,
        changes: proxy.state.authorization_changed(),
    }
}

#[tokio::test]
async fn policy_applied_while_connecting_ends_the_connection() {
    let proxy = proxy(false);
    let pod = pod(&proxy);
    proxy.state.apply_addresses(&[], [server()]);
    let attempt = attempt(&proxy, &pod);
    let workload = attempt.workload().await.unwrap();
    assert!(attempt.decide(&workload).is_allowed());
    let record = attempt.record(&workload);

    // Where the application is slow to accept, policies have time to change.
    proxy.state.apply_policies(vec![nobody("test")], &[]);
    attempt
        .proceed(record, async |_: &Record| panic!("copied what a policy denies"))
        .await;
    let metrics = proxy.metrics.render(crate::observe::Gauges::default()).unwrap();
    assert!(
        metrics.contains(r#"response_flags="DENY""#),
        "not recorded as denied: {metrics}"
    );
}

/// A pod that is ending, say, with its last connections; the control plane has given its address to the next one.
#[tokio::test]
async fn policy_of_a_later_pod_ends_no_connection() {
    let proxy = proxy(false);
    let pod = pod(&proxy);
    proxy.state.apply_addresses(&[], [server()]);
    let attempt = attempt(&proxy, &pod);
    let workload = attempt.workload().await.unwrap();
    let record = attempt.record(&workload);
    let (name, next) = at_address_of_the_server("next", "other");
    proxy
        .state
        .apply_addresses(&["c//Pod/test/server".into()], [(name, next)]);
    proxy.state.apply_policies(vec![nobody("other")], &[]);
    attempt
        .proceed(record, async |_: &Record| {
            tokio::task::yield_now().await;
            Ok(())
        })
        .await;
    let metrics = proxy.metrics.render(crate::observe::Gauges::default()).unwrap();
    assert!(!metrics.contains(r#"response_flags="DENY""#), "{metrics}");
}
