//! HTTP/1 as an endpoint without hyper reads it: where requests begin and end, by RFC 9112 alone.

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

/// How other errors than those of framing are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heads {
    /// They are not looked at.
    Any,
    /// They end the connection, and so does what the standard lets a server accept or refuse.
    Valid,
}

/// The requests of a connection, up to the first malformed one. Other errors in a head are not checked.
pub fn requests(bytes: &[u8]) -> Vec<Message> {
    read(bytes, Heads::Any)
}

/// The requests of a connection, up to the first that has any error.
pub fn strict(bytes: &[u8]) -> Vec<Message> {
    read(bytes, Heads::Valid)
}

fn read(mut bytes: &[u8], heads: Heads) -> Vec<Message> {
    let mut requests = Vec::new();
    loop {
        let blank = bytes
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        // Empty lines before a request are skipped, however they end: nothing else can be made of them.
        let lines = bytes[..blank].split_inclusive(|byte| *byte == b'\n');
        if heads == Heads::Valid && lines.into_iter().any(|line| !matches!(line, b"\n" | b"\r\n")) {
            return requests;
        }
        bytes = &bytes[blank..];
        let Some((mut request, rest)) = head(bytes) else {
            return requests;
        };
        let head = &bytes[..bytes.len() - rest.len()];
        if heads == Heads::Valid && !is_valid(head, &request) {
            return requests;
        }
        let Some(rest) = body(&mut request, rest, heads) else {
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

/// Whether a head has no error.
fn is_valid(head: &[u8], request: &Message) -> bool {
    let [method, target, version] = &request.first[..] else {
        return false;
    };
    let is_token = |name: &[u8]| {
        let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        !name.is_empty() && name.iter().all(of_token)
    };
    let hosts = request.values("host").count();
    let is_old = version == b"HTTP/1.0";
    let lines = head.split(|byte| *byte == b'\n');
    let mut lines = lines.take_while(|line| !line.is_empty());
    lines.all(|line| {
        let text = line.strip_suffix(b"\r");
        text.is_some_and(|text| {
            text.iter()
                .all(|byte| *byte == b'\t' || *byte >= 0x20 && *byte != 0x7f)
        })
    }) && is_token(method)
        && !target.is_empty()
        && target
            .iter()
            .all(|byte| byte.is_ascii_graphic() || !byte.is_ascii())
        && (version == b"HTTP/1.1" && hosts == 1 || is_old && hosts <= 1)
        && !(is_old && request.values("transfer-encoding").next().is_some())
        && request.fields.iter().all(|(name, _)| is_token(name))
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
fn body<'a>(request: &mut Message, bytes: &'a [u8], heads: Heads) -> Option<&'a [u8]> {
    let lengths: Vec<_> = request.values("content-length").collect();
    let codings: Vec<_> = request.values("transfer-encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => {
            request.complete = true;
            Some(bytes)
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => chunks(request, bytes, heads),
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

fn chunks<'a>(request: &mut Message, mut bytes: &'a [u8], heads: Heads) -> Option<&'a [u8]> {
    loop {
        let Some((line, rest)) = crlf_line(bytes)? else {
            return Some(&[]);
        };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if heads == Heads::Valid && !matches!(line[digits..].trim_ascii_start(), [] | [b';', ..]) {
            return None;
        }
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
