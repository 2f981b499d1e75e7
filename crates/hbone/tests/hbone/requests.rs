//! Which requests are served.

use std::sync::Arc;

use ambit_hbone::{OpenError, RequestRefusal};
use ambit_tls::testing::TestCa;
use http::{Method, Request, StatusCode};

use crate::support::{Destination, Source, application, id, raw};

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
        matches!(error, OpenError::Refused(StatusCode::SERVICE_UNAVAILABLE)),
        "{error}"
    );
}
