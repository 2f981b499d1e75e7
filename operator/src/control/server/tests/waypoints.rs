//! Waypoints: each receives its own, and proves itself only.

use ambit_wire::names::{
    TYPE_AUTHORIZATION, TYPE_WAYPOINT_POLICY, TYPE_WAYPOINT_SERVICE, TYPE_WAYPOINT_SETTINGS, TYPE_WORKLOAD,
};

use super::*;

const TYPES: [&str; 5] = [
    TYPE_WAYPOINT_SETTINGS,
    TYPE_WAYPOINT_SERVICE,
    TYPE_WAYPOINT_POLICY,
    TYPE_WORKLOAD,
    TYPE_AUTHORIZATION,
];

#[tokio::test]
async fn waypoint_gets_only_its_configuration() {
    let running = Running::start().await;
    let cluster = &running.cluster;
    let (shop, pay) = (
        cluster.waypoint("shop", "waypoint"),
        cluster.waypoint("pay", "waypoint"),
    );
    cluster.addresses.replace([("pay/cart".to_owned(), vec![1])]);
    cluster.authorizations.replace([("pay/all".to_owned(), vec![1])]);

    for (token, namespace) in [(&shop, "shop"), (&pay, "pay")] {
        for type_url in TYPES {
            let mut told = Subscriber::start(&running, token, &[type_url]);
            let batch = told.batches.recv().await.unwrap();
            let own = batch.added.iter().all(|r| &r.bytes[..] == namespace.as_bytes());
            assert!(batch.added.len() == 1 && own, "{namespace} {type_url}: {batch:?}");
        }
    }
    for type_url in [TYPE_ADDRESS, TYPE_POD_CAPTURE, TYPE_NODE_CONFIG, "anything"] {
        let refusal = Subscriber::start(&running, &shop, &[type_url]).refusal().await;
        assert!(refusal.contains("type waypoint may not subscribe"), "{refusal}");
    }
    // By name either: another's resource is one that there is not.
    let (sender, mut batches) = mpsc::unbounded_channel();
    let named = Subscription {
        type_url: TYPE_WAYPOINT_SERVICE.to_owned(),
        names: Some(vec!["pay/waypoint.svc".to_owned()]),
    };
    let client = Client::new(
        running.channel(),
        running.file(&shop),
        Node::default(),
        vec![named],
        Forward(sender),
    );
    tokio::spawn(client.run(CancellationToken::new()));
    let batch = batches.recv().await.unwrap();
    assert!(batch.added.is_empty(), "{batch:?}");
    // Others do not get what is a waypoint's.
    for token in [cluster.ztunnel("one"), cluster.agent("one")] {
        let refusal = Subscriber::start(&running, &token, &[TYPE_WAYPOINT_SERVICE])
            .refusal()
            .await;
        assert!(refusal.contains("may not subscribe"), "{refusal}");
    }
}

#[tokio::test]
async fn pod_without_a_waypoint_gets_nothing() {
    let running = Running::start().await;
    let cluster = &running.cluster;
    // Under the waypoint's service account and without its label; and a replica's label under another account.
    let plain = cluster.token_of(pod("shop", "impostor", "waypoint", "one"));
    let other = cluster.token_of(PodInfo {
        waypoint: Some("waypoint".to_owned()),
        ..pod("shop", "other", "cart", "one")
    });
    // Under a ServiceAccount of the waypoint's name that the operator has not made.
    let renamed = cluster.token_of(PodInfo {
        waypoint: Some("waypoint".to_owned()),
        service_account_uid: Some("another".to_owned()),
        ..pod("shop", "renamed", "waypoint", "one")
    });
    for token in [plain, other, renamed] {
        let status = certificate(&running, &token, None, &csr()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(
            status.message().contains("may not use the control plane"),
            "{status}"
        );
        let refusal = Subscriber::start(&running, &token, &[TYPE_WAYPOINT_SERVICE])
            .refusal()
            .await;
        assert!(refusal.contains("may not use the control plane"), "{refusal}");
    }
}

#[tokio::test]
async fn waypoint_gets_its_own_identity_only() {
    let running = Running::start().await;
    let token = running.cluster.waypoint("shop", "waypoint");
    running.cluster.add(pod("shop", "cart-1", "cart", "one"));
    let own = "spiffe://cluster.local/ns/shop/sa/waypoint";
    for asked in [None, Some(own)] {
        let chain = certificate(&running, &token, asked, &csr()).await.unwrap();
        let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
        assert_eq!(ambit_tls::certificate_identity(&leaf).unwrap().to_string(), own);
    }
    for other in [CART, "spiffe://elsewhere/ns/shop/sa/waypoint"] {
        let status = certificate(&running, &token, Some(other), &csr())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains(own), "{status}");
    }
    assert_eq!(running.refused("not_own_identity"), 2);
}
