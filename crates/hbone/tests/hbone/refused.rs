//! A TCP connection whose other side is reset before it has said anything.

use std::sync::Arc;

use ambit_hbone::{CopyError, MemoryBudget, RefusedTcp, copy_tcp_unless_refused, copy_tunnel_after};
use ambit_tls::testing::TestCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::{Bytes, Destination, Source, WAIT, application, id, tcp_pair};

type Copying = JoinHandle<Result<Option<RefusedTcp>, CopyError>>;

/// Client, server, and what copies between them.
async fn copying() -> (TcpStream, TcpStream, Copying) {
    copying_within(1 << 30).await
}

/// The same where so many bytes can be borrowed.
async fn copying_within(budget: usize) -> (TcpStream, TcpStream, Copying) {
    let ((client, a), (server, b)) = (tcp_pair().await, tcp_pair().await);
    let copy = tokio::spawn(async move {
        let memory = MemoryBudget::new(budget).borrower(&"pod".into());
        copy_tcp_unless_refused(a, b, &memory, WAIT, &Bytes::default()).await
    });
    (client, server, copy)
}

fn reset(tcp: TcpStream) {
    tcp.set_zero_linger().unwrap();
}

async fn arrived(server: &TcpStream, bytes: usize) {
    let mut seen = vec![0; bytes];
    while server.peek(&mut seen).await.unwrap() < bytes {
        tokio::task::yield_now().await;
    }
}

/// Both when the client goes on speaking and when it has ended its side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_to_nobody_is_said_to_the_next() {
    let ca = Arc::new(TestCa::new().unwrap());
    let destination = Destination::start(&ca, id("server")).await;
    let source = Source::new(&ca, id("client"));
    let (listener, address) = application().await;
    for ended in [false, true] {
        let (mut client, server, copy) = copying().await;
        client.write_all(b"hello").await.unwrap();
        if ended {
            client.shutdown().await.unwrap();
        }
        arrived(&server, 5).await;
        reset(server);
        let refused = copy.await.unwrap().unwrap().expect("given back");
        assert_eq!(refused.said, "hello");
        let stream = source.open(&destination, address).await.unwrap();
        let (mut next, _) = listener.accept().await.unwrap();
        let again = tokio::spawn(async move {
            copy_tunnel_after(refused.said, refused.tcp, stream, &Bytes::default()).await
        });
        if !ended {
            client.write_all(b", world").await.unwrap();
            client.shutdown().await.unwrap();
        }
        let mut heard = String::new();
        next.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, if ended { "hello" } else { "hello, world" });
        next.write_all(b"welcome").await.unwrap();
        next.shutdown().await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "welcome");
        again.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_back_of_more_than_is_kept() {
    const LENGTH: usize = (64 << 10) + 1;
    let (mut client, mut server, copy) = copying().await;
    client.write_all(&[7; LENGTH]).await.unwrap();
    server.read_exact(&mut vec![0; LENGTH]).await.unwrap();
    reset(server);
    assert!(matches!(copy.await.unwrap(), Err(CopyError::OtherTcp(_))));
    assert!(client.read(&mut [0]).await.is_err());
}

/// Whoever connects to many and says much would otherwise fill the memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_beyond_a_request_is_borrowed() {
    for (length, kept) in [(4 << 10, true), (5 << 10, false)] {
        let (mut client, mut server, copy) = copying_within(0).await;
        client.write_all(&vec![7; length]).await.unwrap();
        // It takes nothing from the connection itself.
        server.read_exact(&mut vec![0; length]).await.unwrap();
        reset(server);
        match copy.await.unwrap() {
            Ok(Some(refused)) => assert!(kept && refused.said.len() == length),
            other => assert!(
                !kept && matches!(other, Err(CopyError::OtherTcp(_))),
                "{length}: {other:?}"
            ),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_answered_is_not_said_again() {
    for answer in [&b"yes"[..], b""] {
        let (mut client, mut server, copy) = copying().await;
        client.write_all(b"hello").await.unwrap();
        arrived(&server, 5).await;
        // An end without a word is an answer.
        server.write_all(answer).await.unwrap();
        server.shutdown().await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, answer);
        reset(server);
        assert!(matches!(copy.await.unwrap(), Err(CopyError::OtherTcp(_))));
    }
}
