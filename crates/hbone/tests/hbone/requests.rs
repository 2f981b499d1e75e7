//! Which requests are served.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ambit_hbone::{HboneConfig, OpenError, RequestRefusal};
use ambit_tls::testing::TestCa;
use h2::Reason;
use http::{Method, Request, StatusCode};
use tokio::io::AsyncWriteExt;

use crate::support::{
    Destination, GIVEN_UP, GOAWAY, MUTE, Source, WAIT, application, frame, id, manager, raw, tls,
};

#[tokio::test]
async fn what_is_not_connect_is_refused_and_the_connection_goes_on() {
    let ca = Arc::new(TestCa::new().unwrap());
    let mut server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    let mut client = raw(&ca, &server).await;

    let get = Request::get(format!("https://{address}/")).body(()).unwrap();
    let (response, _) = client.send_request(get, true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        server.refusals.recv().await,
        Some(RequestRefusal::Method(Method::GET))
    );

    for authority in ["example.com:80", "10.0.0.1"] {
        let mut client = client.clone().ready().await.unwrap();
        let (response, _send) = client
            .send_request(Request::connect(authority).body(()).unwrap(), false)
            .unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            server.refusals.recv().await,
            Some(RequestRefusal::Authority(authority.to_owned()))
        );
    }
    assert!(server.peers.try_recv().is_err());

    let mut client = client.ready().await.unwrap();
    let connect = Request::connect(address.to_string()).body(()).unwrap();
    let (response, _send) = client.send_request(connect, false).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    listener.accept().await.unwrap();
}

/// It is a stranger's text, and ends in the log.
#[tokio::test]
async fn of_an_authority_that_is_none_only_the_beginning_is_kept() {
    let ca = Arc::new(TestCa::new().unwrap());
    let mut server = Destination::start(&ca, id("server")).await;
    let mut client = raw(&ca, &server).await;
    let connect = Request::connect(format!("{}:80", "x".repeat(8000)))
        .body(())
        .unwrap();
    let (response, _send) = client.send_request(connect, false).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
    let kept = RequestRefusal::Authority("x".repeat(128));
    assert_eq!(server.refusals.recv().await, Some(kept));
}

#[tokio::test]
async fn the_clients_caller_is_told_of_a_refusal() {
    let ca = Arc::new(TestCa::new().unwrap());
    let server = Destination::start(&ca, id("server")).await;
    let (listener, address) = application().await;
    drop(listener);
    let error = Source::new(&ca, id("client"))
        .open(&server, address)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Refused {
                status: StatusCode::SERVICE_UNAVAILABLE,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_handler_hears_that_its_client_has_given_up() {
    let ca = Arc::new(TestCa::new().unwrap());
    let mut server = Destination::start(&ca, id("server")).await;
    let mut client = raw(&ca, &server).await;
    let connect = Request::connect(GIVEN_UP).body(()).unwrap();
    let (_response, mut send) = client.send_request(connect, false).unwrap();
    server.peers.recv().await.unwrap();
    send.send_reset(Reason::CANCEL);
    let heard = tokio::time::timeout(WAIT, server.peers.recv()).await;
    assert_eq!(heard.unwrap(), Some(id("client")));
}

#[tokio::test]
async fn streams_that_are_given_up_count_until_their_handlers_have_ended() {
    let ca = Arc::new(TestCa::new().unwrap());
    let config = HboneConfig {
        max_streams: 2,
        ..HboneConfig::default()
    };
    let mut server = Destination::with(&ca, id("server"), config).await;
    let mut client = raw(&ca, &server).await;
    for _ in 0..4 {
        client = client.ready().await.unwrap();
        let connect = Request::connect(MUTE).body(()).unwrap();
        let (_response, mut send) = client.send_request(connect, false).unwrap();
        server.peers.recv().await.unwrap();
        send.send_reset(Reason::CANCEL);
    }
    // None is open, and the handlers of four are busy.
    let mut refused = 0;
    let end = loop {
        client = match client.clone().ready().await {
            Ok(ready) => ready,
            Err(error) => break error.reason(),
        };
        let connect = Request::connect(MUTE).body(()).unwrap();
        match client.send_request(connect, false) {
            Ok((response, _send)) => {
                let reason = response.await.unwrap_err().reason();
                refused += u32::from(reason == Some(Reason::REFUSED_STREAM));
            }
            Err(error) => break error.reason(),
        }
    };
    assert_eq!((refused, end), (4, Some(Reason::ENHANCE_YOUR_CALM)));
    assert!(server.peers.try_recv().is_err());
}

#[tokio::test]
async fn a_client_that_asks_for_nothing_is_not_kept() {
    let ca = Arc::new(TestCa::new().unwrap());
    let config = HboneConfig {
        idle_timeout: Duration::from_secs(1),
        ..HboneConfig::default()
    };
    let server = Destination::with(&ca, id("server"), config).await;
    let (listener, address) = application().await;
    let mut client = raw(&ca, &server).await;
    let connect = Request::connect(address.to_string()).body(()).unwrap();
    let (response, stream) = client.send_request(connect, false).unwrap();
    let response = response.await.unwrap();
    let (mut application, _) = listener.accept().await.unwrap();
    let ended = async |connections| {
        let ended = async {
            while server.ended.load(Ordering::SeqCst) < connections {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, ended).await.unwrap();
    };
    // One that has a stream outlives one that comes after it and has none.
    let _idle = raw(&ca, &server).await;
    ended(1).await;
    application.write_all(b"still here").await.unwrap();
    let mut body = response.into_body();
    let heard = tokio::time::timeout(WAIT, body.data()).await.unwrap();
    assert_eq!(heard.unwrap().unwrap(), "still here");
    drop((body, stream));
    ended(2).await;
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_told_that_it_is_let_go() {
    let ca = Arc::new(TestCa::new().unwrap());
    let config = HboneConfig {
        ping_interval: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(100),
        ..HboneConfig::default()
    };
    let server = Destination::with(&ca, id("server"), config).await;
    let certificate = manager(&ca).lease(id("client")).certificate(WAIT).await.unwrap();
    let mut tls = tls(&certificate, &server).await;
    // The preface and SETTINGS, and no answer to anything that the server says.
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let told = async { while frame(&mut tls).await.0 != GOAWAY {} };
    tokio::time::timeout(WAIT, told).await.unwrap();
}

/// Each of these frames would cost some 270 bytes until it is read, and nobody reads before there is an application.
#[tokio::test]
async fn many_small_frames_before_an_answer_cost_the_connection_nothing() {
    let ca = Arc::new(TestCa::new().unwrap());
    let mut server = Destination::start(&ca, id("server")).await;
    let (_listener, address) = application().await;
    let mut client = raw(&ca, &server).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        client = client.ready().await.unwrap();
        let connect = Request::connect(GIVEN_UP).body(()).unwrap();
        let (response, mut send) = client.send_request(connect, false).unwrap();
        server.peers.recv().await.unwrap();
        for _ in 0..60_000 {
            send.send_data("x".into(), false).unwrap();
        }
        kept.push((response, send));
    }
    client = client.ready().await.unwrap();
    let connect = Request::connect(address.to_string()).body(()).unwrap();
    let (response, _send) = client.send_request(connect, false).unwrap();
    let response = tokio::time::timeout(WAIT, response).await.unwrap();
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    // All of it has come, and the connection still stands.
    for (_, send) in &mut kept {
        send.reserve_capacity(1 << 16);
        assert!(send.capacity() < 1 << 13, "{}", send.capacity());
    }
    client.ready().await.unwrap();
}
