//! As much of HTTP/1.1 as one request a connection needs: for the sample application, and for looking at the proxies'
//! ports.

mod message;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, bail};

pub use message::{Answer, Request};

/// Longest answer that is read: the configuration of a large mesh.
const LIMIT: u64 = 64 << 20;

/// A target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    authority: String,
    path: String,
}

impl Url {
    /// Reads `http://HOST:PORT/PATH`; the port may be left out.
    ///
    /// # Errors
    /// When it begins with anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let rest = text
            .strip_prefix("http://")
            .with_context(|| format!("`{text}` does not begin with http://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = if host.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        Ok(Self {
            authority,
            path: format!("/{path}"),
        })
    }

    /// Host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// Makes one request on a connection of its own and returns the body of a 200.
///
/// # Errors
/// When the connection breaks, and when the response is cut or another than 200.
pub fn get(mut stream: TcpStream, url: &Url) -> Result<String> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        url.path, url.authority
    );
    stream
        .write_all(request.as_bytes())
        .context("cannot send the request")?;
    let mut reader = BufReader::new(stream).take(LIMIT);
    let head = read_head(&mut reader).context("cannot read the response")?;
    let status = head.lines().next().unwrap_or_default().to_owned();
    let length = header(&head, "content-length").and_then(|value| value.parse::<usize>().ok());
    let mut body = String::new();
    reader
        .read_to_string(&mut body)
        .context("cannot read the response's body")?;
    if status.split_whitespace().nth(1) != Some("200") {
        bail!("answered `{status}`: {}", body.trim());
    }
    if let Some(length) = length.filter(|length| *length != body.len()) {
        bail!("the response was cut: {} of {length} bytes", body.len());
    }
    Ok(body)
}

/// Reads one request and returns its path.
///
/// # Errors
/// When the connection breaks or what comes is no request.
pub fn read_request(stream: &TcpStream) -> Result<String> {
    let mut reader = BufReader::new(stream).take(LIMIT);
    let head = read_head(&mut reader)?;
    let path = head
        .split_whitespace()
        .nth(1)
        .context("the request has no path")?;
    Ok(path.to_owned())
}

/// Answers and says that the connection ends.
///
/// # Errors
/// When the connection breaks.
pub fn answer(mut stream: &TcpStream, status: &str, body: &str) -> Result<()> {
    let kind = if body.starts_with('{') {
        "application/json"
    } else {
        "text/plain"
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    Ok(stream.write_all(head.as_bytes())?)
}

fn read_head(reader: &mut impl BufRead) -> Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            bail!("the connection ended after {} bytes of the head", head.len());
        }
    }
    Ok(head)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .into_iter()
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = Url::parse("http://server:8080/a/b").unwrap();
        assert_eq!((url.authority(), url.path.as_str()), ("server:8080", "/a/b"));
        let url = Url::parse("http://server").unwrap();
        assert_eq!((url.authority(), url.path.as_str()), ("server:80", "/"));
        assert!(Url::parse("server").is_err());
    }

    #[test]
    fn headers_are_found_in_any_case() {
        assert_eq!(
            header("HTTP/1.1 200 OK\r\nContent-LENGTH: 7\r\n\r\n", "content-length"),
            Some("7")
        );
        assert_eq!(header("HTTP/1.1 200 OK\r\n\r\n", "content-length"), None);
    }
}
