//! What applications see through a tunnel.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_hbone::{Borrower, HboneConfig, MemoryBudget, copy_tcp, copy_tunnel};
use ambit_tls::testing::TestCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{
    Bytes, Destination, HASTY, Source, WAIT, application, foreign_server, id, raw, tcp_pair,
};

/// A writer that waits for so long is held back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who may borrow as much as anybody.
fn borrower() -> Borrower {
    MemoryBudget::new(1 << 30).borrower(&"pod".into())
}

struct Tunnel {
    client: TcpStream,
    server: TcpStream,
    bytes: Arc<Bytes>,
    copy: JoinHandle<bool>,
    destination: Destination,
}

/// A client application's connection to a server application, through both proxies.
async fn tunnel() -> Tunnel {
    let ca = Arc::new(TestCa::new().unwrap());
    let destination = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let stream = Source::new(&ca, id("client"))
        .open(&destination, address)
        .await
        .unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let (client, accepted) = tcp_pair().await;
    let bytes = Arc::new(Bytes::default());
    let meter = Arc::clone(&bytes);
    let copy = tokio::spawn(async move { copy_tunnel(accepted, stream, &*meter).await.is_ok() });
    Tunnel {
        client,
        server,
        bytes,
        copy,
        destination,
    }
}

/// Another connection between two applications, over the connection that there is.
async fn join(
    source: &Source,
    destination: &Destination,
    listener: &TcpListener,
    address: SocketAddr,
) -> (TcpStream, TcpStream) {
    let stream = source.open(destination, address).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let (client, accepted) = tcp_pair().await;
    tokio::spawn(async move { copy_tunnel(accepted, stream, &Bytes::default()).await });
    (client, server)
}

async fn the_server_may_speak_first() {
    let mut t = tunnel().await;
    t.server.write_all(b"220 ready\r\n").await.unwrap();
    let mut greeting = [0; 11];
    t.client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
}

async fn each_side_may_end_its_half_first() {
    let mut t = tunnel().await;
    t.client.write_all(b"question").await.unwrap();
    t.client.shutdown().await.unwrap();
    let mut question = String::new();
    t.server.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    t.server.write_all(b"answer").await.unwrap();
    t.server.shutdown().await.unwrap();
    let mut answer = String::new();
    t.client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
    assert!(t.copy.await.unwrap());

    let mut t = tunnel().await;
    t.server.shutdown().await.unwrap();
    assert_eq!(t.client.read(&mut [0; 8]).await.unwrap(), 0);
    t.client.write_all(b"still talking").await.unwrap();
    t.client.shutdown().await.unwrap();
    let mut talk = String::new();
    t.server.read_to_string(&mut talk).await.unwrap();
    assert_eq!(talk, "still talking");
    assert!(t.copy.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_transfers_arrive_whole_both_ways_at_once() {
    const LENGTH: usize = 48 << 20;
    let pattern = |seed: u8| {
        (0..LENGTH)
            .map(move |i| (i % 251) as u8 ^ seed)
            .collect::<Vec<u8>>()
    };
    let Tunnel {
        client,
        server,
        bytes,
        copy,
        destination: _destination,
    } = tunnel().await;
    let exchange = |tcp: TcpStream, send: Vec<u8>, expect: Vec<u8>| async move {
        let (mut read, mut write) = tcp.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(&send).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        assert!(received == expect, "{} bytes came", received.len());
    };
    let there = tokio::spawn(exchange(client, pattern(1), pattern(2)));
    exchange(server, pattern(2), pattern(1)).await;
    there.await.unwrap();
    assert!(copy.await.unwrap());
    assert_eq!(bytes.forward.load(Ordering::SeqCst), LENGTH as u64);
    assert_eq!(bytes.backward.load(Ordering::SeqCst), LENGTH as u64);
}

async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let mut t = tunnel().await;
    t.server.set_zero_linger().unwrap();
    drop(t.server);
    assert_eq!(
        t.client.read(&mut [0; 8]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );

    let mut t = tunnel().await;
    t.client.set_zero_linger().unwrap();
    drop(t.client);
    assert_eq!(
        t.server.read(&mut [0; 8]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(!t.copy.await.unwrap());
}

async fn an_answer_that_comes_before_a_reset_is_heard_by_who_is_speaking_still() {
    let ca = Arc::new(TestCa::new().unwrap());
    let destination = Destination::start(&ca, id("server")).await;
    let source = Source::new(&ca, id("client"));
    let hasty = HASTY.parse().unwrap();
    let stream = source.open(&destination, hasty).await.unwrap();
    // Both the answer and the reset have come when the same connection has carried an exchange after them.
    drop(source.open(&destination, hasty).await.unwrap());
    let (mut client, accepted) = tcp_pair().await;
    client.write_all(&[0; 1024]).await.unwrap();
    let copy = tokio::spawn(async move { copy_tunnel(accepted, stream, &Bytes::default()).await });
    let mut answer = [0; 8];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"too much");
    // RFC 9113 §8.1: who has answered wholly may want no more without an error.
    copy.await.unwrap().unwrap();
}

async fn a_peer_that_closes_after_its_answer_ends_the_connection_without_an_error() {
    let ca = Arc::new(TestCa::new().unwrap());
    let destination = Destination::start(&ca, id("server")).await;
    let source = Source::new(&ca, id("client"));
    let hasty = HASTY.parse().unwrap();
    for speaks_on in [false, true] {
        let stream = source.open(&destination, hasty).await.unwrap();
        let (mut client, accepted) = tcp_pair().await;
        let copy = tokio::spawn(async move { copy_tunnel(accepted, stream, &Bytes::default()).await });
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"too much");
        // The reset has come when the same connection has carried an exchange after it.
        drop(source.open(&destination, hasty).await.unwrap());
        if speaks_on {
            client.write_all(b"more").await.unwrap();
        } else {
            client.shutdown().await.unwrap();
        }
        copy.await.unwrap().unwrap();
    }
}

async fn an_answer_to_a_request_that_was_not_read_arrives() {
    for _ in 0..20 {
        let mut t = tunnel().await;
        t.client.write_all(&[0; 8192]).await.unwrap();
        t.server.peek(&mut [0]).await.unwrap();
        t.server.write_all(b"too much").await.unwrap();
        // With unread data, this is a reset.
        drop(t.server);
        let mut answer = [0; 8];
        t.client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"too much");
    }
}

async fn a_reset_is_passed_on_even_after_one_half_has_ended() {
    let mut t = tunnel().await;
    t.server.shutdown().await.unwrap();
    assert_eq!(t.client.read(&mut [0; 8]).await.unwrap(), 0);
    t.server.set_zero_linger().unwrap();
    // Closing with unread data, or with linger 0, resets; the write makes sure that the destination's proxy notices.
    drop(t.server);
    let error = loop {
        if let Err(error) = t.client.write_all(&[0; 1024]).await {
            break error;
        }
        t.client.writable().await.unwrap();
        tokio::task::yield_now().await;
    };
    assert!(
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "{error}"
    );
    assert!(!t.copy.await.unwrap());
}

async fn the_death_of_the_destinations_proxy_is_a_reset() {
    let mut t = tunnel().await;
    t.client.write_all(b"x").await.unwrap();
    t.server.read_exact(&mut [0]).await.unwrap();
    t.destination.kill.cancel();
    assert_eq!(
        t.client.read(&mut [0; 8]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(!t.copy.await.unwrap());
}

/// Messages so small that their frames weigh more than they carry.
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    const MUCH: usize = 64 << 20;
    let Tunnel {
        mut client,
        mut server,
        bytes: _bytes,
        copy,
        destination: _destination,
    } = tunnel().await;
    let message: Vec<u8> = (0..97).collect();
    let mut written = 0;
    loop {
        let rest = &message[written % 97..];
        match client.try_write(rest) {
            Ok(n) => written += n,
            Err(_) if tokio::time::timeout(PATIENCE, client.writable()).await.is_err() => break,
            Err(_) => {}
        }
        assert!(written < MUCH, "the sender never waited");
    }
    let reading = tokio::spawn(async move {
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        received
    });
    let rest = &message[written % 97..];
    client.write_all(rest).await.unwrap();
    client.shutdown().await.unwrap();
    let received = reading.await.unwrap();
    assert_eq!(received.len(), written + rest.len());
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(i, b)| usize::from(*b) == i % 97)
    );
    drop(client);
    assert!(copy.await.unwrap());
}

/// Many applications that read nothing, beside one that does, on one connection.
async fn stalled_readers_do_not_hold_up_another(upload: bool) {
    const STALLED: usize = 8;
    const LENGTH: usize = 48 << 20;
    let ca = Arc::new(TestCa::new().unwrap());
    let destination = Destination::start(&ca, id("server")).await;
    let source = Source::new(&ca, id("client"));
    let (listener, address) = application().await;
    let mut kept = Vec::new();
    for _ in 0..STALLED {
        let (client, server) = join(&source, &destination, &listener, address).await;
        let (mut speaks, reads_not) = if upload {
            (client, server)
        } else {
            (server, client)
        };
        let speaking = tokio::spawn(async move { speaks.write_all(&vec![1; LENGTH]).await });
        kept.push((speaking, reads_not));
    }
    let (client, server) = join(&source, &destination, &listener, address).await;
    let (mut speaks, mut reads) = if upload {
        (client, server)
    } else {
        (server, client)
    };
    let speaking = tokio::spawn(async move { speaks.write_all(&vec![2; LENGTH]).await });
    let mut heard = 0;
    let mut buffer = vec![0; 64 << 10];
    while heard < LENGTH {
        let reading = tokio::time::timeout(WAIT, reads.read(&mut buffer));
        heard += reading
            .await
            .unwrap_or_else(|_| panic!("stalled after {heard} bytes"))
            .unwrap();
    }
    speaking.await.unwrap().unwrap();
    assert!(kept.iter().all(|(speaking, _)| !speaking.is_finished()));
    assert_eq!(destination.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_of_responses_do_not_hold_up_another() {
    stalled_readers_do_not_hold_up_another(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_of_uploads_do_not_hold_up_another() {
    stalled_readers_do_not_hold_up_another(true).await;
}

/// A server that responds without reading, and closes: its kernel sends what it said, and a reset. Several at once on one connection,
/// whose task then does not run after each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_before_a_reset_arrive() {
    const STREAMS: usize = 8;
    let ca = Arc::new(TestCa::new().unwrap());
    let destination = Destination::start(&ca, id("server")).await;
    let source = Source::new(&ca, id("client"));
    let (listener, address) = application().await;
    // The larger one is what the first window of a TCP connection takes: natively, too, a reset forgets what is not sent yet.
    for size in [8, 48 << 10] {
        for round in 0..25 {
            let mut exchanges = tokio::task::JoinSet::new();
            for _ in 0..STREAMS {
                let (mut client, mut server) = join(&source, &destination, &listener, address).await;
                exchanges.spawn(async move {
                    client.write_all(&[0; 1024]).await.unwrap();
                    // What it waits for stays unread.
                    server.peek(&mut [0]).await.unwrap();
                    server.write_all(&vec![7; size]).await.unwrap();
                    drop(server);
                    let mut heard = Vec::new();
                    let end = client.read_to_end(&mut heard).await;
                    (heard.len(), end.map_err(|error| error.kind()))
                });
            }
            for (heard, end) in exchanges.join_all().await {
                assert_eq!(heard, size, "round {round}");
                assert_eq!(end, Err(ErrorKind::ConnectionReset), "round {round}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_before_a_reset_arrive_in_plaintext() {
    for _ in 0..50 {
        let ((mut client, a), (mut server, b)) = (tcp_pair().await, tcp_pair().await);
        let copy = tokio::spawn(async move { copy_tcp(a, b, &borrower(), &Bytes::default()).await.is_ok() });
        client.write_all(&[0; 1024]).await.unwrap();
        server.peek(&mut [0]).await.unwrap();
        server.write_all(&[7; 48 << 10]).await.unwrap();
        drop(server);
        let mut heard = Vec::new();
        let end = client.read_to_end(&mut heard).await;
        assert_eq!(heard.len(), 48 << 10);
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(!copy.await.unwrap());
    }
}

/// As Envoy aborts.
async fn a_reset_without_an_error_before_the_end_is_no_end() {
    let ca = Arc::new(TestCa::new().unwrap());
    let (address, mut requests) = foreign_server(&ca, id("server"), |_| {}).await;
    let source = Source::new(&ca, id("client"));
    let key = source.key(address, &id("server"), "workload");
    for through_a_copy in [true, false] {
        let open = source.open_key(&key, address);
        let serve = async {
            let (request, mut respond) = requests.recv().await.unwrap();
            let mut send = respond.send_response(http::Response::new(()), false).unwrap();
            send.send_data("part".into(), false).unwrap();
            (request, send)
        };
        let (stream, (_request, mut send)) = tokio::join!(open, serve);
        let stream = stream.unwrap();
        let mut part = [0; 4];
        let end = if through_a_copy {
            let (mut client, accepted) = tcp_pair().await;
            let copy = tokio::spawn(async move { copy_tunnel(accepted, stream, &Bytes::default()).await });
            client.read_exact(&mut part).await.unwrap();
            send.send_reset(h2::Reason::NO_ERROR);
            let end = client.read(&mut [0]).await;
            assert!(copy.await.unwrap().is_err());
            end
        } else {
            let mut io = stream.into_io();
            io.read_exact(&mut part).await.unwrap();
            send.send_reset(h2::Reason::NO_ERROR);
            io.read(&mut [0]).await
        };
        assert_eq!(&part, b"part");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// Neither side says anything any more: only the socket's error tells.
async fn a_client_that_goes_after_it_has_closed_its_half_is_noticed() {
    let mut t = tunnel().await;
    t.client.write_all(b"question").await.unwrap();
    t.client.shutdown().await.unwrap();
    let mut question = String::new();
    t.server.read_to_string(&mut question).await.unwrap();
    t.client.set_zero_linger().unwrap();
    drop(t.client);
    assert!(!tokio::time::timeout(WAIT, t.copy).await.unwrap().unwrap());
    let mut end = loop {
        // The reset comes over the tunnel.
        if let Err(error) = t.server.write_all(b"answer").await {
            break error;
        }
        tokio::task::yield_now().await;
    };
    if end.kind() == ErrorKind::BrokenPipe {
        end = ErrorKind::ConnectionReset.into();
    }
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);

    let ((mut client, a), (mut server, b)) = (tcp_pair().await, tcp_pair().await);
    let copy = tokio::spawn(async move { copy_tcp(a, b, &borrower(), &Bytes::default()).await.is_ok() });
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    client.set_zero_linger().unwrap();
    drop(client);
    assert!(!tokio::time::timeout(WAIT, copy).await.unwrap().unwrap());
}

/// The frames of what waits for it would cost many times the window.
async fn a_reader_that_is_busy_finds_all_of_many_tiny_messages_and_the_others_are_served() {
    const MESSAGES: usize = 300_000;
    let ca = Arc::new(TestCa::new().unwrap());
    let config = HboneConfig {
        stream_window: 4 << 20,
        ..HboneConfig::default()
    };
    let server = Destination::with(&ca, id("server"), config).await;
    let (listener, address) = application().await;
    let mut client = raw(&ca, &server).await;
    let connect = || http::Request::connect(address.to_string()).body(()).unwrap();
    let (response, mut send) = client.send_request(connect(), false).unwrap();
    response.await.unwrap();
    let (mut busy, _) = listener.accept().await.unwrap();
    socket2::SockRef::from(&busy).set_recv_buffer_size(4096).unwrap();
    for n in 0..MESSAGES {
        send.send_data(vec![n as u8].into(), false).unwrap();
    }
    send.send_data(Default::default(), true).unwrap();

    // All of it has left when it is the turn of another stream.
    let mut client = client.ready().await.unwrap();
    let (response, mut other) = client.send_request(connect(), false).unwrap();
    response.await.unwrap();
    let (mut prompt, _) = listener.accept().await.unwrap();
    other.send_data("hello".into(), false).unwrap();
    prompt.read_exact(&mut [0; 5]).await.unwrap();

    let mut received = Vec::new();
    busy.read_to_end(&mut received).await.unwrap();
    assert!(received.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    assert_eq!(received.len(), MESSAGES);
    assert_eq!(server.ended.load(Ordering::SeqCst), 0);
}

async fn plain_tcp_is_copied_with_half_close_and_reset() {
    let pass =
        |a, b| tokio::spawn(async move { copy_tcp(a, b, &borrower(), &Bytes::default()).await.is_ok() });
    let ((mut client, a), (mut server, b)) = (tcp_pair().await, tcp_pair().await);
    let copy = pass(a, b);
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).await.unwrap();
    server.write_all(heard.as_bytes()).await.unwrap();
    drop(server);
    heard.clear();
    client.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "hello");
    assert!(copy.await.unwrap());

    let ((mut client, a), (server, b)) = (tcp_pair().await, tcp_pair().await);
    let copy = pass(a, b);
    server.set_zero_linger().unwrap();
    drop(server);
    assert_eq!(
        client.read(&mut [0]).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(!copy.await.unwrap());
}

crate::support::on_both_runtimes! {
    the_server_may_speak_first,
    each_side_may_end_its_half_first,
    a_reset_on_one_side_is_a_reset_on_the_other,
    an_answer_that_comes_before_a_reset_is_heard_by_who_is_speaking_still,
    a_peer_that_closes_after_its_answer_ends_the_connection_without_an_error,
    an_answer_to_a_request_that_was_not_read_arrives,
    a_reset_is_passed_on_even_after_one_half_has_ended,
    the_death_of_the_destinations_proxy_is_a_reset,
    a_slow_reader_holds_the_sender_back_and_loses_nothing,
    a_reset_without_an_error_before_the_end_is_no_end,
    a_client_that_goes_after_it_has_closed_its_half_is_noticed,
    a_reader_that_is_busy_finds_all_of_many_tiny_messages_and_the_others_are_served,
    plain_tcp_is_copied_with_half_close_and_reset,
}
