//! Request lines, methods, and requests after each other.

use crate::case::{as_chunk, smuggled};

/// Request lines; the hidden request is the body.
pub(crate) fn request_lines() -> Vec<(String, String)> {
    let lines = [
        "POST http://server/case/0000 HTTP/1.1",
        "POST http://other/case/0000 HTTP/1.1",
        "POST http://other:80/case/0000 HTTP/1.1",
        "POST http://user@other/case/0000 HTTP/1.1",
        "POST HTTP://server/case/0000 HTTP/1.1",
        "POST https://server/case/0000 HTTP/1.1",
        "POST ftp://server/case/0000 HTTP/1.1",
        "POST http:///case/0000 HTTP/1.1",
        "POST http:/case/0000 HTTP/1.1",
        "POST http://server\\other/case/0000 HTTP/1.1",
        "POST //server/case/0000 HTTP/1.1",
        "POST server:80 HTTP/1.1",
        "POST * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT server:80 HTTP/1.1",
        "POST case/0000 HTTP/1.1",
        "POST @other/case/0000 HTTP/1.1",
        "POST ?/case/0000 HTTP/1.1",
        "POST /case/0000#x HTTP/1.1",
        "POST /case/0000?a=%0d%0aX: y HTTP/1.1",
        "POST /case/0000%20HTTP/1.1%0d%0aHost:%20other HTTP/1.1",
        "POST /case/0000\0 HTTP/1.1",
        "POST /case/0000\r HTTP/1.1",
        "POST /case/0000\t HTTP/1.1",
        "POST /case/0000\x0b HTTP/1.1",
        "POST /case/0000\u{ff} HTTP/1.1",
        "POST /case/0000 /smuggled/0000 HTTP/1.1",
        "POST /case/0000 HTTP/1.1 HTTP/1.1",
        "POST  /case/0000 HTTP/1.1",
        "POST /case/0000  HTTP/1.1",
        "POST /case/0000 HTTP/1.1 ",
        "POST\t/case/0000\tHTTP/1.1",
        "POST\t/case/0000 HTTP/1.1",
        "POST\x0b/case/0000 HTTP/1.1",
        "POST\u{a0}/case/0000 HTTP/1.1",
        " POST /case/0000 HTTP/1.1",
        "\r\nPOST /case/0000 HTTP/1.1",
        "\r\n\r\n\r\nPOST /case/0000 HTTP/1.1",
        "\nPOST /case/0000 HTTP/1.1",
        "\rPOST /case/0000 HTTP/1.1",
        "\0POST /case/0000 HTTP/1.1",
        "POST /case/0000 HTTP/1.0",
        "POST /case/0000 HTTP/1.0\r\nConnection: keep-alive",
        "POST /case/0000 HTTP/0.9",
        "POST /case/0000 HTTP/1.2",
        "POST /case/0000 HTTP/1.01",
        "POST /case/0000 HTTP/01.1",
        "POST /case/0000 HTTP/1",
        "POST /case/0000 HTTP/11",
        "POST /case/0000 HTTP/2",
        "POST /case/0000 HTTP/2.0",
        "POST /case/0000 HTTP/9.9",
        "POST /case/0000 http/1.1",
        "POST /case/0000 HTTPS/1.1",
        "POST /case/0000 ICY/1.1",
        "POST /case/0000",
        "POST",
        "",
    ];
    let (body, chunk) = (smuggled(), as_chunk());
    let mut all = Vec::new();
    for line in lines {
        let n = body.len();
        let host = "Host: server\r\n";
        let forms = [
            (
                "with a length",
                format!("{line}\r\n{host}Content-Length: {n}\r\n\r\n{body}"),
            ),
            (
                "with chunks",
                format!("{line}\r\n{host}Transfer-Encoding: chunked\r\n\r\n{chunk}"),
            ),
            (
                "with LF",
                format!("{line}\n{host}Content-Length: {n}\r\n\r\n{body}"),
            ),
        ];
        for (form, text) in forms {
            all.push((format!("{line:?} {form}"), text));
        }
    }
    all
}

/// Methods, some of which hardly ever have a body, around the hidden request.
pub(crate) fn methods() -> Vec<(String, String)> {
    let (body, chunk) = (smuggled(), as_chunk());
    let methods = [
        "GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT", "PROPFIND", "BREW", "get",
        "Post", "G@T", "GE\0T", "G ET",
    ];
    let mut all = Vec::new();
    for method in methods {
        for version in ["1.1", "1.0"] {
            let head = format!("{method} /case/0000 HTTP/{version}\r\nHost: server\r\n");
            for (form, fields, rest) in [
                ("a length", format!("Content-Length: {}\r\n", body.len()), &*body),
                ("chunks", "Transfer-Encoding: chunked\r\n".to_owned(), &*chunk),
            ] {
                let name = format!("{method:?} over HTTP/{version} with {form}");
                all.push((name, format!("{head}{fields}\r\n{rest}")));
            }
        }
    }
    all
}

/// Two good requests after each other, which both arrive, and with something between them.
pub(crate) fn pipelines() -> Vec<(String, String)> {
    let second = smuggled();
    let mut all = Vec::new();
    for (name, first) in [
        ("a GET", "GET /case/0000 HTTP/1.1\r\nHost: server\r\n\r\n"),
        ("a HEAD", "HEAD /case/0000 HTTP/1.1\r\nHost: server\r\n\r\n"),
        (
            "a length",
            "POST /case/0000 HTTP/1.1\r\nHost: server\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "chunks",
            "POST /case/0000 HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "a close",
            "GET /case/0000 HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n",
        ),
        ("HTTP/1.0", "GET /case/0000 HTTP/1.0\r\nHost: server\r\n\r\n"),
        (
            "an upgrade",
            "GET /case/0000 HTTP/1.1\r\nHost: server\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (
            "a short body",
            "POST /case/0000 HTTP/1.1\r\nHost: server\r\nContent-Length: 1000\r\n\r\n",
        ),
        (
            "an expectation",
            "POST /case/0000 HTTP/1.1\r\nHost: server\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        ),
    ] {
        for between in ["", "\r\n", "\n", "\r", "\0", " ", "x", "0\r\n\r\n"] {
            all.push((
                format!("a request after {name} and {between:?}"),
                format!("{first}{between}{second}"),
            ));
        }
    }
    all
}
