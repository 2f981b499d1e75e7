//! Watches how HTTP/1 requests are framed, beside the parser.
//!
//! hyper takes `Transfer-Encoding` for true and drops `Content-Length` where a request has both (RFC 9112 §6.3 allows it). Somebody
//! before this proxy may have done it the other way round, so such a request is refused here: 400, and the connection ends. For that the
//! bytes are followed from head to head, as they pass, with nothing kept but a line that has not ended yet.

use http::HeaderMap;
use http::header::{EXPECT, HeaderValue};
use memchr::{memchr, memchr2};

use super::limits::MAX_WHOLE_HEAD;
use super::target;

/// What is wrong with a request. All of it is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    #[error("a request with both Content-Length and Transfer-Encoding")]
    BothLengths,
    #[error("a request whose Content-Length is not a number, or that has two different ones")]
    Length,
    #[error("a request whose Transfer-Encoding is not chunked alone")]
    Encoding,
    #[error("a header line that begins with white space")]
    Folded,
    #[error("a line of the head that ends with LF alone")]
    BareLf,
    #[error(
        "a chunk whose size is not a number, or a line of chunks or trailers that does not end with \
         CR LF"
    )]
    Chunk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before the first byte of a head; empty lines there are skipped.
    Between,
    Head,
    /// Bytes left.
    Body(u64),
    ChunkSize {
        size: u64,
        digits: u8,
    },
    /// The rest of the line that has the size; whether its CR was the last byte.
    ChunkLine {
        size: u64,
        cr: bool,
    },
    /// Bytes left, the line end after them included.
    ChunkData(u64),
    /// A line of the trailers, of which the empty one is the last.
    Trailers {
        empty: bool,
        cr: bool,
    },
}

/// Where the requests of one connection begin and end.
#[derive(Debug)]
pub(crate) struct Framing {
    position: Position,
    /// A line of the head that has not ended yet; cut to what is looked at.
    line: Vec<u8>,
    /// Whether the last byte of it was a CR.
    cr: bool,
    first_line: bool,
    length: Option<u64>,
    chunked: bool,
    /// Spaces of the request line so far.
    spaces: u8,
    /// The target of this request has characters that hyper would refuse.
    odd: bool,
    /// Heads that have begun.
    heads: u64,
    /// Their targets as they came, where hyper sees something else, by the number of their head.
    targets: Vec<(u64, Vec<u8>)>,
    /// The head has an `Upgrade`.
    upgrade: bool,
    /// A request without a body has asked for an upgrade: what comes next may be another protocol's.
    held: bool,
}

/// What hyper is given for a character of a target that it would refuse, or cut the target at.
const ODD: u8 = b'_';
/// With this instead of its first byte, the value of `Expect` (100-continue) is none that hyper knows: it would answer for the endpoint.
const EXPECTED: u8 = b'!';

/// Whether hyper, or `http::Uri`, does not take this byte in a target, although many servers do.
fn is_odd(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`' | b'#' | 0x80..)
}

/// No name or value that is looked at is longer.
const LINE: usize = 256;

impl Default for Framing {
    fn default() -> Self {
        Self {
            position: Position::Between,
            line: Vec::new(),
            cr: false,
            first_line: true,
            length: None,
            chunked: false,
            spaces: 0,
            odd: false,
            heads: 0,
            targets: Vec::new(),
            upgrade: false,
            held: false,
        }
    }
}

impl Framing {
    /// Whether a head has begun and not ended.
    pub(crate) fn in_head(&self) -> bool {
        self.position == Position::Head
    }

    /// Whether no request has begun that has not ended.
    pub(crate) fn is_between(&self) -> bool {
        self.position == Position::Between
    }

    /// Targets that hyper does not see as they came, since the last time.
    pub(crate) fn take_targets(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.targets)
    }

    /// Whether nothing more is followed before it is known if the connection is upgraded.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// It is not: what comes is a request.
    pub(crate) fn go_on(&mut self) {
        self.held = false;
    }

    /// Heads that have begun.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// Follows further bytes, and changes those that hyper must not see as they are: of targets, and of `Expect`. Says how many it has
    /// followed: all of them, unless it is held.
    ///
    /// # Errors
    /// With the index from which on the bytes must not be looked at.
    pub(crate) fn follow(&mut self, bytes: &mut [u8]) -> Result<usize, (usize, FramingError)> {
        let mut at = 0;
        while !self.held
            && let Some(rest) = bytes.get_mut(at..).filter(|rest| !rest.is_empty())
        {
            at += self.step(rest).map_err(|(offset, error)| (at + offset, error))?;
        }
        Ok(at)
    }

    /// Takes some bytes of `rest`, at least one.
    fn step(&mut self, rest: &mut [u8]) -> Result<usize, (usize, FramingError)> {
        match self.position {
            Position::Between => {
                let blank = rest
                    .iter()
                    .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                    .count();
                if blank < rest.len() {
                    self.position = Position::Head;
                    self.heads += 1;
                    (self.spaces, self.odd) = (0, false);
                }
                Ok(blank)
            }
            Position::Head => self.step_line(rest),
            Position::Body(left) => {
                let taken = left.min(rest.len() as u64);
                self.position = match left - taken {
                    0 => Position::Between,
                    left => Position::Body(left),
                };
                Ok(taken as usize)
            }
            Position::ChunkSize { size, digits } => {
                if let Some(digit) = char::from(rest[0]).to_digit(16) {
                    let size = size
                        .checked_mul(16)
                        .and_then(|size| size.checked_add(u64::from(digit)))
                        .ok_or((0, FramingError::Chunk))?;
                    let digits = digits.saturating_add(1);
                    self.position = Position::ChunkSize { size, digits };
                    Ok(1)
                } else if digits == 0 {
                    Err((0, FramingError::Chunk))
                } else {
                    self.position = Position::ChunkLine { size, cr: false };
                    Ok(0)
                }
            }
            Position::ChunkLine { size, cr } => {
                let (taken, seen) = strict_line(rest, cr)?;
                self.position = match (seen, size) {
                    (Seen::Text, _) => Position::ChunkLine { size, cr: false },
                    (Seen::Cr, _) => Position::ChunkLine { size, cr: true },
                    (Seen::End, 0) => Position::Trailers {
                        empty: true,
                        cr: false,
                    },
                    // With the line end after the data.
                    (Seen::End, size) => {
                        Position::ChunkData(size.checked_add(2).ok_or((0, FramingError::Chunk))?)
                    }
                };
                Ok(taken)
            }
            Position::Trailers { empty, cr } => {
                let (taken, seen) = strict_line(rest, cr)?;
                match seen {
                    Seen::Text => {
                        self.position = Position::Trailers {
                            empty: false,
                            cr: false,
                        }
                    }
                    Seen::Cr => {
                        let empty = empty && taken == 1;
                        self.position = Position::Trailers { empty, cr: true };
                    }
                    Seen::End if empty => self.begin(),
                    Seen::End => {
                        self.position = Position::Trailers {
                            empty: true,
                            cr: false,
                        }
                    }
                }
                Ok(taken)
            }
            Position::ChunkData(left) => {
                let taken = left.min(rest.len() as u64);
                self.position = match left - taken {
                    0 => Position::ChunkSize { size: 0, digits: 0 },
                    left => Position::ChunkData(left),
                };
                Ok(taken as usize)
            }
        }
    }

    fn step_line(&mut self, rest: &mut [u8]) -> Result<usize, (usize, FramingError)> {
        let end = memchr(b'\n', rest);
        let length = end.unwrap_or(rest.len());
        // A server behind may take such an end for one, and somebody before this proxy for none.
        if let Some(last) = rest[..length].last() {
            self.cr = *last == b'\r';
        }
        if end.is_some() && !std::mem::take(&mut self.cr) {
            return Err((length, FramingError::BareLf));
        }
        if self.first_line {
            return Ok(self.step_request_line(rest, end));
        }
        self.hide_expectation(&mut rest[..length]);
        let Some(end) = end else {
            let room = LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&rest[..rest.len().min(room)]);
            return Ok(rest.len());
        };
        if self.line.is_empty() {
            self.end_line(&rest[..end])
        } else {
            let mut line = std::mem::take(&mut self.line);
            let room = LINE.saturating_sub(line.len());
            line.extend_from_slice(&rest[..end.min(room)]);
            let result = self.end_line(&line);
            line.clear();
            self.line = line;
            result
        }
        .map_err(|error| (end, error))?;
        Ok(end + 1)
    }

    /// Takes the request line as far as it has come; `end` is that of the line.
    fn step_request_line(&mut self, rest: &mut [u8], end: Option<usize>) -> usize {
        let length = end.unwrap_or(rest.len());
        let part = &mut rest[..length];
        let begun = self.line.len();
        self.odd |= part.iter().any(|byte| is_odd(*byte));
        // hyper refuses longer ones.
        let room = MAX_WHOLE_HEAD.saturating_sub(begun);
        if self.odd || end.is_none() || begun > 0 {
            self.line.extend_from_slice(&part[..part.len().min(room)]);
        }
        for byte in &mut *part {
            match *byte {
                b' ' => self.spaces = self.spaces.saturating_add(1),
                odd if self.spaces == 1 && is_odd(odd) => *byte = ODD,
                _ => {}
            }
        }
        let taken = part.len();
        let Some(end) = end else {
            return taken;
        };
        let line = match self.line.is_empty() {
            true => &rest[..end],
            false => &self.line[..],
        };
        let mut parts = line.split(|byte| *byte == b' ');
        let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if self.odd || target::is_whole_server(method, target) {
            self.targets.push((self.heads, target.to_vec()));
        }
        // A target may have been long.
        self.line = Vec::new();
        self.first_line = false;
        end + 1
    }

    /// Changes the value of an `Expect`, when its first byte comes.
    fn hide_expectation(&self, part: &mut [u8]) {
        const NAME: &[u8] = b"expect:";
        let begun = self.line.len();
        let is_name = |line: &[u8], part: &[u8]| {
            let mut bytes = line.iter().chain(part).zip(NAME);
            bytes.all(|(byte, name)| byte.eq_ignore_ascii_case(name))
        };
        let first = self.line.first().or(part.first());
        if !matches!(first, Some(b'e' | b'E')) || !is_name(&self.line, part) {
            return;
        }
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        if self
            .line
            .get(NAME.len()..)
            .is_some_and(|value| !value.iter().all(is_space))
        {
            return;
        }
        let from = NAME.len().saturating_sub(begun);
        let value = part
            .get_mut(from..)
            .into_iter()
            .flatten()
            .find(|byte| !is_space(byte));
        if let Some(first) = value.filter(|byte| **byte == b'1') {
            *first = EXPECTED;
        }
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), FramingError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.first() {
            None => {
                self.position = match (self.chunked, self.length.unwrap_or(0)) {
                    (true, _) => Position::ChunkSize { size: 0, digits: 0 },
                    (false, 0) => Position::Between,
                    (false, length) => Position::Body(length),
                };
                let position = self.position;
                self.held = self.upgrade && position == Position::Between;
                self.begin();
                self.position = position;
                Ok(())
            }
            Some(b' ' | b'\t') => Err(FramingError::Folded),
            Some(b'c' | b'C' | b't' | b'T' | b'u' | b'U') => self.header(line),
            Some(_) => Ok(()),
        }
    }

    fn begin(&mut self) {
        self.position = Position::Between;
        self.first_line = true;
        self.length = None;
        self.chunked = false;
        self.upgrade = false;
    }

    fn header(&mut self, line: &[u8]) -> Result<(), FramingError> {
        let Some(colon) = memchr(b':', line) else {
            return Ok(());
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            // A longer one may have been cut.
            if line.len() >= LINE {
                return Err(FramingError::Length);
            }
            let length = Some(number(value).ok_or(FramingError::Length)?);
            if self.length.is_some() && self.length != length {
                return Err(FramingError::Length);
            }
            self.length = length;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if line.len() >= LINE || self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(FramingError::Encoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
        if self.chunked && self.length.is_some() {
            return Err(FramingError::BothLengths);
        }
        Ok(())
    }
}

/// Undoes what was done to `Expect` in a head.
pub(crate) fn restore_expectation(headers: &mut HeaderMap) {
    let is_hidden = |value: &&mut HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"!00-continue");
    if let Some(value) = headers.get_mut(EXPECT).filter(is_hidden) {
        *value = HeaderValue::from_static("100-continue");
    }
}

/// What `strict_line` has come to.
enum Seen {
    Text,
    Cr,
    End,
}

/// Takes some bytes of a line of chunked coding, at least one, and says how many. Such a line ends with CR LF, and has neither of them
/// elsewhere: what parsers make of one alone differs, hyper's among them, which goes on with the line.
fn strict_line(rest: &[u8], cr: bool) -> Result<(usize, Seen), (usize, FramingError)> {
    if cr {
        return match rest.first() {
            Some(b'\n') => Ok((1, Seen::End)),
            _ => Err((0, FramingError::Chunk)),
        };
    }
    match memchr2(b'\r', b'\n', rest) {
        None => Ok((rest.len(), Seen::Text)),
        Some(at) if rest[at] == b'\r' => Ok((at + 1, Seen::Cr)),
        Some(at) => Err((at, FramingError::Chunk)),
    }
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
