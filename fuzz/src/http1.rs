//! HTTP/1 as an endpoint without hyper reads it: where requests begin and end, by RFC 9112 alone. Other errors in a
//! head are not checked.

/// A message's head, and the received part of its body.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Message {
    /// The words of the first line.
    pub first: Vec<Vec<u8>>,
    /// Names, in lower case, and values without white space around them.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Without the coding.
    pub body: Vec<u8>,
    /// Whether it is complete.
    pub complete: bool,
}

impl Message {
    /// The values of a field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.fields.iter().filter(move |(n, _)| n == name.as_bytes());
        named.map(|(_, value)| &value[..])
    }
}

/// The requests of a connection, up to the first malformed one.
pub fn requests(mut bytes: &[u8]) -> Vec<Message> {
    let mut requests = Vec::new();
    loop {
        let blank = bytes
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        bytes = &bytes[blank..];
        let Some((mut request, rest)) = head(bytes) else {
            return requests;
        };
        let Some(rest) = body(&mut request, rest) else {
            return requests;
        };
        let complete = request.complete;
        requests.push(request);
        if !complete {
            return requests;
        }
        bytes = rest;
    }
}

/// A complete head, and the bytes after it.
fn head(mut bytes: &[u8]) -> Option<(Message, &[u8])> {
    let mut message = Message::default();
    for number in 0.. {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        bytes = &bytes[end + 1..];
        match line {
            _ if number == 0 => {
                message.first = line.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect()
            }
            [] => return Some((message, bytes)),
            _ => {
                let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
                let value = line.get(colon + 1..).unwrap_or_default().trim_ascii().to_vec();
                message.fields.push((line[..colon].to_ascii_lowercase(), value));
            }
        }
    }
    None
}

/// Reads a request's body; `None` if its length is ambiguous.
fn body<'a>(request: &mut Message, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let lengths: Vec<_> = request.values("content-length").collect();
    let codings: Vec<_> = request.values("transfer-encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => {
            request.complete = true;
            Some(bytes)
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => chunks(request, bytes),
        ([first, others @ ..], []) if others.iter().all(|other| number(other) == number(first)) => {
            let length = usize::try_from(number(first)?).unwrap_or(usize::MAX);
            let come = length.min(bytes.len());
            request.body = bytes[..come].to_vec();
            request.complete = come == length;
            Some(&bytes[come..])
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn chunks<'a>(request: &mut Message, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
    loop {
        let Some((line, rest)) = crlf_line(bytes)? else {
            return Some(&[]);
        };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        bytes = rest;
        if size == 0 {
            break;
        }
        let come = size.min(bytes.len());
        request.body.extend_from_slice(&bytes[..come]);
        bytes = &bytes[come..];
        match bytes {
            [b'\r', b'\n', rest @ ..] => bytes = rest,
            [] | [b'\r'] => return Some(&[]),
            _ => return None,
        }
    }
    while let Some((line, rest)) = crlf_line(bytes)? {
        bytes = rest;
        if line.is_empty() {
            request.complete = true;
            return Some(bytes);
        }
    }
    Some(&[])
}

/// A line that ends with CR LF and has neither elsewhere. `Some(None)`: it is incomplete. `None`: it is malformed.
fn crlf_line(bytes: &[u8]) -> Option<Option<(&[u8], &[u8])>> {
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return Some(None);
    };
    match &bytes[end..] {
        [b'\r', b'\n', rest @ ..] => Some(Some((&bytes[..end], rest))),
        [b'\r'] => Some(None),
        _ => None,
    }
}
