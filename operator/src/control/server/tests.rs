//! Calls over TLS, as proxies and agents make them.

mod limits;
mod loads;
mod scopes;
mod waypoints;

use std::sync::atomic::Ordering;

use ambit_identity::SpiffeId;
use ambit_wire::agent::node_agent_client::NodeAgentClient;
use ambit_wire::agent::{CaptureReport, CaptureState, NodeState, PodReport, capture_report::What};
use ambit_wire::ca::IstioCertificateRequest;
use ambit_wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use ambit_wire::discovery::Node;
use ambit_wire::names::{TYPE_ADDRESS, TYPE_NODE_CONFIG, TYPE_POD_CAPTURE};
use ambit_wire::xds::{Batch, Client, ConnectionState, Handler, Rejection, Subscription};
use prost_types::{Struct, Value, value::Kind};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use super::*;
use crate::control::testing::{Running, pod, review_of, token};
use crate::control::{PodInfo, Review};

async fn certificate(
    running: &Running,
    token: &str,
    identity: Option<&str>,
    csr: &str,
) -> Result<Vec<String>, Status> {
    let mut client = IstioCertificateServiceClient::with_interceptor(running.channel(), running.file(token));
    let field = |text: &str| {
        let value = Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        Struct {
            fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
        }
    };
    let request = IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: 3600,
        metadata: identity.map(field),
    };
    client
        .create_certificate(request)
        .await
        .map(|response| response.into_inner().cert_chain)
}

fn csr() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap()
}

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

#[tokio::test]
async fn ztunnel_gets_certificates_for_pods_of_its_node_only() {
    let running = Running::start().await;
    let cluster = &running.cluster;
    let (ztunnel, agent) = (cluster.ztunnel("one"), cluster.agent("one"));
    cluster.add(pod("shop", "cart-1", "cart", "one"));
    cluster.add(pod("shop", "pay-1", "pay", "two"));
    cluster.add(PodInfo {
        host_network: true,
        ..pod("shop", "host", "host", "one")
    });

    let chain = certificate(&running, &ztunnel, Some(CART), &csr()).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap();
    let identity: SpiffeId = ambit_tls::certificate_identity(&leaf).unwrap();
    assert_eq!(identity.to_string(), CART);
    assert_eq!(chain.last().unwrap(), running.authority.root_pem());

    let csr = csr();
    let other_domain = "spiffe://elsewhere/ns/shop/sa/cart";
    let (pay, host) = (CART.replace("cart", "pay"), CART.replace("cart", "host"));
    let own = "spiffe://cluster.local/ns/ambit-system/sa/ambit-operator";
    let cases = [
        (
            &ztunnel,
            Some(pay.as_str()),
            csr.as_str(),
            Code::PermissionDenied,
            "no pod on node one",
            "identity_not_on_node",
        ),
        (
            &ztunnel,
            Some(host.as_str()),
            &csr,
            Code::PermissionDenied,
            "no pod on node one",
            "identity_not_on_node",
        ),
        (
            &ztunnel,
            Some(own),
            &csr,
            Code::PermissionDenied,
            own,
            "identity_not_on_node",
        ),
        (
            &ztunnel,
            Some(other_domain),
            &csr,
            Code::PermissionDenied,
            "trust domain cluster.local",
            "trust_domain",
        ),
        (
            &agent,
            Some(CART),
            &csr,
            Code::PermissionDenied,
            "type agent gets no certificates",
            "not_allowed",
        ),
        (
            &ztunnel,
            None,
            &csr,
            Code::InvalidArgument,
            "ImpersonatedIdentity",
            "bad_request",
        ),
        (
            &ztunnel,
            Some("cart"),
            &csr,
            Code::InvalidArgument,
            "ImpersonatedIdentity",
            "bad_request",
        ),
        (
            &ztunnel,
            Some(CART),
            "no csr",
            Code::InvalidArgument,
            "PKCS#10",
            "bad_request",
        ),
    ];
    for (token, identity, csr, code, text, reason) in cases {
        let before = running.refused(reason);
        let status = certificate(&running, token, identity, csr).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
        assert!(status.message().contains("ambit-system/"), "{status}");
        assert_eq!(running.refused(reason), before + 1, "{reason}");
    }
}

#[tokio::test]
async fn pod_ahead_of_the_caches_is_waited_for() {
    let running = Running::start().await;
    let ztunnel = running.cluster.ztunnel("one");
    let csr = csr();
    let asked = certificate(&running, &ztunnel, Some(CART), &csr);
    let added = async {
        // The call is on its way when the pod becomes known.
        while running.cluster.asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        running.cluster.add(pod("shop", "cart-1", "cart", "one"));
    };
    let (issued, ()) = tokio::join!(asked, added);
    issued.unwrap();
}

#[tokio::test]
async fn unknown_clients_are_refused_with_reason() {
    let running = Running::start().await;
    let cluster = &running.cluster;
    let good = cluster.ztunnel("one");
    cluster.add(pod("shop", "cart-1", "cart", "one"));
    let stranger = cluster.token_of(pod("shop", "evil", "ambit-ztunnel", "one"));
    let dead = token("old-uid");
    cluster.know(
        &dead,
        review_of(&pod("ambit-system", "old", "ambit-ztunnel", "one")),
    );
    let moved = cluster.ztunnel("three");
    cluster.add(pod("ambit-system", "ztunnel-three", "ambit-ztunnel", "four"));
    let unbound = token("unbound");
    cluster.know(
        &unbound,
        Review {
            username: "system:serviceaccount:ambit-system:ambit-ztunnel".to_owned(),
            ..Default::default()
        },
    );
    let person = token("person");
    cluster.know(
        &person,
        Review {
            username: "admin".to_owned(),
            ..Default::default()
        },
    );

    let cases = [
        (
            stranger.as_str(),
            Code::PermissionDenied,
            "shop/ambit-ztunnel may not use the control plane",
            "not_allowed",
        ),
        (
            &person,
            Code::PermissionDenied,
            "only service accounts",
            "not_allowed",
        ),
        (&dead, Code::Unauthenticated, "old-uid is not live", "pod_unknown"),
        (&moved, Code::Unauthenticated, "\"four\"", "pod_unknown"),
        (
            &unbound,
            Code::Unauthenticated,
            "not bound to a pod",
            "unbound_token",
        ),
        (
            "nonsense",
            Code::Unauthenticated,
            "not a service account's",
            "invalid_token",
        ),
    ];
    for (token, code, text, reason) in cases {
        let before = running.refused(reason);
        let status = certificate(&running, token, Some(CART), &csr())
            .await
            .unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
        assert_eq!(running.refused(reason), before + 1, "{reason}");
    }
    let mut without = IstioCertificateServiceClient::new(running.channel());
    let status = without
        .create_certificate(IstioCertificateRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), running.refused("no_token")),
        (Code::Unauthenticated, 1)
    );
    // Both ends of the connection are named.
    assert!(status.message().contains("unknown (127.0.0.1:"), "{status}");
    let local = format!("by {}: ", running.address);
    assert!(status.message().contains(&local), "{status}");

    cluster.not_ready.store(true, Ordering::SeqCst);
    let status = certificate(&running, &good, Some(CART), &csr())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    cluster.not_ready.store(false, Ordering::SeqCst);
    certificate(&running, &good, Some(CART), &csr()).await.unwrap();
}

struct Forward(mpsc::UnboundedSender<Batch>);

impl Handler for Forward {
    async fn apply(&mut self, batch: Batch) -> Vec<Rejection> {
        self.0.send(batch).unwrap();
        Vec::new()
    }
}

struct Subscriber {
    batches: mpsc::UnboundedReceiver<Batch>,
    state: watch::Receiver<ConnectionState>,
}

impl Subscriber {
    fn start(running: &Running, token: &str, types: &[&str]) -> Self {
        let (sender, batches) = mpsc::unbounded_channel();
        let subscriptions: Vec<_> = types.iter().map(|t| Subscription::wildcard(*t)).collect();
        let client = Client::new(
            running.channel(),
            running.file(token),
            Node::default(),
            subscriptions,
            Forward(sender),
        );
        let state = client.state();
        tokio::spawn(client.run(CancellationToken::new()));
        Self { batches, state }
    }

    async fn names(&mut self) -> Vec<String> {
        let mut names: Vec<_> = self
            .batches
            .recv()
            .await
            .unwrap()
            .added
            .into_iter()
            .map(|r| r.name)
            .collect();
        names.sort();
        names
    }

    async fn refusal(&mut self) -> String {
        let refused =
            |state: &ConnectionState| matches!(state, ConnectionState::Disconnected { error: Some(_), .. });
        let state = self.state.wait_for(refused).await.unwrap();
        let ConnectionState::Disconnected { error, .. } = &*state else {
            unreachable!()
        };
        error.clone().unwrap()
    }
}

#[tokio::test]
async fn each_role_gets_only_its_types() {
    let running = Running::start().await;
    let cluster = &running.cluster;
    let (ztunnel, agent) = (cluster.ztunnel("one"), cluster.agent("one"));
    cluster.add(pod("shop", "cart-1", "cart", "one"));
    cluster.add(pod("shop", "pay-1", "pay", "two"));
    cluster.addresses.replace([("shop/cart".to_owned(), vec![1])]);

    let mut of_ztunnel = Subscriber::start(&running, &ztunnel, &[TYPE_ADDRESS]);
    assert_eq!(of_ztunnel.names().await, ["shop/cart"]);
    let mut of_agent = Subscriber::start(&running, &agent, &[TYPE_POD_CAPTURE]);
    assert_eq!(
        of_agent.names().await,
        ["agent-one-uid", "cart-1-uid", "ztunnel-one-uid"]
    );
    cluster.add(pod("shop", "pay-2", "pay", "two"));
    cluster.add(pod("shop", "cart-2", "cart", "one"));
    assert_eq!(of_agent.names().await, ["cart-2-uid"]);
    let mut config = Subscriber::start(&running, &agent, &[TYPE_NODE_CONFIG]);
    assert_eq!(config.batches.recv().await.unwrap().added[0].bytes, b"one");

    let refusal = Subscriber::start(&running, &ztunnel, &[TYPE_POD_CAPTURE])
        .refusal()
        .await;
    assert!(
        refusal.contains("type ztunnel may not subscribe") && refusal.contains("PodCapture"),
        "{refusal}"
    );
    let refusal = Subscriber::start(&running, &agent, &[TYPE_ADDRESS])
        .refusal()
        .await;
    assert!(refusal.contains("type agent may not subscribe"), "{refusal}");
}

#[tokio::test]
async fn acknowledgements_certificates_and_the_authoritys_end_are_counted() {
    let running = Running::start().await;
    let cluster = &running.cluster;
    let ztunnel = cluster.ztunnel("one");
    cluster.add(pod("shop", "cart-1", "cart", "one"));
    let acknowledged = |role: &str| {
        running.counted(&format!(
            "ambit_xds_change_to_ack_seconds_count{{role=\"{role}\"}}"
        ))
    };
    cluster.addresses.replace([("shop/cart".to_owned(), vec![1])]);
    let mut subscriber = Subscriber::start(&running, &ztunnel, &[TYPE_ADDRESS]);
    assert_eq!(subscriber.names().await, ["shop/cart"]);
    cluster.addresses.update([("shop/pay".to_owned(), Some(vec![2]))]);
    assert_eq!(subscriber.names().await, ["shop/pay"]);
    let wait = async {
        while acknowledged("ztunnel") < 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), wait).await.unwrap();
    assert_eq!((acknowledged("ztunnel"), acknowledged("waypoint")), (1.0, 0.0));
    assert_eq!(running.counted("ambit_control_streams{role=\"ztunnel\"}"), 1.0);

    let other_domain = "spiffe://elsewhere/ns/shop/sa/cart";
    certificate(&running, &ztunnel, Some(other_domain), &csr())
        .await
        .unwrap_err();
    certificate(&running, &ztunnel, Some(CART), &csr()).await.unwrap();
    let refused = running.counted("ambit_certificates_refused_total{reason=\"trust_domain\"}");
    assert_eq!(
        (refused, running.counted("ambit_certificates_issued_total")),
        (1.0, 1.0)
    );
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let days = (running.counted("ambit_ca_expiry_timestamp_seconds") - now) / 86_400.0;
    assert!((3649.0..3651.0).contains(&days), "{days}");
}

fn report(sequence: u64, uid: &str, state: CaptureState) -> CaptureReport {
    let pod = PodReport {
        uid: uid.to_owned(),
        state: state.into(),
        ..Default::default()
    };
    CaptureReport {
        sequence,
        what: Some(What::Pod(pod)),
    }
}

#[tokio::test]
async fn reports_for_pods_of_the_node_are_recorded_in_order() {
    let mut running = Running::start().await;
    let agent = running.cluster.agent("one");
    running.cluster.add(pod("shop", "cart-1", "cart", "one"));
    running.cluster.add(pod("shop", "unwritable", "cart", "one"));
    running.cluster.add(pod("shop", "pay-1", "pay", "two"));
    let mut client = NodeAgentClient::with_interceptor(running.channel(), running.file(&agent));
    let (reports, outgoing) = mpsc::unbounded_channel();
    for report in [
        report(1, "cart-1-uid", CaptureState::Pending),
        report(2, "cart-1-uid", CaptureState::Captured),
        report(3, "pay-1-uid", CaptureState::Captured),
        report(4, "unwritable-uid", CaptureState::Captured),
        report(5, "gone-uid", CaptureState::Released),
        report(6, "late-uid", CaptureState::Captured),
        CaptureReport {
            sequence: 7,
            what: Some(What::Node(NodeState::Uninstalled.into())),
        },
        CaptureReport {
            sequence: 8,
            what: None,
        },
    ] {
        reports.send(report).unwrap();
    }
    let mut acks = client
        .report(UnboundedReceiverStream::new(outgoing))
        .await
        .unwrap()
        .into_inner();
    let mut errors = std::collections::BTreeMap::new();
    for _ in 0..8 {
        if errors.len() == 7 {
            running.cluster.add(pod("shop", "late", "cart", "one"));
        }
        let ack = acks.message().await.unwrap().unwrap();
        errors.insert(ack.sequence, ack.error);
    }
    for recorded in [1, 2, 5, 6, 7] {
        assert_eq!(errors[&recorded], "", "{recorded}");
    }
    assert!(
        errors[&3].contains("shop/pay-1 runs on node \"two\""),
        "{errors:?}"
    );
    assert_eq!(running.refused("identity_not_on_node"), 1);
    assert_eq!(errors[&4], "the API server says no");
    assert_eq!(errors[&8], "the report has no content");
    drop(reports);
    assert!(acks.message().await.unwrap().is_none());

    let mut records = Vec::new();
    while let Ok(record) = running.records.try_recv() {
        records.push(record);
    }
    let of = |name: &str| {
        records
            .iter()
            .filter(|r| r.0 == name)
            .map(|r| r.1.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("cart-1"), ["PENDING", "CAPTURED"]);
    assert_eq!(of("agent-one"), ["NODE_STATE_UNINSTALLED"]);
    assert_eq!(of("late"), ["CAPTURED"]);
    assert_eq!(records.len(), 4);
}

#[tokio::test]
async fn shutdown_ends_streams_and_finishes() {
    let running = Running::start().await;
    let (ztunnel, agent) = (running.cluster.ztunnel("one"), running.cluster.agent("one"));
    running.cluster.addresses.replace([]);
    let mut subscriber = Subscriber::start(&running, &ztunnel, &[TYPE_ADDRESS]);
    subscriber.names().await;
    let mut reporter = NodeAgentClient::with_interceptor(running.channel(), running.file(&agent));
    let (_reports, outgoing) = mpsc::unbounded_channel();
    let mut acks = reporter
        .report(UnboundedReceiverStream::new(outgoing))
        .await
        .unwrap()
        .into_inner();

    running.begin_shutdown();
    assert!(subscriber.refusal().await.contains("shutting down"));
    assert_eq!(acks.message().await.unwrap_err().code(), Code::Unavailable);
    running.ended().await;
}

#[test]
fn serving_names_end_in_the_cluster_domain() {
    assert_eq!(
        service_names("ambit-system", "k8s.example"),
        [
            "ambit-control.ambit-system.svc",
            "ambit-control.ambit-system.svc.k8s.example",
            "ambit-control.ambit-system",
        ]
    );
}
