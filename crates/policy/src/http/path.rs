//! How applications read a path. Rules compare these readings. The path that is forwarded stays as received (RFC 9110
//! §7.7).

use std::borrow::Cow;

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathRefusal {
    /// The path does not begin with a slash.
    NotAbsolute,
    /// A `%` without two hexadecimal digits after it, or encoded bytes that are not UTF-8.
    Encoding,
    /// A control character or NUL, raw or encoded; a raw space; or a `?` or `#`, which ends the path.
    Character,
    /// A backslash, raw or encoded: some applications read it as a slash.
    Backslash,
    /// An encoded slash: some applications read it as a slash, others do not.
    EncodedSlash,
    /// A semicolon, raw or encoded: some applications end the segment there.
    Semicolon,
    /// `..` beyond the root.
    AboveRoot,
    /// A rule denies one reading of the path, and not another.
    ReadDifferently,
}

impl std::fmt::Display for PathRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "path: it does not begin with a slash",
            Self::Encoding => "path: malformed percent-encoding",
            Self::Character => "path: a character that a path must not have",
            Self::Backslash => "path: backslash",
            Self::EncodedSlash => "path: encoded slash",
            Self::Semicolon => "path: semicolon",
            Self::AboveRoot => "path: '..' beyond the root",
            Self::ReadDifferently => {
                "path: applications read it in different ways, of which a rule denies one"
            }
        })
    }
}

impl std::error::Error for PathRefusal {}

/// The path, without its query, in normal form (RFC 3986, section 6.2.2, and slashes merged): percent-encoded
/// unreserved characters are decoded, the hexadecimal digits of other encoding are in upper case, slashes in a row are
/// one, and then `.` and `..` are resolved. Upper and lower case stay as they are. An empty path is `/`, and `*` (of
/// `OPTIONS *`) is itself.
///
/// # Errors
/// When applications read the path in different ways: it has no normal form.
pub fn normalize_path(path: &str) -> Result<Cow<'_, str>, PathRefusal> {
    match path {
        "" => return Ok(Cow::Borrowed("/")),
        "*" => return Ok(Cow::Borrowed(path)),
        _ if !path.starts_with('/') => return Err(PathRefusal::NotAbsolute),
        _ => {}
    }
    if is_plain(path)? {
        return Ok(Cow::Borrowed(path));
    }
    let (unescaped, encoded) = unescape(path, false)?;
    if encoded && std::str::from_utf8(&decode(unescaped.as_bytes())).is_err() {
        return Err(PathRefusal::Encoding);
    }
    remove_dot_segments(&unescaped).map(Cow::Owned)
}

/// The readings of this path in applications; the first is its normal form. The others: without resolving `//` and dot
/// segments; with encoded slashes and backslashes as slashes; without parameters (`;`); cut at a `#`; decoded twice. A
/// plain path has one reading.
///
/// # Errors
/// When the path is malformed.
pub fn readings(path: &str) -> Result<Vec<Cow<'_, str>>, PathRefusal> {
    match path {
        "" => return Ok(vec![Cow::Borrowed("/")]),
        "*" => return Ok(vec![Cow::Borrowed(path)]),
        _ if !path.starts_with('/') => return Err(PathRefusal::NotAbsolute),
        _ => {}
    }
    if is_unambiguous(path)? {
        return Ok(vec![Cow::Borrowed(path)]);
    }
    let unescaped = unescape_leniently(path)?;
    let mut readings = vec![remove_dot_segments(&unescaped)?];
    let twice = decode_percent(path);
    for text in [
        Some(unescaped),
        twice.and_then(|path| unescape_leniently(&path).ok()),
    ] {
        let Some(text) = text else { continue };
        for slashes in [false, true] {
            for parameters in [true, false] {
                let mut text = match slashes {
                    true => text.replace("%2F", "/").replace("%5C", "/").replace('\\', "/"),
                    false => text.clone(),
                };
                if !parameters {
                    text = without_parameters(&text);
                }
                if let Some((before, _)) = text.split_once("%23") {
                    readings.push(resolve(before));
                }
                readings.push(resolve(&text));
                readings.push(text);
            }
        }
    }
    let mut distinct: Vec<Cow<'_, str>> = Vec::new();
    for reading in readings {
        if !distinct.iter().any(|other| **other == reading) {
            distinct.push(Cow::Owned(reading));
        }
    }
    Ok(distinct)
}

/// Whether every application reads the path in the same way.
fn is_unambiguous(path: &str) -> Result<bool, PathRefusal> {
    let mut plain = true;
    let mut previous = 0;
    for byte in path.bytes() {
        match byte {
            0..=b' ' | 0x7f | b'?' | b'#' => return Err(PathRefusal::Character),
            b'%' | b'\\' | b';' => plain = false,
            b'/' | b'.' if previous == b'/' => plain = false,
            _ => {}
        }
        previous = byte;
    }
    Ok(plain)
}

/// Like [`unescape`], but encoded slashes, backslashes and semicolons stay encoded.
fn unescape_leniently(path: &str) -> Result<String, PathRefusal> {
    let (unescaped, encoded) = unescape(path, true)?;
    if encoded && std::str::from_utf8(&decode(unescaped.as_bytes())).is_err() {
        return Err(PathRefusal::Encoding);
    }
    Ok(unescaped)
}

/// Decodes each encoded `%` that begins another encoding; `None` if there is none.
fn decode_percent(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let mut found = false;
    while let Some((before, after)) = rest.split_once("%25") {
        out.push_str(before);
        out.push('%');
        let encodes = after.as_bytes().get(..2).and_then(from_hex).is_some();
        if encodes {
            found = true;
        } else {
            out.push_str("25");
        }
        rest = after;
    }
    out.push_str(rest);
    found.then_some(out)
}

/// Cuts each segment at its first semicolon.
fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        let end = [segment.find(';'), segment.find("%3B")]
            .into_iter()
            .flatten()
            .min();
        &segment[..end.unwrap_or(segment.len())]
    });
    segments.collect::<Vec<_>>().join("/")
}

/// Resolves dot segments; `..` at the root has no effect, as in many applications.
fn resolve(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(out.pop()),
            segment => out.push(segment),
        }
    }
    join(path, &out)
}

/// Whether the path is in normal form already.
fn is_plain(path: &str) -> Result<bool, PathRefusal> {
    let mut plain = true;
    let mut previous = 0;
    for byte in path.bytes() {
        match byte {
            b'\\' => return Err(PathRefusal::Backslash),
            b';' => return Err(PathRefusal::Semicolon),
            0..=b' ' | 0x7f | b'?' | b'#' => return Err(PathRefusal::Character),
            b'%' => plain = false,
            b'/' | b'.' if previous == b'/' => plain = false,
            _ => {}
        }
        previous = byte;
    }
    Ok(plain)
}

/// Decodes encoded unreserved characters, and writes other encodings in upper case. Returns whether there are others.
fn unescape(path: &str, lenient: bool) -> Result<(String, bool), PathRefusal> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let mut encoded = false;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.as_bytes().get(..2).ok_or(PathRefusal::Encoding)?;
        let byte = from_hex(digits).ok_or(PathRefusal::Encoding)?;
        match byte {
            b'/' if !lenient => return Err(PathRefusal::EncodedSlash),
            b'\\' if !lenient => return Err(PathRefusal::Backslash),
            b';' if !lenient => return Err(PathRefusal::Semicolon),
            0..=0x1f | 0x7f => return Err(PathRefusal::Character),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                encoded = true;
                out.push('%');
                out.extend(digits.iter().map(|b| char::from(b.to_ascii_uppercase())));
            }
        }
        // Both are ASCII, so this is a boundary.
        rest = &after[2..];
    }
    out.push_str(rest);
    Ok((out, encoded))
}

fn from_hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let value = digit(digits[0])? * 16 + digit(digits[1])?;
    u8::try_from(value).ok()
}

/// Merges slashes. The path begins with a slash.
fn remove_dot_segments(path: &str) -> Result<String, PathRefusal> {
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                out.pop().ok_or(PathRefusal::AboveRoot)?;
            }
            segment => out.push(segment),
        }
    }
    Ok(join(path, &out))
}

/// The path of these segments, with a slash at its end if `path` has one.
fn join(path: &str, segments: &[&str]) -> String {
    let directory = matches!(path.rsplit('/').next(), Some("" | "." | ".."));
    let mut joined = String::with_capacity(path.len());
    for segment in segments {
        joined.push('/');
        joined.push_str(segment);
    }
    if directory || segments.is_empty() {
        joined.push('/');
    }
    joined
}

/// The decoded path, as an application sees it. A `%` that begins no encoding stays.
pub(super) fn decode(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        match after.get(..2).filter(|_| byte == b'%').and_then(from_hex) {
            Some(decoded) => {
                out.push(decoded);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests;
