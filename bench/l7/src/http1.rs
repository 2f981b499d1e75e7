//! As much of HTTP/1.1 as the load and the backend need, at the least cost: what they spend is not there for the other.

use std::io;

use ambit_bench::l7::HOSTNAME;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Header fields that a message may have.
const MOST_HEADERS: usize = 32;
/// Bytes that a message may have.
const MOST_BYTES: usize = 64 << 10;

/// What carries HTTP.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A request without a body, encoded.
pub(crate) fn request(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: {HOSTNAME}\r\nuser-agent: ambit-bench\r\naccept: */*\r\n\r\n")
        .into_bytes()
}

/// A POST with a body of so many bytes, encoded.
pub(crate) fn post(path: &str, body: usize) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {HOSTNAME}\r\nuser-agent: ambit-bench\r\ncontent-length: {body}\r\n\r\n"
    );
    let mut request = head.into_bytes();
    request.resize(request.len() + body, b'.');
    request
}

/// A response with status 200, encoded.
pub(crate) fn response(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The client's end of a connection.
pub(crate) struct Connection {
    io: Box<dyn Io>,
    buffer: Vec<u8>,
}

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Where the body lies in the connection's buffer.
    body: std::ops::Range<usize>,
    /// The connection ends with it.
    pub(crate) last: bool,
}

impl Connection {
    /// Over this.
    pub(crate) fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            buffer: Vec::with_capacity(MOST_BYTES),
        }
    }

    /// Sends an encoded request and takes the whole response.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.io.write_all(request).await?;
        self.io.flush().await?;
        self.buffer.clear();
        let answer = loop {
            self.more().await?;
            if let Some(answer) = head(&self.buffer)? {
                break answer;
            }
        };
        while self.buffer.len() < answer.body.end {
            self.more().await?;
        }
        if self.buffer.len() > answer.body.end {
            return Err(malformed("more bytes than the response's length"));
        }
        Ok(answer)
    }

    /// The body of the last response.
    pub(crate) fn body(&self, answer: &Answer) -> &[u8] {
        &self.buffer[answer.body.clone()]
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.buffer.len() >= MOST_BYTES {
            return Err(malformed("the response is too large"));
        }
        match self.io.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection ended before the response",
            )),
            _ => Ok(()),
        }
    }
}

/// The head of a response, if it is there as a whole.
fn head(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(bytes).map_err(malformed)? else {
        return Ok(None);
    };
    let status = parsed.code.ok_or_else(|| malformed("no status"))?;
    let mut body = None;
    let mut last = false;
    for header in parsed.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            body = std::str::from_utf8(header.value)
                .ok()
                .and_then(|text| text.parse::<usize>().ok());
        } else if header.name.eq_ignore_ascii_case("connection") {
            last = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    let body = body.ok_or_else(|| malformed(format!("{status} without Content-Length")))?;
    let end = length.checked_add(body).filter(|end| *end <= MOST_BYTES);
    let end = end.ok_or_else(|| malformed("the response is too large"))?;
    Ok(Some(Answer {
        status,
        body: length..end,
        last,
    }))
}

/// Responds to every request on `io` until it ends: `peer` for one path, `body` for all others. `buffer` has what was read already.
pub(crate) async fn serve(
    mut io: impl Io,
    mut buffer: Vec<u8>,
    peer_path: &str,
    peer: &[u8],
    body: &[u8],
) -> io::Result<()> {
    loop {
        // One at a time comes from the load; a proxy may have sent the next one already.
        while let Some((length, for_peer)) = asked(&buffer, peer_path)? {
            io.write_all(if for_peer { peer } else { body }).await?;
            io.flush().await?;
            buffer.drain(..length);
        }
        if buffer.len() >= MOST_BYTES {
            return Err(malformed("the request is too large"));
        }
        if io.read_buf(&mut buffer).await? == 0 {
            return io.shutdown().await;
        }
    }
}

/// The length of the first request in `bytes`, if it is there as a whole, and whether it is for `peer_path`.
fn asked(bytes: &[u8], peer_path: &str) -> io::Result<Option<(usize, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(bytes).map_err(malformed)? else {
        return Ok(None);
    };
    let mut headers = parsed.headers.iter();
    let body = headers.find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body = body.map_or(Ok(0), |header| {
        let length = std::str::from_utf8(header.value).map_err(malformed)?;
        length.parse::<usize>().map_err(malformed)
    })?;
    let length = head.saturating_add(body);
    Ok((bytes.len() >= length).then(|| (length, parsed.path == Some(peer_path))))
}

fn malformed(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_share_one_connection() {
        let (client, server) = tokio::io::duplex(1024);
        let serving = tokio::spawn(async move {
            serve(server, Vec::new(), "/who", &response("me"), &response("hello")).await
        });
        let mut connection = Connection::new(Box::new(client));
        for (request, expected) in [
            (request("GET", "/"), "hello"),
            (post("/", 5000), "hello"),
            (request("GET", "/who"), "me"),
        ] {
            let answer = connection.exchange(&request).await.unwrap();
            assert_eq!((answer.status, answer.last), (200, false));
            assert_eq!(connection.body(&answer), expected.as_bytes());
        }
        drop(connection);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn response_in_pieces_is_reassembled() {
        let (client, mut server) = tokio::io::duplex(1);
        tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                server.read_buf(&mut request).await.unwrap();
            }
            server
                .write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!")
                .await
        });
        let mut connection = Connection::new(Box::new(client));
        let answer = connection.exchange(&request("GET", "/")).await.unwrap();
        assert_eq!((answer.status, answer.last), (403, true));
        assert_eq!(connection.body(&answer), b"no!");
    }

    #[test]
    fn malformed_response_is_an_error_with_reason() {
        for (bytes, reason) in [
            ("SSH-2.0\r\n\r\n", "invalid"),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                "without Content-Length",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", "too large"),
        ] {
            let error = head(bytes.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{bytes:?}: {error}");
        }
        assert_eq!(head(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
    }
}
