//! Which protocol a client speaks, by its first bytes.

use std::io;

use bytes::BytesMut;
use memchr::memchr;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What HTTP/2 with prior knowledge begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is recognized; registered ones have at most 17 bytes.
const MAX_METHOD: usize = 24;
/// Of a request line that has not ended, what is waited for.
const MAX_LINE: usize = 8 << 10;
const READ: usize = 4 << 10;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detected {
    Http1,
    Http2,
    /// Not HTTP.
    Other,
}

/// Reads until the protocol is known; what was read is given back. An end of the stream before that is "other", or HTTP/1 where HTTP was
/// `declared`.
///
/// # Errors
/// The stream's.
pub(crate) async fn detect<IO: AsyncRead + Unpin>(
    io: &mut IO,
    read: &mut BytesMut,
    declared: bool,
) -> io::Result<Detected> {
    loop {
        if let Some(detected) = recognize(read, declared) {
            return Ok(detected);
        }
        read.reserve(READ);
        if io.read_buf(read).await? == 0 {
            return Ok(if declared {
                Detected::Http1
            } else {
                Detected::Other
            });
        }
    }
}

fn recognize(read: &[u8], declared: bool) -> Option<Detected> {
    if read.len() >= PREFACE.len() && read.starts_with(PREFACE) {
        return Some(Detected::Http2);
    }
    if PREFACE.starts_with(read) {
        return None;
    }
    if declared {
        return Some(Detected::Http1);
    }
    let method = read
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-')
        .count();
    if !matches!(
        (method, read.get(method)),
        (0..=MAX_METHOD, None) | (1..=MAX_METHOD, Some(b' '))
    ) {
        return Some(Detected::Other);
    }
    // A request line: a method in capitals, a space, a target, and at its end the version (RFC 9112 §3).
    match memchr(b'\n', read) {
        Some(end) if is_versioned(&read[..end]) => Some(Detected::Http1),
        Some(_) => Some(Detected::Other),
        None if read.len() >= MAX_LINE => Some(unfinished(read)),
        None => None,
    }
}

fn is_versioned(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let version = line.len().checked_sub(b" HTTP/1.x".len()).map(|at| &line[at..]);
    version.is_some_and(|version| version.starts_with(b" HTTP/1.") && version[8].is_ascii_digit())
}

/// What a client speaks that has begun and not ended a line that may be a request's.
pub(crate) fn unfinished(read: &[u8]) -> Detected {
    let target = read
        .iter()
        .position(|byte| *byte == b' ')
        .map(|space| &read[space + 1..]);
    match target {
        Some(target) if target.starts_with(b"/") || target.starts_with(b"http://") => Detected::Http1,
        _ => Detected::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_from_other_protocols() {
        for (bytes, detected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Detected::Http1)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(Detected::Http1)),
            (b"GET http://a/ HTTP/1.1", None),
            (b"GET http://a/ HTTP/1.1\r\n", Some(Detected::Http1)),
            (b"CONNECT a:80 HTTP/1.0\n", Some(Detected::Http1)),
            (b"VERSION-CONTROL /x HTTP/1.1\r\n", Some(Detected::Http1)),
            (b"GET /\xe9\"<> HTTP/1.1\r\n", Some(Detected::Http1)),
            (b"SET a 1\r\n", Some(Detected::Other)),
            (b"AUTH x\r\n", Some(Detected::Other)),
            (b"OPTIONS rtsp://s/ RTSP/1.0\r\n", Some(Detected::Other)),
            (b"OPTIONS sip:a@s SIP/2.0\r\n", Some(Detected::Other)),
            (b"REQMOD icap://s/ ICAP/1.0\r\n", Some(Detected::Other)),
            (b"NICK bob\r\n", Some(Detected::Other)),
            (b"GET /\r\n", Some(Detected::Other)),
            (b"GE", None),
            (b"GET ", None),
            (b"", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Some(Detected::Http2)),
            (b"\x16\x03\x01\x02\x00", Some(Detected::Other)),
            (b"SSH-2.0-OpenSSH", Some(Detected::Other)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Detected::Other)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Detected::Other)),
            (b"EHLO\r\n", Some(Detected::Other)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAA", Some(Detected::Other)),
        ] {
            assert_eq!(recognize(bytes, false), detected, "{bytes:?}");
        }
        assert_eq!(recognize(b"get /", true), Some(Detected::Http1));
        assert_eq!(recognize(b"PRI", true), None);
        assert_eq!(recognize(b"PRIM", true), Some(Detected::Http1));
    }

    #[tokio::test]
    async fn what_was_read_is_kept() {
        for (sent, declared, detected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], false, Detected::Http1),
            (b"GE", false, Detected::Other),
            (b"", true, Detected::Http1),
        ] {
            let mut read = BytesMut::new();
            let mut io = sent;
            assert_eq!(detect(&mut io, &mut read, declared).await.unwrap(), detected);
            assert_eq!(read, sent);
        }
    }
}
