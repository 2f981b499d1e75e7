//! Targets with characters that no URI has, and that many servers take: quotes, angle brackets, bytes that are no ASCII.
//!
//! Within the waypoint, and over HTTP/2, they are percent-encoded. An endpoint of HTTP/1 is sent the target as it came.

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::uri::InvalidUri;
use http::{Request, Uri};

use super::headers;

/// The path and query of a request as they came, in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct RawTarget(pub(crate) Bytes);

/// Puts a request's target right, of which hyper has seen something else.
///
/// # Errors
/// When it is no target even so.
pub(super) fn restore<B>(request: &mut Request<B>, raw: Vec<u8>) -> Result<(), InvalidUri> {
    *request.uri_mut() = Uri::try_from(encode(&raw))?;
    if is_whole_server(request.method().as_str().as_bytes(), &raw) {
        address_whole_server(request);
        return Ok(());
    }
    let path = path_of(raw);
    request.extensions_mut().insert(RawTarget(path));
    Ok(())
}

/// Whether a request is for a server as a whole: `OPTIONS` with an absolute target that has no path (RFC 9112 §3.2.4). `http::Uri` cannot
/// tell it from one with the path `/`.
pub(super) fn is_whole_server(method: &[u8], raw: &[u8]) -> bool {
    let authority = || {
        let after = raw.windows(3).position(|part| part == b"://")? + 3;
        raw.get(after..)
    };
    method == b"OPTIONS"
        && !raw.starts_with(b"/")
        && authority().is_some_and(|rest| !rest.iter().any(|byte| matches!(byte, b'/' | b'?' | b'#')))
}

/// Gives it the target `*`, and the name in `Host`. One whose names are malformed stays, to be refused.
fn address_whole_server<B>(request: &mut Request<B>) {
    let authority = headers::authority(request.uri(), request.headers(), request.version());
    let host = match &authority {
        Ok(Some(authority)) => HeaderValue::from_str(authority.as_str()).ok(),
        Ok(None) | Err(_) => None,
    };
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
        *request.uri_mut() = Uri::from_static("*");
    }
}

fn encode(raw: &[u8]) -> String {
    let mut encoded = String::with_capacity(raw.len() + 16);
    for byte in raw {
        match byte {
            b'"' | b'<' | b'>' | b'`' | b'#' | 0x80.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(*byte)),
        }
    }
    encoded
}

/// Without scheme and authority.
fn path_of(raw: Vec<u8>) -> Bytes {
    let raw = Bytes::from(raw);
    if raw.starts_with(b"/") {
        return raw;
    }
    let after = raw
        .windows(3)
        .position(|part| part == b"://")
        .map_or(0, |at| at + 3);
    let path = raw[after..]
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    match path.map(|at| raw.slice(after + at..)) {
        Some(path) if path.starts_with(b"/") => path,
        Some(query) => [&b"/"[..], &query].concat().into(),
        None => Bytes::from_static(b"/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_encoded_for_the_waypoint_and_kept_for_the_endpoint() {
        for (raw, uri, path) in [
            (
                &b"/q?query=up{job=\"x\"}"[..],
                "/q?query=up{job=%22x%22}",
                &b"/q?query=up{job=\"x\"}"[..],
            ),
            (b"/\xe9", "/%E9", b"/\xe9"),
            (b"http://server/a#b", "http://server/a%23b", b"/a#b"),
            (b"http://server?<", "http://server/?%3C", b"/?<"),
        ] {
            let mut request = Request::new(());
            restore(&mut request, raw.to_vec()).unwrap();
            assert_eq!(request.uri().to_string(), uri);
            assert_eq!(request.extensions().get::<RawTarget>().unwrap().0, path);
        }
    }
}
