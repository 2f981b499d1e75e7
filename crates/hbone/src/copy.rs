//! Copying between TCP connections and CONNECT streams: both directions at once, each with its own end.

mod buffer;
mod ends;
mod tcp;
mod to_stream;
mod to_tcp;

use std::borrow::Borrow;
use std::pin::pin;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::Reason;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{CopyError, HboneStream, Http2Error};
pub use ends::Meter;
use ends::{Ends, LAST_WORDS, failure, gone};
use tcp::Guarded;
pub use tcp::{RefusedTcp, copy_tcp, copy_tcp_unless_refused};
use to_stream::tcp_to_stream;
use to_tcp::stream_to_tcp;

/// Copies between a TCP connection (forward is what is read from it) and a CONNECT stream until both directions have ended.
/// An end of one direction is passed on and leaves the other open. A failure of one side resets the other, once what the failed side
/// said before is passed on.
///
/// Dropping the future before its end resets both sides, so that a truncated transfer is never mistaken for a complete one.
///
/// # Errors
/// The first failure.
pub async fn copy_tunnel(
    tcp: impl Borrow<TcpStream>,
    stream: HboneStream,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    copy_tunnel_after(Bytes::new(), tcp, stream, meter).await
}

/// As [`copy_tunnel`], where this was read from the TCP connection before.
///
/// # Errors
/// The first failure.
pub async fn copy_tunnel_after(
    said: Bytes,
    tcp: impl Borrow<TcpStream>,
    stream: HboneStream,
    meter: &impl Meter,
) -> Result<(), CopyError> {
    let mut tcp = Guarded::new(tcp);
    let HboneStream {
        mut send,
        mut recv,
        permit,
        ..
    } = stream;
    let result = {
        let socket = tcp.socket();
        let ends = Ends::default();
        let forward = tcp_to_stream(said, socket, &mut send, &ends, |n| meter.forward(n));
        let backward = async {
            stream_to_tcp(&mut recv, socket, |n| meter.backward(n)).await?;
            ends.received_all.store(true, Ordering::Relaxed);
            // Once more round both, so that the other direction begins to watch for a reset.
            tokio::task::yield_now().await;
            Ok(())
        };
        let gone = gone(socket);
        let (mut forward, mut backward, mut gone) = (pin!(forward), pin!(backward), pin!(gone));
        tokio::select! {
            biased;
            result = &mut forward => match result {
                Ok(()) => tokio::select! {
                    biased;
                    result = &mut backward => result,
                    () = &mut gone => Err(CopyError::Tcp(failure(socket))),
                },
                // What the peer said before it wanted no more may be the response that says why; the reset comes after it.
                Err(CopyError::Tunnel(error)) => match timeout(LAST_WORDS, backward).await {
                    Ok(Ok(())) => wants_no_more(error),
                    _ => Err(CopyError::Tunnel(error)),
                },
                Err(error) => Err(error),
            },
            result = &mut backward => match result {
                Ok(()) => tokio::select! {
                    biased;
                    result = &mut forward => match result {
                        Err(CopyError::Tunnel(error)) => wants_no_more(error),
                        result => result,
                    },
                    () = &mut gone => Err(last_words(forward, &ends, || CopyError::Tcp(failure(socket))).await),
                },
                Err(CopyError::Tcp(error)) => Err(last_words(forward, &ends, || CopyError::Tcp(error)).await),
                Err(error) => Err(error),
            },
            () = &mut gone => Err(last_words(forward, &ends, || CopyError::Tcp(failure(socket))).await),
        }
    };
    match &result {
        Ok(()) => tcp.done(),
        // RFC 9113 §8.5: an error of the TCP connection is a stream error of type CONNECT_ERROR.
        Err(CopyError::Tcp(_) | CopyError::OtherTcp(_)) => send.reset_after(Reason::CONNECT_ERROR, permit),
        Err(CopyError::Tunnel(_)) => {
            send.reset_after(Reason::CANCEL, permit);
            tcp.sent().await;
        }
    }
    result
}

/// Reads what a failed TCP connection said before, as far as it is taken in time. The kernel keeps that in front of the error.
async fn last_words(
    direction: impl Future<Output = Result<(), CopyError>>,
    ends: &Ends,
    otherwise: impl FnOnce() -> CopyError,
) -> CopyError {
    ends.tcp_failed.store(true, Ordering::Relaxed);
    match timeout(LAST_WORDS, direction).await {
        Ok(Err(error @ CopyError::Tcp(_))) => error,
        _ => otherwise(),
    }
}

/// How it ends when the peer reset the stream after it had said all it had to say. Without an error it only wants no more of us
/// (RFC 9113 §8.1), as a server that closes a connection after its answer.
fn wants_no_more(error: Http2Error) -> Result<(), CopyError> {
    if error.wants_no_more() {
        Ok(())
    } else {
        Err(CopyError::Tunnel(error))
    }
}
