//! A client's connection, served until it ends.

mod farewell;
mod http2;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::connection::ClientConnection;
use super::passthrough::{Opened, pass_through};
use super::{connection_route, request, websocket};
use crate::http::io::{Answering, ClientIo};
use crate::http::{ClientStream, Detected, Interim, detect, limits, unfinished};
use crate::received::Received;
use crate::state::AppProtocol;

/// Serves a client's connection until it ends.
pub(crate) async fn serve<IO: ClientStream>(client: ClientConnection, mut io: IO) {
    let Ok(target) = client.target() else {
        return;
    };
    if target.connection_routes(client.identity.namespace()).is_some() {
        drop(target);
        return connection_route::serve(client, io).await;
    }
    let mut read = BytesMut::new();
    let (declared, timeout) = match target.protocol() {
        AppProtocol::Tcp | AppProtocol::Tls => {
            drop(target);
            return pass_through(client, io, Bytes::new()).await;
        }
        // Whoever says nothing for so long is idle.
        AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => (true, client.proxy.timeouts.idle),
        AppProtocol::Unknown => (false, client.proxy.timeouts.detect),
    };
    drop(target);
    let detected = tokio::select! {
        detected = tokio::time::timeout(timeout, detect(&mut io, &mut read, declared)) => detected,
        () = client.until_unwanted(), if declared => return,
    };
    match detected {
        Ok(Ok(detected)) => serve_as(client, detected, io, read.freeze()).await,
        Ok(Err(error)) => tracing::debug!(%error, "the client's connection ended at once"),
        Err(_) if declared => {}
        // It has begun a line and waits.
        Err(_) if !read.is_empty() => {
            let detected = unfinished(&read);
            serve_as(client, detected, io, read.freeze()).await;
        }
        Err(_) => serve_silent(client, io, read).await,
    }
}

async fn serve_as<IO: ClientStream>(client: ClientConnection, detected: Detected, io: IO, prefix: Bytes) {
    match detected {
        Detected::Http1 => serve_http1(client, io, prefix).await,
        Detected::Http2 => http2::serve(client, io, prefix).await,
        Detected::Other => pass_through(client, io, prefix).await,
    }
}

/// Serves a client that has said nothing so far. It may wait for the endpoint to speak first; or it has connected in advance and speaks HTTP
/// later, which must be taken for what it is then.
async fn serve_silent<IO: ClientStream>(client: ClientConnection, mut io: IO, mut read: BytesMut) {
    let mut opened = Opened::quietly(&client).await;
    let heard = async {
        match &mut opened {
            Some(opened) => opened.hear().await,
            None => std::future::pending().await,
        }
    };
    let first = tokio::select! {
        detected = detect(&mut io, &mut read, false) => Ok(detected),
        heard = heard => Err(heard),
        () = tokio::time::sleep(client.proxy.timeouts.idle) => return,
        () = client.until_unwanted() => return,
    };
    match (first, opened) {
        (Ok(Ok(Detected::Other)), Some(opened)) => {
            opened.pass_through(client, io, read.freeze(), Bytes::new()).await;
        }
        // The endpoint gave it up; a request may be on its way all the same.
        (Err(heard), opened) if heard.is_empty() => {
            drop(opened);
            serve_late(client, io, read).await;
        }
        (Err(heard), Some(opened)) => opened.pass_through(client, io, read.freeze(), heard).await,
        (Ok(Ok(detected)), opened) => {
            drop(opened);
            serve_as(client, detected, io, read.freeze()).await;
        }
        (Ok(Err(error)), _) => tracing::debug!(%error, "the client's connection ended at once"),
        (Err(_), None) => {}
    }
}

/// Serves a client that says something only after its endpoint has lost patience.
async fn serve_late<IO: ClientStream>(client: ClientConnection, mut io: IO, mut read: BytesMut) {
    let detected = tokio::select! {
        detected = detect(&mut io, &mut read, false) => detected,
        () = tokio::time::sleep(client.proxy.timeouts.idle) => return,
        () = client.until_unwanted() => return,
    };
    match detected {
        Ok(detected) => serve_as(client, detected, io, read.freeze()).await,
        Err(error) => tracing::debug!(%error, "the client's connection ended at once"),
    }
}

async fn serve_http1<IO: ClientStream>(client: ClientConnection, io: IO, prefix: Bytes) {
    let gone = io.gone();
    let (watch, head_timeout) = (Arc::clone(&client.watch), client.proxy.timeouts.head);
    let io = ClientIo::new(io, prefix).with_requests(watch, head_timeout, &client.account);
    let client = Arc::new(client);
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |mut request: Request<Incoming>| {
            let client = Arc::clone(&client);
            let interim = Interim::http1(&client.watch, request.version());
            let answering = Answering::new(&client.watch);
            let restored = client.watch.restore(&mut request);
            async move {
                let request = request.map(Received::Http1);
                let response = match restored {
                    Ok(()) => request::handle(Arc::clone(&client), request, interim).await,
                    Err(error) => request::refuse_target(&client, &request, &error),
                };
                // The final head must not overtake what is to go before it.
                client.watch.interim_sent().await;
                Ok::<_, Infallible>(response.map(|body| answering.with(body)))
            }
        })
    };
    let mut connection = hyper::server::conn::http1::Builder::new()
        // Watched by ClientIo, which tells idle clients from slow ones.
        .header_read_timeout(None::<Duration>)
        .max_header_size(limits::MAX_WHOLE_HEAD)
        .max_headers(limits::MAX_FIELDS)
        .preserve_header_case(true)
        .max_buf_size(limits::MAX_BUFFER)
        .writev(false)
        .serve_connection(TokioIo::new(io), service);
    let mut ending = FuturesUnordered::from_iter([client.until_ending()]);
    let mut gone = std::pin::pin!(gone);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut connection => break result,
            // hyper would not hear of it while nobody takes the body of a request.
            () = &mut gone => return,
            Some(()) = ending.next() => {
                client.watch.end();
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    drop(ending);
    let failed = result.is_err();
    report(&client, result);
    let upgrade = client.take_upgrade();
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if let Some(upgrade) = upgrade {
        websocket::run(upgrade, &client, io, parts.read_buf).await;
    } else if !failed && let Err(error) = io.shutdown().await {
        // hyper leaves it open after a request for an upgrade that was not granted.
        tracing::debug!(%error, "the client's connection ended first");
    }
}

/// Says why a connection ended, where it broke the protocol: such requests have no record.
fn report(client: &ClientConnection, result: Result<(), hyper::Error>) {
    let violation = client.watch.take_violation();
    let Err(error) = result else {
        return;
    };
    if violation.is_none() && !error.is_parse() && !error.is_timeout() && !is_protocol_error(&error) {
        tracing::debug!(%error, "the client's connection failed");
        return;
    }
    let reason = match violation {
        Some(violation) => violation.to_string(),
        None => super::tries::brief(&error),
    };
    client.broke_protocol(&reason);
}

fn is_protocol_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::TimedOut;
        }
        cause = error.source();
    }
    false
}
