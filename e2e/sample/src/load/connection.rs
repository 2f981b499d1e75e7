//! A connection that is kept from request to request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};

use ambit_e2e::sample::Plan;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// An HTTP/1.1 connection.
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Bytes that came.
    received: Arc<AtomicU64>,
    driver: JoinHandle<()>,
}

/// A request without a response.
pub(super) struct Lost {
    /// Not a byte of the response had come.
    pub(super) early: bool,
    pub(super) error: anyhow::Error,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(super) async fn open(target: &str) -> Result<Self> {
        let stream = TcpStream::connect(target).await;
        let stream = stream.with_context(|| format!("cannot connect to {target}"))?;
        stream.set_nodelay(true)?;
        let received = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            stream,
            received: Arc::clone(&received),
        };
        let (sender, connection) = handshake(TokioIo::new(counted)).await?;
        let driver = tokio::spawn(async move {
            // The request that it concerns tells of it.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            received,
            driver,
        })
    }

    /// The connection, if another request can be made on it: not when its peer said that it ends, or ended it.
    pub(super) async fn reusable(mut self) -> Option<Self> {
        self.sender.ready().await.ok()?;
        Some(self)
    }

    /// Whether its peer ended it since the last request.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Status and reason of the response.
    pub(super) async fn ask(&mut self, host: &str, plan: &Plan) -> Result<(u16, String), Lost> {
        let before = self.received.load(Ordering::Relaxed);
        let answer = self.exchange(host, plan).await;
        answer.map_err(|error| Lost {
            early: self.received.load(Ordering::Relaxed) == before,
            error,
        })
    }

    async fn exchange(&mut self, host: &str, plan: &Plan) -> Result<(u16, String)> {
        let request = Request::builder()
            .method(plan.method.as_str())
            .uri(&plan.path)
            .header(http::header::HOST, host)
            .body(Empty::new())?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let reason = answer.headers().get("x-ambit-reason");
        let reason = reason.map_or_else(String::new, |reason| {
            String::from_utf8_lossy(reason.as_bytes()).into_owned()
        });
        answer
            .into_body()
            .collect()
            .await
            .context("the response was cut")?;
        Ok((status, reason))
    }
}

/// A stream that counts what comes.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let came = buffer.filled().len() - before;
        self.received.fetch_add(came as u64, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
