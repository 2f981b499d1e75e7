use super::*;

/// Feeds `text` in pieces of every size: the outcome must be the same.
fn follow(text: &str) -> Result<Framing, FramingError> {
    let mut outcomes = Vec::new();
    for size in 1..=text.len() {
        let mut framing = Framing::default();
        let mut bytes = text.as_bytes().to_vec();
        let result = bytes
            .chunks_mut(size)
            .try_for_each(|piece| framing.follow(piece).map(|_| ()).map_err(|(_, error)| error));
        outcomes.push(result.map(|()| framing));
    }
    let last = outcomes.pop().unwrap();
    for outcome in outcomes {
        match (&outcome, &last) {
            (Ok(one), Ok(other)) => assert_eq!(one.position, other.position, "{text:?}"),
            (Err(one), Err(other)) => assert_eq!(one, other, "{text:?}"),
            _ => panic!("{text:?}: {outcome:?} and {last:?}"),
        }
    }
    last
}

#[test]
fn requests_end_where_their_framing_says() {
    for text in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nabGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding:  Chunked \r\n\r\n5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0;x=\"y\"\r\na: b\r\nc:\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 7\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        assert!(follow(text).unwrap().is_between(), "{text:?}");
    }
    assert!(follow("GET / HTTP/1.1\r\nhost: a\r\n").unwrap().in_head());
    let half = follow("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab").unwrap();
    assert_eq!(half.position, Position::Body(3));
}

#[test]
fn ambiguous_framing_is_an_error_wherever_it_stands() {
    for (text, error) in [
        (
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            FramingError::BothLengths,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\na: b\r\ncontent-length: 0\r\n\r\n",
            FramingError::BothLengths,
        ),
        (
            "GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            FramingError::BothLengths,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            FramingError::Length,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n",
            FramingError::Length,
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n",
            FramingError::Length,
        ),
        ("POST / HTTP/1.1\r\ncontent-length:\r\n\r\n", FramingError::Length),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            FramingError::Encoding,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: xchunked\r\n\r\n",
            FramingError::Encoding,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            FramingError::Encoding,
        ),
        (
            "POST / HTTP/1.1\r\nx: y\r\n content-length: 5\r\n\r\n",
            FramingError::Folded,
        ),
        ("GET / HTTP/1.1\nhost: a\r\n\r\n", FramingError::BareLf),
        ("GET / HTTP/1.1\r\nhost: a\n\r\n", FramingError::BareLf),
        ("GET / HTTP/1.1\r\nhost: a\r\n\n", FramingError::BareLf),
        (
            "POST / HTTP/1.1\r\nx: a\n\nGET /b HTTP/1.1\r\n\r\n",
            FramingError::BareLf,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            FramingError::Chunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\n",
            FramingError::Chunk,
        ),
        // Taken for the end of the trailers, this would make a body without an end out of what hyper takes for a trailer.
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\nPOST /x HTTP/1.1\r\n\
             content-length: 18446744073709551615\r\n\r\n",
            FramingError::Chunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\n\r\n",
            FramingError::Chunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\rc: d\r\n\r\n",
            FramingError::Chunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
            FramingError::Chunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x\na\r\n0\r\n\r\n",
            FramingError::Chunk,
        ),
        (
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x\r;y\r\na\r\n0\r\n\r\n",
            FramingError::Chunk,
        ),
    ] {
        assert_eq!(follow(text).unwrap_err(), error, "{text:?}");
    }
}

#[test]
fn a_long_line_is_not_kept() {
    let mut framing = Framing::default();
    framing.follow(&mut b"GET /".to_vec()).unwrap();
    for _ in 0..1000 {
        framing.follow(&mut [b'a'; 1000]).unwrap();
    }
    assert!(framing.in_head());
    assert!(framing.line.capacity() <= 2 * MAX_WHOLE_HEAD);
    framing.follow(&mut b" HTTP/1.1\r\na: ".to_vec()).unwrap();
    for _ in 0..1000 {
        framing.follow(&mut [b'a'; 1000]).unwrap();
    }
    assert!(framing.line.capacity() <= 2 * LINE);
}

#[test]
fn hyper_sees_no_odd_target_and_no_expectation() {
    let sent = "GET /\u{e9}?a=\"<b>\"#` HTTP/1.1\r\nexpect:  100-continue\r\nx: \"<>\r\n\r\n\
                GET / HTTP/1.1\r\nExpect:100-continue\r\nexpect-not: 1\r\n\r\n";
    let seen = "GET /__?a=__b____ HTTP/1.1\r\nexpect:  !00-continue\r\nx: \"<>\r\n\r\n\
                GET / HTTP/1.1\r\nExpect:!00-continue\r\nexpect-not: 1\r\n\r\n";
    for size in 1..=sent.len() {
        let mut framing = Framing::default();
        let mut bytes = sent.as_bytes().to_vec();
        for piece in bytes.chunks_mut(size) {
            framing.follow(piece).unwrap();
        }
        assert_eq!(String::from_utf8(bytes).unwrap(), seen, "{size}");
        let targets = [(1, "/\u{e9}?a=\"<b>\"#`".as_bytes().to_vec())];
        assert_eq!(framing.take_targets(), targets, "{size}");
    }
}
