//! Which connections are shared, for how long, and what their failure does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ambit_hbone::{ConnectError, HboneConfig, OpenError};
use ambit_identity::SpiffeId;
use ambit_tls::testing::TestCa;
use ambit_tls::{CertificateError, CertificateManager, CertificateSource, ManagerConfig};
use futures::future::join_all;
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::support::{Destination, Source, application, id};

/// Waits for a condition that other tasks bring about.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::support::WAIT, waiting)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn streams_share_a_connection_until_it_is_full() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    let config = HboneConfig {
        max_streams: 4,
        ..HboneConfig::default()
    };
    let source = Source::with(&ca, id("client"), config);
    let streams = join_all((0..4).map(|_| source.open(&server, address))).await;
    assert!(streams.iter().all(Result::is_ok));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let fifth = source.open(&server, address).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    drop((streams, fifth));
    join_all((0..8).map(|_| source.open(&server, address))).await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn another_identity_destination_or_workload_gets_another_connection() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let key = source.key(server.address, &server.identity, "old");
    source.open_key(&key, address).await.unwrap();
    // The same address and identity, after the pod was replaced.
    let reused = source.key(server.address, &server.identity, "new");
    source.open_key(&reused, address).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    assert_eq!(source.pool.len(), 2);
}

#[tokio::test]
async fn eviction_ends_reuse_but_no_stream() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let _stream = source.open(&server, address).await.unwrap();
    let (application, _) = listener.accept().await.unwrap();
    source.pool.evict_workload("another");
    assert_eq!(source.pool.len(), 1);
    source.pool.evict_workload("workload");
    assert!(source.pool.is_empty());
    source.open(&server, address).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    // The first stream is still open: its application has seen no end.
    assert!(
        application
            .try_read(&mut [0])
            .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    );
}

#[tokio::test]
async fn all_who_wait_for_one_connection_fail_together() {
    let ca = Arc::new(TestCa::new().unwrap());
    // Accepts nothing: the handshake never ends.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = silent.local_addr().unwrap();
    let config = HboneConfig {
        connect_timeout: Duration::from_millis(300),
        ..HboneConfig::default()
    };
    let source = Source::with(&ca, id("client"), config);
    let key = source.key(to, &id("server"), "w");
    let dials = AtomicUsize::new(0);
    let authority = "10.0.0.1:80".parse().unwrap();
    let attempts = (0..8).map(|_| {
        source.pool.open(&key, &source.lease, &authority, || {
            dials.fetch_add(1, Ordering::SeqCst);
            TcpStream::connect(to)
        })
    });
    for result in join_all(attempts).await {
        let error = result.unwrap_err();
        assert!(
            matches!(error, OpenError::Connect(ConnectError::Timeout { .. })),
            "{error}"
        );
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    assert!(source.pool.is_empty());
}

#[tokio::test]
async fn an_address_that_nobody_listens_on_fails_with_its_name() {
    let ca = Arc::new(TestCa::new().unwrap());
    let free: SocketAddr = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let source = Source::new(&ca, id("client"));
    let error = source
        .open_key(&source.key(free, &id("server"), "w"), free)
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Connect(ConnectError::Dial { .. })));
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

/// Never answers.
struct SilentCa;

#[async_trait::async_trait]
impl CertificateSource for SilentCa {
    async fn sign(
        &self,
        _: &SpiffeId,
        _: String,
    ) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, CertificateError> {
        std::future::pending().await
    }
}

/// It is this node's, and says nothing of the destination.
#[tokio::test]
async fn a_certificate_that_does_not_come_is_no_failure_of_the_connection() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    let config = HboneConfig {
        connect_timeout: Duration::from_millis(100),
        ..HboneConfig::default()
    };
    let manager = CertificateManager::new(Arc::new(SilentCa), ManagerConfig::default());
    let source = Source {
        lease: manager.lease(id("client")),
        ..Source::with(&ca, id("client"), config)
    };
    let error = source.open(&server, address).await.unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Connect(ConnectError::Certificate {
                error: CertificateError::Timeout { .. },
                ..
            })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_draining_server_serves_what_is_open_and_new_streams_go_elsewhere() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let _stream = source.open(&server, address).await.unwrap();
    let (application, _) = listener.accept().await.unwrap();
    server.drain.cancel();
    // Streams begun while the GOAWAY is on its way may still be served by the first connection; none fails.
    let connections = Arc::clone(&server.connections);
    let opening = async {
        while connections.load(Ordering::SeqCst) == 1 {
            source.open(&server, address).await.unwrap();
        }
    };
    tokio::time::timeout(crate::support::WAIT, opening).await.unwrap();
    assert!(
        application
            .try_read(&mut [0])
            .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
    );
}

#[tokio::test]
async fn a_dead_connection_leaves_the_pool() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    source.open(&server, address).await.unwrap();
    server.kill.cancel();
    until("the pool is empty", || source.pool.is_empty()).await;
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let ca = Arc::new(TestCa::new().unwrap());
    let config = HboneConfig {
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(200),
        ..HboneConfig::default()
    };
    let source = Source::with(&ca, id("client"), config);
    let lease = crate::support::manager(&ca).lease(id("server"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    // Completes the TLS handshake and then says nothing.
    let mute = tokio::spawn(async move {
        let certificate = lease.certificate(crate::support::WAIT).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(certificate.server_config())
            .accept(tcp)
            .await
            .unwrap()
    });
    let error = source
        .open_key(&source.key(to, &id("server"), "w"), to)
        .await
        .unwrap_err();
    assert!(
        matches!(error, OpenError::Stream(_) | OpenError::Unsent(_)),
        "{error}"
    );
    until("the pool is empty", || source.pool.is_empty()).await;
    drop(mute.await);
}

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_not_waited_for_again() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let key = source.key(server.address, &server.identity, "workload");
    let mut running = source.open_key(&key, address).await.unwrap().into_io();
    let (mut application, _) = listener.accept().await.unwrap();

    let (mute, headers) = (crate::support::MUTE.parse().unwrap(), HeaderMap::new());
    let within = Duration::from_millis(100);
    let dial = || TcpStream::connect(server.address);
    let open = source
        .pool
        .open_within(&key, &source.lease, &mute, &headers, within, dial);
    let error = open.await.unwrap_err();
    assert!(
        matches!(error, OpenError::ResponseTimeout(waited) if waited == within),
        "{error}"
    );
    // The others go another way, and what runs goes on.
    source.open_key(&key, address).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    running.write_all(b"still here").await.unwrap();
    application.read_exact(&mut [0; 10]).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_takes_long_to_be_made_is_there_for_those_who_come_later() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let key = source.key(server.address, &server.identity, "workload");
    let (go, authority) = (Arc::new(Notify::new()), address.to_string().parse().unwrap());
    let dial = || {
        let (to, go) = (server.address, Arc::clone(&go));
        async move {
            go.notified().await;
            TcpStream::connect(to).await
        }
    };
    let (headers, within) = (HeaderMap::new(), Duration::from_millis(50));
    let open = source
        .pool
        .open_within(&key, &source.lease, &authority, &headers, within, dial);
    let error = open.await.unwrap_err();
    assert!(
        matches!(error, OpenError::Connect(ConnectError::Timeout { waited, .. }) if waited == within),
        "{error}"
    );
    go.notify_one();
    source.open_key(&key, address).await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    let config = HboneConfig {
        ping_interval: Duration::from_millis(20),
        idle_timeout: Duration::from_millis(100),
        ..HboneConfig::default()
    };
    let source = Source::with(&ca, id("client"), config);
    source.open(&server, address).await.unwrap();
    until("the server has seen its end", || {
        server.ended.load(Ordering::SeqCst) == 1
    })
    .await;
    // Nothing is left: the connection's own task has ended too.
    tokio::time::timeout(crate::support::WAIT, source.pool.drain())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_with_a_stream_is_not_idle_and_ends_after_it_is_evicted() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let config = HboneConfig {
        ping_interval: Duration::from_millis(20),
        idle_timeout: Duration::from_millis(100),
        ..HboneConfig::default()
    };
    let source = Source::with(&ca, id("client"), config);
    let quiet = source.open(&server, address).await.unwrap();
    let _accepted = listener.accept().await.unwrap();
    source.pool.evict_workload("workload");
    // A younger one of the same key, with nothing to do, ends first.
    source.open(&server, address).await.unwrap();
    until("the idle one has ended", || {
        server.ended.load(Ordering::SeqCst) == 1
    })
    .await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    drop(quiet);
    until("the evicted one has ended", || {
        server.ended.load(Ordering::SeqCst) == 2
    })
    .await;
}

/// Streams that come at the very moment at which their connection is found idle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_fails_because_its_connection_was_idle() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let config = HboneConfig {
        ping_interval: Duration::from_millis(1),
        idle_timeout: Duration::ZERO,
        ..HboneConfig::default()
    };
    let source = Source::with(&ca, id("client"), config);
    for _ in 0..300 {
        source.open(&server, address).await.unwrap();
        // About as long as it takes to look for idle connections.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(server.ended.load(Ordering::SeqCst) > 0);
}

/// What an application still sends on a stream that its client has given up is nobody's fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_given_up_do_not_harm_the_others() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move { while tcp.write_all(&[0; 1024]).await.is_ok() {} });
        }
    });
    let source = Source::new(&ca, id("client"));
    let (listener, quiet) = application().await;
    let mut other = source.open(&server, quiet).await.unwrap().into_io();
    let (mut application, _) = listener.accept().await.unwrap();
    for _ in 0..30 {
        join_all((0..99).map(|_| source.open(&server, address))).await;
        application.write_all(b"still here").await.unwrap();
        other.read_exact(&mut [0; 10]).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_draining_server_with_many_connections_fails_no_stream() {
    const CONNECTIONS: usize = 6;
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    let config = HboneConfig {
        max_streams: 2,
        ..HboneConfig::default()
    };
    let source = Source::with(&ca, id("client"), config);
    let streams = join_all((0..2 * CONNECTIONS).map(|_| source.open(&server, address))).await;
    assert_eq!(server.connections.load(Ordering::SeqCst), CONNECTIONS);
    // One is left on each of them, and another one fits.
    let mut streams: Vec<_> = streams.into_iter().map(Result::unwrap).collect();
    streams.retain(|stream| format!("{stream:?}").contains("StreamId(1)"));
    assert_eq!(streams.len(), CONNECTIONS);
    server.drain.cancel();
    while server.connections.load(Ordering::SeqCst) == CONNECTIONS {
        drop(source.open(&server, address).await.unwrap());
    }
}

#[tokio::test]
async fn a_peer_that_allows_one_stream_is_connected_to_again_for_the_next() {
    let ca = Arc::new(TestCa::new().unwrap());
    let settings = |builder: &mut h2::server::Builder| {
        builder.max_concurrent_streams(1);
    };
    let (address, mut requests) = crate::support::foreign_server(&ca, id("server"), settings).await;
    let source = Source::new(&ca, id("client"));
    let key = source.key(address, &id("server"), "workload");
    let application = "127.0.0.1:80".parse().unwrap();
    let answering = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Some((request, mut respond)) = requests.recv().await {
            let response = http::Response::new(());
            open.push((request, respond.send_response(response, false).unwrap()));
        }
    });
    // Three at once, of which each would be the connection's first; and one more.
    let mut streams = join_all((0..3).map(|_| source.open_key(&key, application))).await;
    streams.push(source.open_key(&key, application).await);
    assert!(streams.iter().all(Result::is_ok), "{streams:?}");
    answering.abort();
}
