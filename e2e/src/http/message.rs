//! One request of any kind, sent as it is written, and its response, whatever it is.

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, bail};

use super::{LIMIT, header, read_head};

/// A request. Its target and headers are sent as they are: a test may send what no client would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body; `target` is path and query.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// `GET target`.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// Adds a header. `Host` goes before the one that is sent by itself.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body, and the header that says its length.
    #[must_use]
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("Content-Length", &body.len().to_string())
    }

    /// Sends it on a connection of its own and reads the response.
    ///
    /// # Errors
    /// When the connection breaks or what comes back is no response.
    pub fn send(&self, mut stream: impl Read + Write, host: &str) -> Result<Answer> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            head.push_str(&format!("Host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("Connection: close\r\n\r\n");
        stream
            .write_all(&[head.as_bytes(), &self.body].concat())
            .context("cannot send the request")?;
        Answer::read(stream).with_context(|| format!("{} {}", self.method, self.target))
    }
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its body.
    pub body: String,
    head: String,
}

impl Answer {
    /// Reads a response to its end, which is where its length or the connection's end says.
    ///
    /// # Errors
    /// When the connection breaks or the response is cut.
    pub fn read(stream: impl Read) -> Result<Self> {
        let mut reader = BufReader::new(stream).take(LIMIT);
        let head = read_head(&mut reader).context("cannot read the response")?;
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("not an HTTP response: {head}"))?;
        let body = if header(&head, "transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            read_chunks(&mut reader)?
        } else if let Some(length) = header(&head, "content-length") {
            let mut body = vec![0; length.parse().context("Content-Length is not a number")?];
            reader.read_exact(&mut body).context("the response was cut")?;
            body
        } else {
            let mut body = Vec::new();
            reader
                .read_to_end(&mut body)
                .context("cannot read the response's body")?;
            body
        };
        Ok(Self {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
            head,
        })
    }

    /// A header's value; case does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Why the mesh refused the request, if it did.
    pub fn reason(&self) -> &str {
        self.header("x-ambit-reason").unwrap_or_default()
    }

    /// Status line and headers.
    pub fn head(&self) -> &str {
        self.head.trim_end()
    }
}

fn read_chunks(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).context("the response was cut")?;
        let size = line.trim().split(';').next().unwrap_or_default();
        let size =
            usize::from_str_radix(size, 16).with_context(|| format!("`{}` is not a chunk", line.trim()))?;
        if size as u64 > LIMIT {
            bail!("a chunk of {size} bytes");
        }
        let mut chunk = vec![0; size + 2];
        if size == 0 {
            // Trailers, then an empty line.
            while reader.read_line(&mut line)? > 2 {}
            return Ok(body);
        }
        reader.read_exact(&mut chunk).context("the response was cut")?;
        body.extend_from_slice(&chunk[..size]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that says one thing and takes everything.
    struct Peer<'a>(&'a [u8], Vec<u8>);

    impl Read for Peer<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Peer<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn send(request: &Request, answer: &[u8]) -> (Result<Answer>, String) {
        let mut peer = Peer(answer, Vec::new());
        let result = request.send(&mut peer, "web:8080");
        (result, String::from_utf8(peer.1).unwrap())
    }

    #[test]
    fn a_request_is_sent_as_it_is_written() {
        let request = Request::new("DELETE", "//a/%2e%2e?q")
            .header("X-A", "1")
            .body(b"hi");
        let (answer, sent) = send(
            &request,
            b"HTTP/1.1 403 Forbidden\r\nX-Ambit-Reason: denied by a/b/c\r\nContent-Length: 2\r\n\r\nno and more",
        );
        assert_eq!(
            sent,
            "DELETE //a/%2e%2e?q HTTP/1.1\r\nHost: web:8080\r\nX-A: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
        );
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.reason(), answer.body.as_str()),
            (403, "denied by a/b/c", "no")
        );
    }

    #[test]
    fn chunks_are_put_together() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n";
        let (answer, _) = send(&Request::get("/"), text);
        assert_eq!(answer.unwrap().body, "abcde");
    }

    #[test]
    fn truncated_message_is_an_error() {
        for cut in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na",
        ] {
            assert!(send(&Request::get("/"), cut).0.is_err(), "{cut:?}");
        }
    }
}
