use prometheus::Registry;

use super::*;
use crate::index::Config;
use crate::reconcile::testing::Server;
use crate::reconcile::{Health, Requests, bounded};

/// What a process asks the API server for; the chart gives its account the right to that, and to no more.
async fn watched(objects: Option<&Arc<Objects>>, count: usize) -> Vec<String> {
    let health = Health::default();
    let requests = Requests::new(&Registry::new()).unwrap();
    let client = bounded(&Server::default().client(), &requests, &health);
    let index = SharedIndex::new(Config::default());
    let stop = CancellationToken::new();
    let asked = async {
        while health.watched().len() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = watch(client, "ambit-system", &index, objects, &stop) => {}
        () = asked => {}
    }
    health.watched()
}

const INDEXED: [&str; 17] = [
    "/api/v1/namespaces",
    "/api/v1/namespaces/ambit-system/configmaps?labelSelector=ambit.dev%2Fregister%3Dwaypoints",
    "/api/v1/nodes",
    "/api/v1/pods",
    "/api/v1/services",
    "/apis/ambit.dev/v1alpha1/ambientnamespaces",
    "/apis/ambit.dev/v1alpha1/meshes",
    "/apis/ambit.dev/v1alpha1/waypointpolicies",
    "/apis/apps/v1/replicasets?labelSelector=ambit.dev%2Fwaypoint",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
    "/apis/gateway.networking.k8s.io/v1/gateways",
    "/apis/gateway.networking.k8s.io/v1/grpcroutes",
    "/apis/gateway.networking.k8s.io/v1/httproutes",
    "/apis/gateway.networking.k8s.io/v1/tcproutes",
    "/apis/gateway.networking.k8s.io/v1/tlsroutes",
    "/apis/gateway.networking.k8s.io/v1beta1/referencegrants",
];

const APPLIED: &str =
    "?labelSelector=app.kubernetes.io%2Fpart-of%3Dambit%2Capp.kubernetes.io%2Fmanaged-by%3Dambit-operator";

#[tokio::test]
async fn control_plane_watches_configuration_kinds() {
    assert_eq!(watched(None, INDEXED.len()).await, INDEXED);
}

#[tokio::test]
async fn operator_watches_the_kinds_that_it_writes() {
    let written = [
        "/api/v1/configmaps?fieldSelector=metadata.name%3Dambit-ca-root".to_owned(),
        "/api/v1/namespaces/ambit-system/configmaps?fieldSelector=metadata.name%3Dambit-data-plane"
            .to_owned(),
        "/api/v1/serviceaccounts".to_owned(),
        format!("/apis/apps/v1/deployments{APPLIED}"),
        format!("/apis/apps/v1/namespaces/ambit-system/daemonsets{APPLIED}"),
        "/apis/gateway.networking.x-k8s.io/v1alpha1/xmeshes".to_owned(),
        format!("/apis/policy/v1/poddisruptionbudgets{APPLIED}"),
    ];
    let mut all: Vec<_> = INDEXED.into_iter().map(str::to_owned).chain(written).collect();
    all.sort_unstable();
    assert_eq!(watched(Some(&Arc::default()), all.len()).await, all);
}
