use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use tokio::task::yield_now;

use super::*;
use crate::broker::{Ack, FromAgent, FromZtunnel, Hello, from_agent, from_ztunnel};

fn ack(sequence: u64) -> FromZtunnel {
    let ack = Ack {
        sequence,
        error: "e".into(),
    };
    FromZtunnel {
        message: Some(from_ztunnel::Message::Ack(ack)),
    }
}

fn hello(revision: &str) -> FromAgent {
    let hello = Hello {
        version: 1,
        revision: revision.into(),
    };
    FromAgent {
        message: Some(from_agent::Message::Hello(hello)),
    }
}

#[tokio::test]
async fn passes_a_listening_socket_that_then_serves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("broker.sock");
    let listener = Listener::bind(&path).unwrap();
    let client = Channel::connect(&path).unwrap();
    let (server, peer) = listener.accept().await.unwrap();
    assert_eq!(peer.pid, Some(std::process::id() as i32));
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    assert_eq!(peer.gid, rustix::process::getegid().as_raw());

    client.send(&ack(1), &[]).await.unwrap();
    let (asked, none) = server.recv::<FromZtunnel>().await.unwrap().unwrap();
    assert_eq!(asked, ack(1));
    assert!(none.is_empty());

    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    server.send(&hello(""), &[tcp.as_fd()]).await.unwrap();
    drop(tcp);
    let (message, mut descriptors) = client.recv::<FromAgent>().await.unwrap().unwrap();
    assert_eq!(message, hello(""));
    let passed = TcpListener::from(descriptors.pop().unwrap());
    assert!(descriptors.is_empty());
    let flags = rustix::io::fcntl_getfd(&passed).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));

    let mut caller = TcpStream::connect(address).unwrap();
    caller.write_all(b"x").unwrap();
    let mut byte = [0];
    passed.accept().unwrap().0.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[tokio::test]
async fn keeps_message_boundaries_and_sees_the_end() {
    let (a, b) = Channel::pair().unwrap();
    for count in 1..=5 {
        a.send(&ack(count), &[]).await.unwrap();
    }
    drop(a);
    for count in 1..=5 {
        assert_eq!(b.recv::<FromZtunnel>().await.unwrap().unwrap().0, ack(count));
    }
    assert!(b.recv::<FromZtunnel>().await.unwrap().is_none());
    let Err(Error::Io(e)) = b.send(&ack(1), &[]).await else {
        panic!("sent to a peer that has gone")
    };
    assert_eq!(e.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_cancelled_recv_loses_nothing() {
    let (a, b) = Channel::pair().unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(1), b.recv::<FromZtunnel>())
            .await
            .is_err()
    );
    a.send(&ack(7), &[]).await.unwrap();
    assert_eq!(b.recv::<FromZtunnel>().await.unwrap().unwrap().0, ack(7));
}

#[tokio::test]
async fn a_full_socket_makes_send_wait() {
    let (a, b) = Channel::pair().unwrap();
    let big = hello(&"x".repeat(MAX_MESSAGE - 64));
    let sender = async {
        for _ in 0..50 {
            a.send(&big, &[]).await.unwrap();
        }
    };
    let receiver = async {
        for _ in 0..50 {
            yield_now().await;
            assert_eq!(b.recv::<FromAgent>().await.unwrap().unwrap().0, big);
        }
    };
    tokio::join!(sender, receiver);
}

#[tokio::test]
async fn takes_the_most_descriptors_and_refuses_more_to_send() {
    let (a, b) = Channel::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    a.send(&hello(""), &[file.as_fd(); BROKER_MAX_SOCKETS])
        .await
        .unwrap();
    assert_eq!(
        b.recv::<FromAgent>().await.unwrap().unwrap().1.len(),
        BROKER_MAX_SOCKETS
    );
    let too_many = [file.as_fd(); BROKER_MAX_SOCKETS + 1];
    assert!(matches!(
        a.send(&hello(""), &too_many).await,
        Err(Error::TooManyDescriptors(17))
    ));
    assert!(matches!(
        a.send(&hello(&"x".repeat(MAX_MESSAGE)), &[]).await,
        Err(Error::MessageLength(_))
    ));
    assert!(matches!(
        a.send(&FromAgent::default(), &[]).await,
        Err(Error::MessageLength(0))
    ));
}

/// A peer that does not keep the limits, as raw system calls.
fn send_raw(channel: &Channel, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    rustix::net::sendmsg(
        channel,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
}

#[tokio::test]
async fn what_breaks_the_limits_is_an_error_not_a_half_message() {
    let (a, b) = Channel::pair().unwrap();
    send_raw(&a, &vec![0; MAX_MESSAGE + 1], &[]);
    assert!(matches!(
        b.recv::<FromZtunnel>().await,
        Err(Error::MessageTruncated)
    ));

    let (probe, probed) = Channel::pair().unwrap();
    send_raw(&a, b"\x0a\x00", &vec![probed.as_fd(); 100]);
    drop(probed);
    assert!(matches!(
        b.recv::<FromZtunnel>().await,
        Err(Error::DescriptorsTruncated)
    ));
    // Every duplicate was closed, or this would wait for ever.
    assert!(probe.recv::<FromZtunnel>().await.unwrap().is_none());

    send_raw(&a, b"\xff\xff\xff", &[]);
    assert!(matches!(b.recv::<FromZtunnel>().await, Err(Error::Decode(_))));
}
