//! Connections that become WebSocket, and rules that change while they, and connections that are no HTTP, are open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ambit_policy::{Action, Policy, PolicyName, Scope};
use ambit_wire::{security, waypoint as wire};
use http::{Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::answers::millis;
use super::rules::{exact, policy, prefix, rule};
use super::support::*;

/// An application that speaks WebSocket, as far as a proxy can tell: it welcomes its clients, says again in upper case what they say, and
/// counts those that have gone. With `granted` it answers as that permits.
pub(super) async fn shouting(gone: &Arc<Semaphore>, granted: Option<Arc<Semaphore>>) -> Application {
    let gone = Arc::clone(gone);
    Application::start_at(own_address(), move |mut request| {
        let (gone, granted) = (Arc::clone(&gone), granted.clone());
        async move {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                io.write_all(b"welcome,").await.unwrap();
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = io.read(&mut buffer).await {
                    io.write_all(&buffer[..n].to_ascii_uppercase()).await.unwrap();
                }
                gone.add_permits(1);
            });
            if let Some(granted) = granted {
                granted.acquire().await.unwrap().forget();
            }
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .body(full(""))
                .unwrap()
        }
    })
    .await
}

/// The same without HTTP, and without a welcome.
pub(super) async fn shouting_raw(gone: &Arc<Semaphore>) -> SocketAddr {
    let gone = Arc::clone(gone);
    raw_application(move |mut tcp, _| {
        let gone = Arc::clone(&gone);
        async move {
            let mut buffer = [0; 64];
            while let Ok(n @ 1..) = tcp.read(&mut buffer).await {
                tcp.write_all(&buffer[..n].to_ascii_uppercase()).await.unwrap();
            }
            gone.add_permits(1);
        }
    })
    .await
}

/// Asks for WebSocket at `/chat/7`, in a spelling of its own.
fn chat() -> Request<Body> {
    Request::get("/chat//7?token=1")
        .header("host", "Chat.example:80")
        .header("x-tenant", "blue")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .body(full(""))
        .unwrap()
}

pub(super) async fn open(mesh: &Mesh) -> TokioIo<Upgraded> {
    open_with(mesh, chat()).await
}

async fn open_with(mesh: &Mesh, request: Request<Body>) -> TokioIo<Upgraded> {
    let answer = mesh.http1(80).await.send(request).await;
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "websocket");
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    hears(&mut io, b"welcome,").await;
    io
}

async fn hears(io: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut heard = vec![0; expected.len()];
    let heard_all = tokio::time::timeout(WAIT, io.read_exact(&mut heard))
        .await
        .unwrap();
    heard_all.unwrap();
    assert_eq!(heard, expected);
}

/// Whatever has changed has been looked at before what is said next is carried.
pub(super) async fn goes_on(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    io.write_all(b"still here").await.unwrap();
    hears(io, b"STILL HERE").await;
}

/// Both ends of it.
pub(super) async fn ends(io: &mut (impl AsyncRead + Unpin), gone: &Semaphore) {
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(WAIT, io.read_to_end(&mut rest)).await;
    // A reset is an end.
    drop(ended.unwrap());
    assert!(rest.is_empty());
    let left = tokio::time::timeout(WAIT, gone.acquire()).await.unwrap();
    left.unwrap().forget();
}

pub(super) fn deny(name: &str, change: impl FnOnce(&mut wire::Rule)) -> wire::Policy {
    policy(name, [rule("no", security::Action::Deny, change)])
}

pub(super) fn by_caller(rule: &mut wire::Rule) {
    rule.from = vec![wire::Source {
        principals: vec![exact(CLIENT)],
        ..wire::Source::default()
    }];
}

/// Denies connections of the client.
pub(super) fn not_the_client(scope: Scope) -> Policy {
    Policy {
        name: PolicyName {
            namespace: "shop".into(),
            name: "not-the-client".into(),
        },
        scope,
        action: Action::Deny,
        rules: vec![ambit_policy::Rule(vec![ambit_policy::Clause(vec![
            ambit_policy::Match {
                principals: vec![ambit_policy::StringMatch::Exact(CLIENT.into())],
                ..ambit_policy::Match::default()
            },
        ])])],
        audit: false,
    }
}

#[tokio::test]
async fn timeouts_end_no_websocket() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, Some(Arc::new(Semaphore::new(1)))).await;
    mesh.endpoint("server-1", application.address);
    mesh.policy(wire::Policy {
        timeout: millis(300),
        ..policy("orders", [])
    });
    let mut io = open(&mesh).await;
    // When a later request is too late, the first one's time is over.
    let late = mesh.http1(80).await.send(chat()).await;
    assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
    goes_on(&mut io).await;
}

#[tokio::test]
async fn websockets_are_carried() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    let _ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    let mut io = open(&mesh).await;
    // Bytes that look like requests are none.
    let said = b"post / http/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
    io.write_all(said).await.unwrap();
    hears(&mut io, &said.to_ascii_uppercase()).await;
    io.shutdown().await.unwrap();
    ends(&mut io, &gone).await;
}

/// What the connection becomes would begin somewhere in the body, which may have no end.
#[tokio::test]
async fn an_upgrade_with_a_body_is_refused() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    mesh.endpoint("server-1", application.address);
    let request = "GET /chat HTTP/1.1\r\nhost: server\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n";
    let mut io = mesh.connect(80).await;
    io.write_all(request.as_bytes()).await.unwrap();
    hears(&mut io, b"HTTP/1.1 400 ").await;
    assert_eq!(application.seen(), 0);
}

/// A client that does not wait for the response, with bytes that would be a malformed request.
#[tokio::test]
async fn what_a_client_says_before_its_upgrade_is_accepted_arrives_as_it_is() {
    let mesh = Mesh::new().await;
    let (gone, granted) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let application = shouting(&gone, Some(Arc::clone(&granted))).await;
    mesh.endpoint("server-1", application.address);
    let head = "GET /chat HTTP/1.1\r\nhost: server\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let said = "POST /\"<x>\" HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut io = mesh.connect(80).await;
    io.write_all(format!("{head}{said}").as_bytes()).await.unwrap();
    while application.seen() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    io.write_all(b"more").await.unwrap();
    granted.add_permits(1);
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(tokio::time::timeout(WAIT, io.read_u8()).await.unwrap().unwrap());
    }
    assert!(response.starts_with(b"HTTP/1.1 101"));
    hears(&mut io, b"welcome,").await;
    hears(&mut io, format!("{said}more").to_uppercase().as_bytes()).await;
}

#[tokio::test]
async fn requests_after_an_upgrade_that_was_not_granted_are_served() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let upgrade = |protocol| {
        format!(
            "GET /{protocol} HTTP/1.1\r\nhost: server\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n\r\n"
        )
    };
    let requests = [
        "GET /first HTTP/1.1\r\nhost: server\r\n\r\n".to_owned(),
        upgrade("h2c"),
        upgrade("other"),
        "GET /last?q HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n".to_owned(),
    ];
    let answer = mesh.exchange(80, requests.concat()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 4, "{answer}");
    assert!(answer.contains("GET /last?"), "{answer}");
}

#[tokio::test]
async fn a_changed_policy_ends_the_open_websockets_that_it_denies() {
    let changes: [fn(&mut wire::Rule); 3] = [
        by_caller,
        |rule| {
            rule.methods = vec!["GET".into()];
            rule.paths = vec![prefix("/chat/7")];
            rule.hosts = vec![exact("chat.example")];
            rule.headers = vec![wire::HeaderMatch {
                name: "x-tenant".into(),
                values: vec![exact("blue")],
            }];
        },
        // Not among what is allowed any more.
        |rule| {
            rule.action = security::Action::Allow.into();
            rule.paths = vec![exact("/orders")];
        },
    ];
    for change in changes {
        let mesh = Mesh::new().await;
        let gone = Arc::new(Semaphore::new(0));
        let application = shouting(&gone, None).await;
        let _ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
        let mut io = open(&mesh).await;
        goes_on(&mut io).await;
        mesh.policy(deny("changed", change));
        ends(&mut io, &gone).await;
        let requests = ["istio_requests_total", "\"101\"", "response_flags=\"DENY\""];
        mesh.counts(&requests, 1).await;
        mesh.counts(&["ambit_requests_denied_total", "shop/changed/no"], 1)
            .await;
    }
}

#[tokio::test]
async fn a_field_that_went_no_further_does_not_keep_a_websocket_open() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    mesh.endpoint("server-1", application.address);
    let mut request = chat();
    request
        .headers_mut()
        .insert("connection", "upgrade, x-tenant".parse().unwrap());
    let mut io = open_with(&mesh, request).await;
    mesh.policy(deny("changed", |rule| {
        rule.action = security::Action::Allow.into();
        rule.headers = vec![wire::HeaderMatch {
            name: "x-tenant".into(),
            values: vec![exact("blue")],
        }];
    }));
    ends(&mut io, &gone).await;
}

#[tokio::test]
async fn changes_that_do_not_deny_it_leave_a_websocket_open() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    let _ztunnel = mesh.hbone_endpoint("server-1", application.address).await;
    let mut audit = deny("audit", by_caller);
    audit.authorization[0].audit = true;
    mesh.policy(audit.clone());
    let mut io = open(&mesh).await;
    assert_eq!(mesh.metric(&["ambit_audit", "shop/audit/no"]), 1);

    // Only reported: once for a request.
    audit.authorization[0].methods = vec!["GET".into()];
    mesh.policy(audit);
    goes_on(&mut io).await;
    // Other requests.
    mesh.policy(deny("deletes", |rule| rule.methods = vec!["DELETE".into()]));
    goes_on(&mut io).await;
    // Another service's.
    mesh.state
        .apply_policies(&[], vec![deny("others", by_caller).try_into().unwrap()]);
    goes_on(&mut io).await;
    // Other pods' connections.
    mesh.state
        .apply_authorizations(&[], vec![not_the_client(Scope::WorkloadSelector)]);
    goes_on(&mut io).await;
    mesh.endpoint("server-2", "127.0.0.1:9".parse().unwrap());
    goes_on(&mut io).await;

    assert_eq!(mesh.metric(&["ambit_audit", "shop/audit/no"]), 1);
    assert_eq!(mesh.metric(&["ambit_requests_denied_total"]), 0);
    io.shutdown().await.unwrap();
    ends(&mut io, &gone).await;
}

#[tokio::test]
async fn a_policy_that_is_named_a_moment_before_it_comes_ends_no_websocket() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    mesh.endpoint("server-1", application.address);
    let deletes = deny("deletes", |rule| rule.methods = vec!["DELETE".into()]);
    mesh.policy(deletes.clone());
    let mut io = open(&mesh).await;
    mesh.state.apply_policies(&["shop/deletes".into()], vec![]);
    // New requests are refused at once.
    let (status, reason, _) = whole(mesh.http1(80).await.send(chat()).await).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{reason}");
    goes_on(&mut io).await;
    mesh.policy(deletes);
    goes_on(&mut io).await;
    // It does not come.
    mesh.state.apply_policies(&["shop/deletes".into()], vec![]);
    ends(&mut io, &gone).await;
}

#[tokio::test]
async fn a_policy_that_changes_before_the_answer_comes_holds_for_the_websocket() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let granted = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, Some(Arc::clone(&granted))).await;
    mesh.endpoint("server-1", application.address);
    let mut client = mesh.http1(80).await;
    let changed = async {
        while application.seen() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        mesh.policy(deny("changed", by_caller));
        granted.add_permits(1);
    };
    // Whether the answer reaches the client before the end does is up to chance.
    let (_, ()) = tokio::join!(client.try_send(chat()), changed);
    mesh.counts(&["ambit_requests_denied_total", "shop/changed/no"], 1)
        .await;
    client.closed().await;
}

#[tokio::test]
async fn policies_for_connections_hold_for_open_ones_too() {
    // Of the namespace; and of the pod alone, which is told to name it.
    for scope in [Scope::Namespace, Scope::WorkloadSelector] {
        let mesh = Mesh::new().await;
        let gone = Arc::new(Semaphore::new(0));
        let application = shouting(&gone, None).await;
        mesh.endpoint("server-1", application.address);
        let mut io = open(&mesh).await;
        mesh.state.apply_authorizations(&[], vec![not_the_client(scope)]);
        if scope == Scope::WorkloadSelector {
            goes_on(&mut io).await;
            mesh.workload("server-1", application.address, |workload| {
                workload.authorization_policies = vec!["shop/not-the-client".into()];
            });
        }
        ends(&mut io, &gone).await;
        mesh.counts(&["ambit_requests_denied_total", "not-the-client"], 1)
            .await;
    }
}

#[tokio::test]
async fn a_changed_policy_ends_the_open_connections_that_are_no_http() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    mesh.endpoint("server-1", shouting_raw(&gone).await);
    let mut io = mesh.connect(9000).await;
    goes_on(&mut io).await;
    mesh.state
        .apply_policies(&[], vec![deny("others", by_caller).try_into().unwrap()]);
    goes_on(&mut io).await;
    mesh.policy(deny("changed", by_caller));
    ends(&mut io, &gone).await;
    mesh.counts(&["ambit_requests_denied_total", "shop/changed/no"], 1)
        .await;
}

#[tokio::test]
async fn which_side_broke_a_websocket_off_is_counted() {
    let mesh = Mesh::new().await;
    let gone = Arc::new(Semaphore::new(0));
    let application = shouting(&gone, None).await;
    mesh.endpoint("server-1", application.address);
    drop(open(&mesh).await);
    let requests = |flag: &'static str| ["istio_requests_total", "response_code=\"101\"", flag];
    mesh.counts(&requests("response_flags=\"DC\""), 1).await;

    mesh.remove("server-1");
    let address = raw_application(async |mut tcp, _| {
        read_head(&mut tcp).await;
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nwelcome,";
        tcp.write_all(answer).await.unwrap();
        // Until the client has said something.
        tcp.read_u8().await.unwrap();
        tcp.set_zero_linger().unwrap();
    })
    .await;
    mesh.endpoint("server-2", address);
    let mut io = open(&mesh).await;
    io.write_all(b"!").await.unwrap();
    mesh.counts(&requests("response_flags=\"UC\""), 1).await;
    assert_eq!(mesh.metric(&requests("response_flags=\"DC\"")), 1);
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_not_passed_on() {
    let mesh = Mesh::new().await;
    let address = raw_application(async |mut tcp, _| {
        read_head(&mut tcp).await;
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
        tcp.write_all(answer).await.unwrap();
        read_head(&mut tcp).await;
    })
    .await;
    mesh.endpoint("server-1", address);
    let request = Request::get("/")
        .header("host", "server")
        .header("connection", "upgrade, http2-settings")
        .header("upgrade", "h2c")
        .header("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA")
        .body(full(""))
        .unwrap();
    let (status, ..) = whole(mesh.http1(80).await.send(request).await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}
