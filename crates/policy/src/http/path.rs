//! The normal form of a path: what rules compare, and what is sent on where a rule for paths is in force, so that proxy and
//! application speak of the same thing.

use std::borrow::Cow;

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathRefusal {
    /// It does not begin with a slash.
    NotAbsolute,
    /// A `%` that two hexadecimal digits do not follow, or encoded bytes that are no UTF-8.
    Encoding,
    /// A control character, a space or NUL, as it is or encoded; or a `?` or `#`, where the path ends.
    Character,
    /// A backslash, as it is or encoded: some applications take it for a slash.
    Backslash,
    /// An encoded slash: some applications take it for a slash, others do not.
    EncodedSlash,
    /// A semicolon, as it is or encoded: some applications cut the segment there.
    Semicolon,
    /// `..` beyond the root.
    AboveRoot,
}

impl std::fmt::Display for PathRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "path: it does not begin with a slash",
            Self::Encoding => "path: malformed percent-encoding",
            Self::Character => "path: a character that no path can have",
            Self::Backslash => "path: backslash",
            Self::EncodedSlash => "path: encoded slash",
            Self::Semicolon => "path: semicolon",
            Self::AboveRoot => "path: '..' beyond the root",
        })
    }
}

impl std::error::Error for PathRefusal {}

/// The path, without its query, in normal form (RFC 3986, section 6.2.2, and slashes merged): percent-encoded unreserved characters are
/// decoded, the hexadecimal digits of other encoding are in upper case, slashes in a row are one, and then `.` and `..` are resolved.
/// Upper and lower case stay as they are. An empty path is `/`, and `*` (of `OPTIONS *`) is itself.
///
/// # Errors
/// Where applications disagree on what a path means, it has no normal form.
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
    let (unescaped, encoded) = unescape(path)?;
    if encoded && std::str::from_utf8(&decode(unescaped.as_bytes())).is_err() {
        return Err(PathRefusal::Encoding);
    }
    remove_dot_segments(&unescaped).map(Cow::Owned)
}

/// Whether nothing is to be done.
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

/// Decodes what stands for unreserved characters, and puts the rest in upper case; whether there is such a rest.
fn unescape(path: &str) -> Result<(String, bool), PathRefusal> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let mut encoded = false;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.as_bytes().get(..2).ok_or(PathRefusal::Encoding)?;
        let byte = from_hex(digits).ok_or(PathRefusal::Encoding)?;
        match byte {
            b'/' => return Err(PathRefusal::EncodedSlash),
            b'\\' => return Err(PathRefusal::Backslash),
            b';' => return Err(PathRefusal::Semicolon),
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

/// With slashes merged. The path begins with one.
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
    let directory = matches!(path.rsplit('/').next(), Some("" | "." | ".."));
    let mut joined = String::with_capacity(path.len());
    for segment in &out {
        joined.push('/');
        joined.push_str(segment);
    }
    if directory || out.is_empty() {
        joined.push('/');
    }
    Ok(joined)
}

/// The path with its encoding decoded, as an application sees it. What is no encoding stays.
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
