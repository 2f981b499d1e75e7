use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;

async fn start() -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let answer = |path: &str| match path {
        "/ready" => Some(Answer::ready(Some("waiting"))),
        "/dump" => Some(Answer::json("{}")),
        _ => None,
    };
    let server = tokio::spawn(serve("test", listener, shutdown.clone(), answer));
    (address, shutdown, server)
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn paths_are_answered_and_others_are_not() {
    let (address, shutdown, server) = start().await;
    let ready = ask(address, "GET /ready").await;
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.ends_with("not ready: waiting\n"), "{ready}");
    let dump = ask(address, "GET /dump?pretty").await;
    assert!(
        dump.starts_with("HTTP/1.1 200 ") && dump.ends_with("{}"),
        "{dump}"
    );
    assert!(dump.contains("content-type: application/json"), "{dump}");
    assert!(ask(address, "GET /other").await.starts_with("HTTP/1.1 404 "));
    assert!(ask(address, "POST /dump").await.starts_with("HTTP/1.1 405 "));
    assert!(ask(address, "HEAD /dump").await.ends_with("\r\n\r\n"));
    shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let (address, shutdown, server) = start().await;
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET /dump HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = [0; 12];
    tcp.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    shutdown.cancel();
    server.await.unwrap();
}
