use std::net::TcpStream as StdStream;

use ambit_e2e::http::{Answer, Request as Raw};
use ambit_e2e::sample::WebCounts;
use tokio_tungstenite::tungstenite::Message;

use super::*;

/// A server that lives as long as the runtime; where it serves HTTP and gRPC.
pub(crate) async fn start() -> [SocketAddr; 2] {
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [&http, &grpc].map(|listener| listener.local_addr().unwrap());
    let site = Arc::new(Site {
        name: "w".into(),
        counts: Counts::default(),
    });
    tokio::spawn(serve(http, grpc, site));
    addresses
}

async fn send(server: SocketAddr, request: Raw) -> Answer {
    let send = move || request.send(StdStream::connect(server).unwrap(), "web").unwrap();
    tokio::task::spawn_blocking(send).await.unwrap()
}

async fn counts(server: SocketAddr) -> WebCounts {
    serde_json::from_str(&send(server, Raw::get("/counts")).await.body).unwrap()
}

#[tokio::test]
async fn echo_has_the_request() {
    let [server, _] = start().await;
    let request = Raw::new("PUT", "/a//b?c=d")
        .header("X-A", "1")
        .header("x-a", "2")
        .body(b"12345");
    let answer = send(server, request).await;
    let heard: Heard = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        (heard.method.as_str(), heard.path.as_str(), heard.version.as_str()),
        ("PUT", "/a//b?c=d", "HTTP/1.1")
    );
    assert_eq!((heard.body, heard.headers["x-a"].as_str()), (5, "1, 2"));
    assert_eq!(counts(server).await.seen["PUT /a//b"], 1);
}

#[tokio::test]
async fn flaky_fails_every_third_request() {
    let [server, _] = start().await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(send(server, Raw::get("/flaky")).await.status);
    }
    assert_eq!(statuses, [200, 200, 503, 200, 200, 503]);
    let counts = counts(server).await;
    assert_eq!((counts.requests, counts.flaked), (6, 2));
}

#[tokio::test]
async fn a_web_socket_sends_back() {
    let [server, _] = start().await;
    let stream = TcpStream::connect(server).await.unwrap();
    let (mut socket, answer) = tokio_tungstenite::client_async(format!("ws://{server}/socket"), stream)
        .await
        .unwrap();
    assert_eq!(answer.status(), 101);
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
}

#[tokio::test]
async fn grpc_is_served_with_deadlines_and_trailers() {
    let [http, grpc] = start().await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{grpc}")).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let seen = ambit_sample::exercise(channel).await.unwrap();
    assert!(seen.is_whole(), "{seen:#?}");
    let ended = async {
        loop {
            let counts = counts(http).await;
            if (counts.requests, counts.cancelled) == (5, 1) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .unwrap();
}
