//! Connections that are no HTTP.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_runtime::Shares;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::*;
use crate::admission::Admission;
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

/// Clients that connect in advance, or that wait for a server that does not speak first.
#[tokio::test]
async fn silent_clients_take_a_share_of_connections_and_give_it_back_when_they_speak() {
    let timeouts = HttpTimeouts {
        detect: Duration::from_millis(50),
        ..HttpTimeouts::default()
    };
    let admission = Admission {
        silent: Shares::new(4),
        ..Admission::of_process()
    };
    let mesh = Mesh::taking_on(timeouts, admission).await;
    let application = Application::echo().await;
    mesh.endpoint("server-1", application.address);
    let connections = async |count| {
        while application.connections.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(mesh.connect(80).await);
    }
    // One may have half of them.
    mesh.counts(&["ambit_waypoint_refused_total", "reason=\"silent\""], 3)
        .await;
    assert_eq!(mesh.proxy.admission.silent.taken(), 2);
    assert_eq!(application.connections.load(Ordering::SeqCst), 2);
    let to = SocketAddr::new(VIP.parse().unwrap(), 80);
    let other = mesh.open_as("other", "127.0.0.2", to).await.unwrap();
    tokio::time::timeout(WAIT, connections(3)).await.unwrap();
    drop(other);
    // All of them are served once they speak, with an endpoint's connection or without.
    for mut io in silent {
        io.write_all(b"GET /late HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        assert!(read_all(&mut io).await.contains("GET /late"));
    }
    let given_back = async {
        while mesh.proxy.admission.silent.taken() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, given_back).await.unwrap();
}

#[tokio::test]
async fn a_silent_client_whose_endpoint_gave_up_first_is_served_when_it_speaks() {
    let timeouts = HttpTimeouts {
        detect: Duration::from_millis(50),
        ..HttpTimeouts::default()
    };
    let mesh = Mesh::with(timeouts).await;
    let (gave_up, mut given_up) = tokio::sync::mpsc::unbounded_channel();
    let address = raw_application(move |mut tcp, number| {
        let gave_up = gave_up.clone();
        async move {
            if number == 0 {
                drop(tcp);
                return gave_up.send(()).unwrap();
            }
            read_head(&mut tcp).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhere")
                .await
                .unwrap();
        }
    })
    .await;
    mesh.endpoint("server-1", address);
    let mut io = mesh.connect(80).await;
    tokio::time::timeout(WAIT, given_up.recv())
        .await
        .unwrap()
        .unwrap();
    // The waypoint has noticed when the place is given back.
    let noticed = async {
        while mesh.proxy.admission.silent.taken() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, noticed).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read_all(&mut io).await.ends_with("here"));
}
