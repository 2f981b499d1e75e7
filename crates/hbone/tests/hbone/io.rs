//! A CONNECT stream as bytes to read and write.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ambit_hbone::HboneConfig;
use ambit_tls::testing::TestCa;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Destination, Source, application, id};

const LARGE: usize = 20 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_end_by_themselves_and_nothing_is_lost() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let stream = source.open(&server, address).await.unwrap();
    let (mut application, _) = listener.accept().await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream.into_io());

    let sent: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    let data = sent.clone();
    let upload = tokio::spawn(async move {
        write.write_all(&data).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut received = Vec::new();
    application.read_to_end(&mut received).await.unwrap();
    assert!(received == sent);
    let _write = upload.await.unwrap();

    let mut back = Vec::new();
    let answer = async {
        application.write_all(&sent).await.unwrap();
        application.shutdown().await.unwrap();
    };
    let (_, end) = tokio::join!(answer, read.read_to_end(&mut back));
    end.unwrap();
    assert!(back == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_waits_for_a_peer_that_does_not_read() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let mut io = source.open(&server, address).await.unwrap().into_io();
    let (mut application, _) = listener.accept().await.unwrap();

    // More than all windows and socket buffers together.
    let data = vec![7; 64 << 20];
    let mut written = 0;
    let stuck = loop {
        let write = tokio::time::timeout(std::time::Duration::from_millis(500), io.write(&data[written..]));
        match write.await {
            Ok(n) => written += n.unwrap(),
            Err(_) => break true,
        }
        if written == data.len() {
            break false;
        }
    };
    assert!(stuck, "all was taken though nobody reads");

    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        application.read_to_end(&mut all).await.unwrap();
        all.len()
    });
    io.write_all(&data[written..]).await.unwrap();
    io.shutdown().await.unwrap();
    assert_eq!(reader.await.unwrap(), data.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_dropped_in_the_middle_is_a_reset_to_the_application() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let mut io = source.open(&server, address).await.unwrap().into_io();
    let (mut application, _) = listener.accept().await.unwrap();
    io.write_all(b"half of").await.unwrap();
    let mut half = [0; 7];
    application.read_exact(&mut half).await.unwrap();
    drop(io);
    let end = application.read(&mut half).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_by_the_peer_is_an_error_to_the_reader() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let mut io = source.open(&server, address).await.unwrap().into_io();
    let (application, _) = listener.accept().await.unwrap();
    application.set_zero_linger().unwrap();
    drop(application);
    let end = io.read(&mut [0; 1]).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_in_parts_is_whole() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let source = Source::new(&ca, id("client"));
    let mut io = source.open(&server, address).await.unwrap().into_io();
    let (mut application, _) = listener.accept().await.unwrap();
    application.write_all(b"one piece").await.unwrap();
    let mut parts = [[0; 4], [0; 4]];
    for part in &mut parts {
        io.read_exact(part).await.unwrap();
    }
    assert_eq!(parts.concat(), b"one piec");
    // An end on one side leaves the other open; nothing is written after it.
    io.shutdown().await.unwrap();
    io.shutdown().await.unwrap();
    assert_eq!(io.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(application.read(&mut [0; 1]).await.unwrap(), 0);
    application.write_all(b" more").await.unwrap();
    drop(application);
    let mut rest = String::new();
    io.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "e more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_stream_keeps_its_place_on_the_connection() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let one_stream = HboneConfig {
        max_streams: 1,
        ..HboneConfig::default()
    };
    let source = Source::with(&ca, id("client"), one_stream);
    let first = source.open(&server, address).await.unwrap().into_io();
    let _accepted = listener.accept().await.unwrap();
    let second = source.open(&server, address).await.unwrap().into_io();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    drop(first);
    let _third = source.open(&server, address).await.unwrap().into_io();
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
    drop(second);
}
