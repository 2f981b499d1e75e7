//! HTTP/2: fields that are something else once they are written as HTTP/1, or read again.

use crate::case::{Case, numbered};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A request as HTTP/1 would have it, within a value.
const INSIDE: &str = "x\r\n\r\nGET /smuggled/0000 HTTP/1.1\r\nHost: server\r\n\r\n";

const BODY: &str = "GET /smuggled/0000 HTTP/1.1\r\nHost: server\r\n\r\n";

type Field = (&'static str, &'static str);

/// Names and values that are added to a good request.
const ADDED: &[(&str, &str)] = &[
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "identity"),
    ("transfer-encoding", "xchunked"),
    ("Transfer-Encoding", "chunked"),
    ("transfer_encoding", "chunked"),
    ("transfer-encoding ", "chunked"),
    ("te", "trailers"),
    ("te", "chunked"),
    ("te", "trailers, chunked"),
    ("connection", "close"),
    ("connection", "content-length"),
    ("keep-alive", "timeout=1000"),
    ("proxy-connection", "keep-alive"),
    ("upgrade", "h2c"),
    ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ("content-length", "0"),
    ("content-length", "1"),
    ("content-length", "1000"),
    ("content-length", "+49"),
    ("content-length", "-1"),
    ("content-length", "0x31"),
    ("content-length", "49, 49"),
    ("content-length", ""),
    ("content-length", "18446744073709551665"),
    ("Content-Length", "0"),
    ("content_length", "0"),
    ("expect", "100-continue"),
    ("host", "server"),
    ("host", "other"),
    ("host", ""),
    ("x", INSIDE),
    ("x", "y\r\ntransfer-encoding: chunked"),
    ("x", "y\ntransfer-encoding: chunked"),
    ("x", "y\rtransfer-encoding: chunked"),
    ("x", "y\0"),
    ("x", "\ny"),
    ("x", " y"),
    ("x", "y "),
    ("x", "\x7f"),
    ("x", "\u{ff}"),
    ("x: y\r\ntransfer-encoding", "chunked"),
    ("x\ntransfer-encoding", "chunked"),
    ("x:", "y"),
    ("x y", "z"),
    ("x\r", "y"),
    ("x\0", "y"),
    ("X", "y"),
    ("", "y"),
    (" x", "y"),
    ("\u{e9}", "y"),
    (":path", "/smuggled/0000"),
    (":method", "GET"),
    (":authority", "other"),
    (":scheme", "https"),
    (":status", "200"),
    (":protocol", "websocket"),
    (":x", "y"),
    (":", "y"),
    ("cookie", "a=b\r\nx: y"),
];

/// Pseudo fields with other values than a good request has.
const REPLACED: &[(&str, &str)] = &[
    (":method", "GET /smuggled/0000 HTTP/1.1\r\nx:"),
    (":method", "PO ST"),
    (":method", "POST\0"),
    (":method", ""),
    (":method", "CONNECT"),
    (":method", "get"),
    (
        ":path",
        "/case/0000 HTTP/1.1\r\nhost: server\r\n\r\nGET /smuggled/0000",
    ),
    (":path", "/case/0000 HTTP/1.1"),
    (":path", "/case/0000\r\nx: y"),
    (":path", "/case/0000\n"),
    (":path", "/case/0000\0"),
    (":path", "/case/0000\t"),
    (":path", "/case/0000 "),
    (":path", " /case/0000"),
    (":path", "/case/0000#x"),
    (":path", "/case/0000\u{ff}"),
    (":path", "http://other/case/0000"),
    (":path", "//other/case/0000"),
    (":path", "case/0000"),
    (":path", "*"),
    (":path", ""),
    (":scheme", "http://server/smuggled/0000?"),
    (":scheme", "http\r\nx: y"),
    (":scheme", ""),
    (":authority", "server\r\nx: y"),
    (
        ":authority",
        "server\r\n\r\nGET /smuggled/0000 HTTP/1.1\r\nhost: server",
    ),
    (":authority", "user@server"),
    (":authority", "server/case"),
    (":authority", "ser ver"),
    (":authority", "server:x"),
    (":authority", ""),
];

/// Fields after the body.
const TRAILERS: &[(&str, &str)] = &[
    ("x", "y"),
    ("content-length", "0"),
    ("transfer-encoding", "chunked"),
    ("host", "other"),
    (":path", "/smuggled/0000"),
    ("x", INSIDE),
    ("x\r\ny", "z"),
    ("connection", "close"),
];

/// The cases of HTTP/2: each is a connection with one request on stream 1. No server may find another.
#[must_use]
pub fn cases() -> Vec<Case> {
    let good = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "server"),
        (":path", "/case/0000"),
    ];
    let mut all: Vec<(String, Vec<Field>, Option<Field>)> = Vec::new();
    for &(name, value) in ADDED {
        for first in [false, true] {
            let mut fields = good.to_vec();
            let at = if first { 0 } else { fields.len() };
            fields.insert(at, (name, value));
            all.push((
                format!("{name:?}: {value:?} {}", if first { "first" } else { "last" }),
                fields,
                None,
            ));
        }
    }
    for &(name, value) in REPLACED {
        let fields = good.map(|field| if field.0 == name { (name, value) } else { field });
        all.push((format!("{name:?}: {value:?}"), fields.into(), None));
    }
    for left_out in good {
        let fields = good.into_iter().filter(|field| *field != left_out).collect();
        all.push((format!("no {:?}", left_out.0), fields, None));
    }
    for &(name, value) in TRAILERS {
        all.push((
            format!("trailer {name:?}: {value:?}"),
            good.into(),
            Some((name, value)),
        ));
    }
    let case = |(number, (name, fields, trailer)): (usize, (String, Vec<_>, Option<_>))| {
        let block = |fields: &[(&str, &str)]| -> Vec<u8> {
            let field =
                |(name, value): &(&str, &str)| literal(&numbered(name, number), &numbered(value, number));
            fields.iter().flat_map(field).collect()
        };
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &block(&fields)));
        let last = if trailer.is_none() { END_STREAM } else { 0 };
        bytes.extend(frame(DATA, last, 1, &numbered(BODY, number)));
        if let Some(trailer) = trailer {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[trailer])));
        }
        Case {
            name,
            bytes,
            second: false,
        }
    };
    all.into_iter().enumerate().map(case).collect()
}

/// A field that is written out, and in no table.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10];
    for text in [name, value] {
        match u8::try_from(text.len()).ok().filter(|length| *length < 127) {
            Some(length) => bytes.push(length),
            // RFC 7541, 5.1; no text here is longer than two bytes more can say.
            None => {
                let rest = text.len() - 127;
                bytes.extend([127, (rest % 128) as u8 | 128, (rest / 128) as u8]);
            }
        }
        bytes.extend_from_slice(text);
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Whether these bytes of a server end the request on stream 1, or the connection.
#[must_use]
pub fn is_over(mut bytes: &[u8]) -> bool {
    while let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        let Some(next) = rest.get(length..) else {
            return false;
        };
        let ends = matches!(*kind, DATA | HEADERS) && flags & END_STREAM != 0 || *kind == RST_STREAM;
        if *kind == GOAWAY || stream == 1 && ends {
            return true;
        }
        bytes = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::CASE;

    #[test]
    fn ends_are_found() {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let head = frame(HEADERS, END_HEADERS, 1, &literal(b":status", b"200"));
        let open = [&settings[..], &head].concat();
        assert!(!is_over(&open) && !is_over(&open[..open.len() - 1]));
        let other = [&open[..], &frame(DATA, END_STREAM, 3, b"x")].concat();
        assert!(!is_over(&other));
        for end in [
            frame(DATA, END_STREAM, 1, b"x"),
            frame(RST_STREAM, 0, 1, &[0; 4]),
            frame(GOAWAY, 0, 0, &[0; 8]),
        ] {
            assert!(is_over(&[&open[..], &end].concat()));
        }
    }

    #[test]
    fn every_case_has_its_own_path() {
        for (number, case) in cases().iter().enumerate() {
            let path = format!("{CASE}{number:04}");
            let has = case.bytes.windows(path.len()).any(|part| part == path.as_bytes());
            assert!(has || case.name.contains(":path"), "{}", case.name);
        }
    }
}
