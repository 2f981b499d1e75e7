//! Which protocol a client speaks, by its first bytes.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What HTTP/2 with prior knowledge begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is recognized; registered ones have at most 17 bytes.
const MAX_METHOD: usize = 24;
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
    // A request line: a method in capitals, a space, and what may begin a target (RFC 9112 §3.2).
    let method = read
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-')
        .count();
    match (method, read.get(method), read.get(method + 1)) {
        (1..=MAX_METHOD, Some(b' '), Some(b'/' | b'*' | b'[')) => Some(Detected::Http1),
        (1..=MAX_METHOD, Some(b' '), Some(byte)) if byte.is_ascii_alphanumeric() => Some(Detected::Http1),
        (0..=MAX_METHOD, None, _) | (1..=MAX_METHOD, Some(b' '), None) => None,
        _ => Some(Detected::Other),
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
            (b"GET http://a/ HTTP/1.1", Some(Detected::Http1)),
            (b"CONNECT a:80", Some(Detected::Http1)),
            (b"VERSION-CONTROL /x", Some(Detected::Http1)),
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
