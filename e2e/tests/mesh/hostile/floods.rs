//! What the attacker sends. Errors of the other end are what it is out for, and only end one of its connections.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use ambit_e2e::cluster::Cluster;
use ambit_wire::discovery::DeltaDiscoveryRequest;
use ambit_wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use anyhow::Result;
use bytes::Bytes;
use futures::future::poll_fn;
use h2::client::{Builder, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;

use crate::hbone::{Caller, control_plane};

/// How long the other end may take none of what is sent before the attacker is content with it.
const QUIET: Duration = Duration::from_millis(500);

/// The same for what follows on a connection that has been quiet: with a thousand streams, half a second for each would be minutes.
const HASTE: Duration = Duration::from_millis(1);

/// What an attack keeps open.
pub(super) struct Held {
    driver: JoinHandle<Result<(), h2::Error>>,
    _sender: SendRequest<Bytes>,
    _uploads: Vec<SendStream<Bytes>>,
    _answers: Vec<RecvStream>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn open(
    stream: TcpStream,
    window: u32,
) -> Result<(SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>)> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::TcpStream::from_std(stream)?;
    let (sender, connection) = Builder::new()
        .initial_window_size(window)
        .handshake(stream)
        .await?;
    Ok((sender, tokio::spawn(connection)))
}

fn request(method: Method, path: &str) -> Result<Request<()>> {
    let uri = format!("http://web:8080{path}");
    Ok(Request::builder().method(method).uri(uri).body(())?)
}

/// Opens streams and takes each back at once; returns how many.
pub(super) async fn cancel(stream: TcpStream, streams: usize) -> Result<usize> {
    let (mut sender, driver) = open(stream, 65_535).await?;
    let mut opened = 0;
    for _ in 0..streams {
        let Ok(Ok(ready)) = timeout(QUIET, sender.ready()).await else {
            break;
        };
        sender = ready;
        let Ok((_answer, mut body)) = sender.send_request(request(Method::POST, "/slow?ms=1000")?, false)
        else {
            break;
        };
        // Without a turn of the driver in between, h2 would send neither of them.
        tokio::task::yield_now().await;
        body.send_reset(Reason::CANCEL);
        opened += 1;
    }
    tokio::task::yield_now().await;
    driver.abort();
    Ok(opened)
}

/// Asks for large answers and takes no byte of any; returns how many have begun.
pub(super) async fn read_nothing(stream: TcpStream, streams: usize) -> Result<(Held, usize)> {
    let (mut sender, driver) = open(stream, 0).await?;
    let mut waiting = Vec::new();
    for _ in 0..streams {
        let Ok(Ok(ready)) = timeout(QUIET, sender.clone().ready()).await else {
            break;
        };
        sender = ready;
        let Ok((answer, _)) = sender.send_request(request(Method::GET, "/large")?, true) else {
            break;
        };
        waiting.push(answer);
    }
    let mut answers = Vec::new();
    let mut patience = QUIET;
    for answer in waiting {
        match timeout(patience, answer).await {
            Ok(Ok(answer)) if answer.status() == 200 => answers.push(answer.into_body()),
            Ok(_) => {}
            Err(_) => patience = HASTE,
        }
    }
    let begun = answers.len();
    let held = Held {
        driver,
        _sender: sender,
        _uploads: Vec::new(),
        _answers: answers,
    };
    Ok((held, begun))
}

/// Sends as much of endless bodies as is taken; returns how many bytes that was.
pub(super) async fn upload(stream: TcpStream, streams: usize) -> Result<(Held, usize)> {
    let (mut sender, driver) = open(stream, 65_535).await?;
    let mut uploads = Vec::new();
    let mut sent = 0;
    let mut patience = QUIET;
    for _ in 0..streams {
        let Ok(Ok(ready)) = timeout(QUIET, sender.clone().ready()).await else {
            break;
        };
        sender = ready;
        let Ok((_answer, mut body)) = sender.send_request(request(Method::POST, "/slow?ms=60000")?, false)
        else {
            break;
        };
        body.reserve_capacity(1024 * 1024);
        match timeout(patience, poll_fn(|cx| body.poll_capacity(cx))).await {
            Ok(Some(Ok(capacity))) => {
                if body.send_data(Bytes::from(vec![b'x'; capacity]), false).is_ok() {
                    sent += capacity;
                }
            }
            Ok(_) => {}
            Err(_) => patience = HASTE,
        }
        uploads.push(body);
    }
    let held = Held {
        driver,
        _sender: sender,
        _uploads: uploads,
        _answers: Vec::new(),
    };
    Ok((held, sent))
}

/// Opens CONNECT streams and takes each back at once; returns how many. A refused connection is none.
pub(super) async fn connect(
    caller: &Caller,
    pod: Ipv4Addr,
    authority: &str,
    streams: usize,
) -> Result<usize> {
    let Ok(Ok((mut sender, driver))) = timeout(Duration::from_secs(10), caller.open(pod)).await else {
        return Ok(0);
    };
    let mut opened = 0;
    for _ in 0..streams {
        let Ok(Ok(ready)) = timeout(QUIET, sender.ready()).await else {
            break;
        };
        sender = ready;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(authority)
            .body(())?;
        let Ok((_answer, mut body)) = sender.send_request(request, false) else {
            break;
        };
        tokio::task::yield_now().await;
        body.send_reset(Reason::CANCEL);
        opened += 1;
    }
    tokio::task::yield_now().await;
    driver.abort();
    Ok(opened)
}

/// Subscribes to names of 64 MiB together; returns what became of it.
pub(super) async fn large_message(cluster: &Cluster, token: &str) -> Result<Code> {
    let message = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/istio.workload.Address".to_owned(),
        resource_names_subscribe: vec!["x".repeat(1024); 64 * 1024],
        ..DeltaDiscoveryRequest::default()
    };
    let messages = futures::stream::iter([message]);
    let mut request = tonic::Request::new(messages);
    if !token.is_empty() {
        let bearer = format!("Bearer {token}").parse()?;
        request.metadata_mut().insert("authorization", bearer);
    }
    let channel = control_plane(cluster).await?;
    let called = AggregatedDiscoveryServiceClient::new(channel)
        .delta_aggregated_resources(request)
        .await;
    let mut answers = match called {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Ok(status.code()),
    };
    Ok(match answers.message().await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    })
}
