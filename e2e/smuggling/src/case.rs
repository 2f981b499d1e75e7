//! What a case is, and what cases are made of.

use crate::http1;

/// The path of a case's own request, with its number of four digits.
pub const CASE: &str = "/case/";

/// The path of the request that a case hides.
pub const SMUGGLED: &str = "/smuggled/";

/// A connection's bytes: a request to [`CASE`], and one to [`SMUGGLED`], which is hidden.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is unusual about it.
    pub name: String,
    /// What the client sends.
    pub bytes: Vec<u8>,
    /// Whether the hidden request is one, for a strict reader of the standard. Else no server may find it.
    pub second: bool,
}

impl Case {
    pub(crate) fn http1(name: String, bytes: Vec<u8>) -> Self {
        let is_second = |request: &http1::Message| {
            let target = request.first.get(1);
            request.complete && target.is_some_and(|target| target.starts_with(SMUGGLED.as_bytes()))
        };
        let second = http1::strict(&bytes).iter().any(is_second);
        Self { name, bytes, second }
    }
}

/// The hidden request.
pub(crate) fn smuggled() -> String {
    format!("GET {SMUGGLED}0000 HTTP/1.1\r\nHost: server\r\n\r\n")
}

/// The hidden request as a chunk, and the last chunk.
pub(crate) fn as_chunk() -> String {
    let smuggled = smuggled();
    format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len())
}

/// A POST with these lines in its head, and what follows the head.
pub(crate) fn post(fields: &str, rest: &str) -> String {
    format!("POST {CASE}0000 HTTP/1.1\r\nHost: server\r\n{fields}\r\n{rest}")
}

/// Bytes, with the number of the case in all paths; characters up to U+00FF stand for bytes.
pub(crate) fn numbered(text: &str, number: usize) -> Vec<u8> {
    let number = format!("{number:04}");
    let text = text
        .replace(&format!("{CASE}0000"), &format!("{CASE}{number}"))
        .replace(&format!("{SMUGGLED}0000"), &format!("{SMUGGLED}{number}"));
    text.chars().map(|character| character as u8).collect()
}
