//! A client's connection, served until it ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::connection::ClientConnection;
use super::detect::{Detected, detect};
use super::io::ClientIo;
use super::limits;
use super::request;
use crate::observe::{Flag, Refusal};
use crate::proxy::Opened;
use crate::state::AppProtocol;
use crate::upstream::TrackedExecutor;

/// Serves a client's connection until it ends.
pub(crate) async fn serve<IO>(client: ClientConnection, mut io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(target) = client.target() else {
        return;
    };
    let mut read = BytesMut::new();
    let (declared, timeout) = match target.protocol() {
        AppProtocol::Tcp | AppProtocol::Tls => {
            drop(target);
            return crate::proxy::pass_through(client, io, Bytes::new()).await;
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
        Err(_) => serve_silent(client, io, read).await,
    }
}

async fn serve_as<IO>(client: ClientConnection, detected: Detected, io: IO, prefix: Bytes)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match detected {
        Detected::Http1 => serve_http1(client, io, prefix).await,
        Detected::Http2 => serve_http2(client, io, prefix).await,
        Detected::Other => crate::proxy::pass_through(client, io, prefix).await,
    }
}

/// Serves a client that has said nothing so far. It may wait for the endpoint to speak first; or it has connected in advance and speaks HTTP
/// later, which must be taken for what it is then.
async fn serve_silent<IO>(client: ClientConnection, mut io: IO, mut read: BytesMut)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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
        (Err(heard), Some(opened)) => opened.pass_through(client, io, read.freeze(), heard).await,
        (Ok(Ok(detected)), _) => serve_as(client, detected, io, read.freeze()).await,
        (Ok(Err(error)), _) => tracing::debug!(%error, "the client's connection ended at once"),
        (Err(_), None) => {}
    }
}

async fn serve_http1<IO>(client: ClientConnection, io: IO, prefix: Bytes)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = ClientIo::new(io, prefix).with_requests(Arc::clone(&client.watch), client.proxy.timeouts.head);
    let client = Arc::new(client);
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |request| request::handle(Arc::clone(&client), request))
    };
    let mut connection = hyper::server::conn::http1::Builder::new()
        // Watched by ClientIo, which tells idle clients from slow ones.
        .header_read_timeout(None::<Duration>)
        .max_header_size(limits::MAX_HEAD)
        .max_buf_size(limits::MAX_BUFFER)
        .writev(false)
        .serve_connection(TokioIo::new(io), service);
    let mut ending = FuturesUnordered::from_iter([client.until_ending()]);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut connection => break result,
            Some(()) = ending.next() => std::pin::Pin::new(&mut connection).graceful_shutdown(),
        }
    };
    drop(ending);
    let failed = result.is_err();
    report(&client, result);
    let upgrade = client.take_upgrade();
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if let Some(upgrade) = upgrade {
        upgrade.run(&client, io, parts.read_buf).await;
    } else if !failed && let Err(error) = io.shutdown().await {
        // hyper leaves it open after a request for an upgrade that was not granted.
        tracing::debug!(%error, "the client's connection ended first");
    }
}

async fn serve_http2<IO>(mut client: ClientConnection, io: IO, prefix: Bytes)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    client.http2 = true;
    let io = ClientIo::new(io, prefix);
    let client = Arc::new(client);
    let service = {
        let client = Arc::clone(&client);
        service_fn(move |request| request::handle(Arc::clone(&client), request))
    };
    let connection = hyper::server::conn::http2::Builder::new(TrackedExecutor(client.proxy.requests.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::MAX_STREAMS)
        .max_header_list_size(limits::MAX_HEAD as u32)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_send_buf_size(limits::SEND_BUFFER)
        .max_pending_accept_reset_streams(limits::MAX_PENDING_RESETS)
        .max_local_error_reset_streams(limits::MAX_ERROR_RESETS)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut ending = FuturesUnordered::from_iter([client.until_ending()]);
    let mut calm = FuturesUnordered::from_iter([client.calm.notified()]);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut connection => break result,
            Some(()) = ending.next() => connection.as_mut().graceful_shutdown(),
            Some(()) = calm.next() => {
                if client.abandoned() > limits::MAX_ABANDONED_AT_ALL {
                    client.proxy.observer.refused(Refusal::BadRequest);
                    tracing::warn!(
                        src.identity = %client.identity,
                        src.addr = %client.peer,
                        limit = limits::MAX_ABANDONED_AT_ALL,
                        "the client goes on giving up requests: its connection is cut"
                    );
                    return;
                }
                tracing::info!(
                    src.identity = %client.identity,
                    src.addr = %client.peer,
                    limit = limits::MAX_ABANDONED,
                    "the client gives up more requests than are answered: it is told to use another connection"
                );
                connection.as_mut().graceful_shutdown();
                calm.push(client.calm.notified());
            }
        }
    };
    report(&client, result);
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
    client.proxy.observer.refused(Refusal::BadRequest);
    let reason = match violation {
        Some(violation) => violation.to_string(),
        None => super::tries::brief(&error),
    };
    tracing::event!(
        target: "access",
        parent: None,
        tracing::Level::WARN,
        src.identity = %client.identity,
        src.addr = %client.peer,
        flags = Flag::BadRequest.name(),
        reason,
        "request refused: it is not HTTP as it should be"
    );
}

fn is_protocol_error(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_library()
                || (error.is_go_away() && error.reason() != Some(h2::Reason::NO_ERROR));
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::TimedOut;
        }
        source = error.source();
    }
    false
}
