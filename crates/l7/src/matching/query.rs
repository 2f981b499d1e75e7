//! Query parameters, as `application/x-www-form-urlencoded`: `+` is a space, and percent-encoding is decoded, so that a
//! condition holds however a client encodes the value.

use std::borrow::Cow;
use std::fmt;

/// The decoded name of a query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct QueryName(Box<[u8]>);

impl QueryName {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.as_bytes().into())
    }

    /// The value of the first parameter with this name.
    pub(crate) fn value<'a>(&self, query: &'a str) -> Option<Cow<'a, [u8]>> {
        query.split('&').find_map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let same = match is_plain(name) {
                true => name.as_bytes() == &*self.0,
                false => *decode(name) == *self.0,
            };
            (same && !parameter.is_empty()).then(|| decode(value))
        })
    }
}

impl fmt::Display for QueryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

fn is_plain(text: &str) -> bool {
    !text.bytes().any(|byte| byte == b'%' || byte == b'+')
}

/// A `%` that begins no encoding stays.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if is_plain(text) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = match byte {
            b'%' => after.get(..2).and_then(from_hex),
            _ => None,
        };
        rest = if decoded.is_some() { &after[2..] } else { after };
        out.push(decoded.unwrap_or(if byte == b'+' { b' ' } else { byte }));
    }
    Cow::Owned(out)
}

fn from_hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()
}
