//! Connections that are no HTTP.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::http::HttpTimeouts;

#[tokio::test]
async fn bytes_of_another_protocol_go_through_as_they_are() {
    let mesh = Mesh::new().await;
    let address = raw_application(async |mut tcp, _| {
        let (mut read, mut write) = tcp.split();
        tokio::io::copy(&mut read, &mut write).await.ok();
    })
    .await;
    mesh.endpoint("server-1", address);
    for (port, said) in [
        // Found out.
        (80, &b"\x16\x03\x01\x02\x00"[..]),
        (80, b"*1\r\n$4\r\nPING\r\n"),
        // Declared; HTTP is nothing special then.
        (9000, b"GET / HTTP/1.1\r\n\r\n"),
    ] {
        let mut io = mesh.connect(port).await;
        io.write_all(said).await.unwrap();
        let mut heard = vec![0; said.len()];
        tokio::time::timeout(WAIT, io.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(heard, said);
        // An end of one direction leaves the other open.
        io.write_all(b"last").await.unwrap();
        io.shutdown().await.unwrap();
        assert_eq!(read_all(&mut io).await, "last");
    }
    assert_eq!(mesh.metric(&["istio_tcp_connections_opened_total"]), 3);
}

#[tokio::test]
async fn a_protocol_in_which_the_server_speaks_first_works_undeclared() {
    let timeouts = HttpTimeouts {
        detect: Duration::from_millis(100),
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let address = raw_application(async |mut tcp, _| {
        tcp.write_all(b"220 ready\r\n").await.unwrap();
        let mut said = Vec::new();
        tcp.read_to_end(&mut said).await.unwrap();
        tcp.write_all(&said).await.unwrap();
    })
    .await;
    mesh.endpoint("server-1", address);
    let mut io = mesh.connect(80).await;
    let mut greeting = [0; 11];
    tokio::time::timeout(WAIT, io.read_exact(&mut greeting))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    io.write_all(b"EHLO").await.unwrap();
    io.shutdown().await.unwrap();
    assert_eq!(read_all(&mut io).await, "EHLO");
}

#[tokio::test]
async fn a_head_that_comes_in_pieces_is_http_all_the_same() {
    let mesh = Mesh::new().await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut io = mesh.connect(80).await;
    for piece in [
        "G",
        "ET ",
        "/a HT",
        "TP/1.1\r\nho",
        "st: server\r\nconnection: close\r\n\r",
        "\n",
    ] {
        io.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let answer = read_all(&mut io).await;
    assert!(answer.ends_with("GET /a\nhost: server\n\n"), "{answer}");
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_is_gone() {
    let mesh = Mesh::new().await;
    let nobody = Application::echo().await.address;
    let address = raw_application(async |mut tcp, _| {
        tcp.write_all(b"here").await.unwrap();
    })
    .await;
    mesh.endpoint("gone", nobody);
    mesh.endpoint("here", address);
    for _ in 0..10 {
        assert_eq!(mesh.exchange(9000, "").await, "here");
    }
}

#[tokio::test]
async fn http_that_comes_late_is_still_http() {
    let timeouts = HttpTimeouts {
        detect: Duration::from_millis(50),
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let mut io = mesh.connect(80).await;
    // Until the waypoint has connected, in case the application speaks first.
    while application.connections.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    io.write_all(b"GET /late HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read_all(&mut io).await.contains("GET /late"));
    assert_eq!(mesh.metric(&["istio_requests_total", "response_code=\"200\""]), 1);
    assert_eq!(mesh.metric(&["istio_tcp_connections_opened_total"]), 0);
}

#[tokio::test]
async fn which_side_broke_a_connection_off_is_counted() {
    let mesh = Mesh::new().await;
    let address = raw_application(async |mut tcp, number| {
        tcp.write_all(b"here").await.unwrap();
        if number == 0 {
            tcp.read_u8().await.unwrap_err();
        } else {
            tcp.set_zero_linger().unwrap();
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let mut io = mesh.connect(9000).await;
    let mut heard = [0; 4];
    io.read_exact(&mut heard).await.unwrap();
    drop(io);
    let closed = |flag: &'static str| ["istio_tcp_connections_closed_total", flag];
    mesh.counts(&closed("response_flags=\"DC\""), 1).await;
    assert_eq!(mesh.metric(&closed("response_flags=\"UC\"")), 0);

    mesh.exchange(9000, "").await;
    mesh.counts(&closed("response_flags=\"UC\""), 1).await;
    assert_eq!(mesh.metric(&closed("response_flags=\"DC\"")), 1);
}
