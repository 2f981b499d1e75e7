//! As much of gRPC as the load and the backend need: calls with one message each way, on one HTTP/2 connection. Source:
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use ambit_bench::l7::{HOSTNAME, PATH};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};

use crate::http1::Io;

/// What an HTTP/2 connection begins with (RFC 9113, 3.4), as far as no HTTP/1.1 request does.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");

/// A message of 32 bytes, behind its prefix: not compressed, four bytes of length.
const MESSAGE: &[u8] = b"\0\0\0\0\x20................................";

/// The client's end of a connection, for any number of calls at a time.
#[derive(Clone)]
pub(crate) struct Channel(SendRequest<Bytes>);

impl Channel {
    /// Over this.
    pub(crate) async fn open(io: impl Io + 'static) -> Result<Self> {
        let (channel, connection) = client::handshake(io).await.context("no HTTP/2")?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("the gRPC connection ended: {error}");
            }
        });
        Ok(Self(channel))
    }

    /// One call.
    pub(crate) async fn call(&self) -> Result<()> {
        let mut channel = self.0.clone().ready().await?;
        let request = Request::post(format!("http://{HOSTNAME}{PATH}"))
            .header(CONTENT_TYPE, GRPC)
            .header(TE, "trailers")
            .body(())?;
        let (response, mut body) = channel.send_request(request, false)?;
        body.send_data(Bytes::from_static(MESSAGE), true)?;
        let response = response.await?;
        ensure!(
            response.status() == StatusCode::OK,
            "the response was {}",
            response.status()
        );
        let mut body = response.into_body();
        read(&mut body).await?;
        let trailers = body.trailers().await?.context("a response without trailers")?;
        let status = trailers.get(GRPC_STATUS);
        ensure!(status == Some(&OK), "grpc-status is {status:?}");
        Ok(())
    }
}

/// Responds to every call on `io` until it ends.
pub(crate) async fn serve(io: impl Io) -> Result<()> {
    let mut connection = server::handshake(io).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(async move {
            if let Err(error) = answer(request.into_body(), respond).await {
                eprintln!("a call: {error:#}");
            }
        });
    }
    Ok(())
}

async fn answer(mut request: RecvStream, mut respond: SendResponse<Bytes>) -> Result<()> {
    read(&mut request).await?;
    let head = Response::builder().header(CONTENT_TYPE, GRPC).body(())?;
    let mut body = respond.send_response(head, false)?;
    body.send_data(Bytes::from_static(MESSAGE), false)?;
    body.send_trailers(HeaderMap::from_iter([(GRPC_STATUS, OK)]))?;
    Ok(())
}

/// Takes a body to its end.
async fn read(body: &mut RecvStream) -> Result<()> {
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(())
}
