//! The ClientHello of TLS (RFC 8446 §4.1.2, the same since TLS 1.0): only the name of the server is read from it.

use std::ops::Range;

/// The most bytes that a ClientHello may take, with the headers of its records. Those of today, with post-quantum key
/// shares and a session ticket, have 2 to 4 KiB.
pub const MAX_CLIENT_HELLO: usize = 16 << 10;

/// The longest name of a host (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;
const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
/// `handshake` (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// The longest fragment of a record in plaintext.
const MAX_FRAGMENT: usize = 1 << 14;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// Why there is no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not TLS.
    #[error("the client does not begin with a TLS handshake")]
    NotTls,
    /// TLS that breaks its own rules.
    #[error("the client's TLS handshake is malformed: {0}")]
    Malformed(&'static str),
    /// It does not end within the bound.
    #[error("the client's TLS handshake is longer than {MAX_CLIENT_HELLO} bytes")]
    TooLong,
}

/// What a ClientHello says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name that the client asks for (SNI), in lower case. `None`: it asks for none.
    pub server_name: Option<Box<str>>,
}

/// Reads a ClientHello from bytes that arrive in pieces. The message may be split over several records. Each byte is
/// looked at once, and no more than [`MAX_CLIENT_HELLO`] of them are kept.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// The message, without the headers of records.
    message: Vec<u8>,
    /// Where the next record, or the rest of this one, begins.
    at: usize,
    /// What is missing of the record.
    fragment: usize,
}

impl HelloReader {
    /// Reads on; `received` is everything since the beginning of the connection. `None`: there has to be more.
    ///
    /// # Errors
    /// When there is no ClientHello, as soon as that can be told.
    pub fn read(&mut self, received: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        let bounded = &received[..received.len().min(MAX_CLIENT_HELLO)];
        loop {
            if let Some(hello) = self.whole()? {
                return parse(&hello, &self.message).map(Some);
            }
            let rest = bounded.get(self.at..).unwrap_or_default();
            if self.fragment == 0 {
                let Some(length) = record(rest)? else { break };
                self.fragment = length;
                self.at += RECORD_HEADER;
            } else if rest.is_empty() {
                break;
            } else {
                let taken = rest.len().min(self.fragment);
                self.message.extend_from_slice(&rest[..taken]);
                self.fragment -= taken;
                self.at += taken;
            }
        }
        if received.len() >= MAX_CLIENT_HELLO {
            return Err(HelloError::TooLong);
        }
        Ok(None)
    }

    /// Where the body of the message is, once it is there.
    fn whole(&self) -> Result<Option<Range<usize>>, HelloError> {
        let message = &self.message;
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(HelloError::NotTls);
        }
        let Some([_, a, b, c]) = message.first_chunk::<HANDSHAKE_HEADER>() else {
            return Ok(None);
        };
        let end = HANDSHAKE_HEADER + (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c));
        if end > MAX_CLIENT_HELLO {
            return Err(HelloError::TooLong);
        }
        Ok((message.len() >= end).then_some(HANDSHAKE_HEADER..end))
    }
}

/// The length of the record that begins here; `None`: its header is not there yet.
fn record(bytes: &[u8]) -> Result<Option<usize>, HelloError> {
    // The minor version is 1 or 3, whatever is negotiated.
    if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) || bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(HelloError::NotTls);
    }
    let Some([_, _, _, a, b]) = bytes.first_chunk::<RECORD_HEADER>() else {
        return Ok(None);
    };
    match usize::from(*a) << 8 | usize::from(*b) {
        0 => Err(HelloError::Malformed("an empty record")),
        length @ 1..=MAX_FRAGMENT => Ok(Some(length)),
        _ => Err(HelloError::Malformed("a record that is too long")),
    }
}

fn parse(body: &Range<usize>, message: &[u8]) -> Result<ClientHello, HelloError> {
    let mut body = Bytes(message.get(body.clone()).unwrap_or_default());
    // The legacy version, and the random.
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let ciphers = body.vector16()?;
    let compressions = body.vector8()?;
    if session.0.len() > 32 || ciphers.0.len() < 2 || ciphers.0.len() % 2 != 0 || compressions.0.is_empty() {
        return Err(HelloError::Malformed("a field of a wrong length"));
    }
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = body.vector16()?;
    if !body.0.is_empty() {
        return Err(HelloError::Malformed("bytes after the extensions"));
    }
    let mut found = false;
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.short()?, extensions.vector16()?);
        if kind == SERVER_NAME {
            if std::mem::replace(&mut found, true) {
                return Err(HelloError::Malformed("two lists of server names"));
            }
            hello.server_name = server_name(data)?;
        }
    }
    Ok(hello)
}

/// The name of a host in the list (RFC 6066 §3): there is at most one. Other kinds of names were never defined.
fn server_name(mut data: Bytes<'_>) -> Result<Option<Box<str>>, HelloError> {
    let mut list = data.vector16()?;
    if !data.0.is_empty() || list.0.is_empty() {
        return Err(HelloError::Malformed("a list of server names of a wrong length"));
    }
    let mut name = None;
    while !list.0.is_empty() {
        let [kind] = list.array()?;
        let value = list.vector16()?;
        if kind == HOST_NAME {
            let host = host(value.0).ok_or(HelloError::Malformed("a server name that is not a host name"))?;
            if name.replace(host).is_some() {
                return Err(HelloError::Malformed("two server names"));
            }
        }
    }
    Ok(name)
}

fn host(name: &[u8]) -> Option<Box<str>> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let well = (1..=MAX_NAME).contains(&name.len()) && name.iter().all(allowed);
    let name = std::str::from_utf8(name).ok().filter(|_| well)?;
    Some(name.to_ascii_lowercase().into())
}

/// What is left of a structure.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<Self, HelloError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(HelloError::Malformed("a field that ends after its structure"))?;
        self.0 = rest;
        Ok(Self(taken))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HelloError> {
        let taken = self.take(N)?;
        <[u8; N]>::try_from(taken.0).map_err(|_| HelloError::Malformed("a field of a wrong length"))
    }

    fn short(&mut self) -> Result<u16, HelloError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A vector whose length is in one byte.
    fn vector8(&mut self) -> Result<Self, HelloError> {
        let [length] = self.array()?;
        self.take(length.into())
    }

    /// A vector whose length is in two bytes.
    fn vector16(&mut self) -> Result<Self, HelloError> {
        let length = self.short()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests;
