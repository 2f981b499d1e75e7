//! What of a message's head is passed on.

use std::net::IpAddr;

use ambit_policy::http::normalize_host;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::uri::{Authority, Scheme};
use http::{Method, Uri, Version};

/// Hop-by-hop fields (RFC 9110 §7.6.1) besides `Connection` itself, `TE` and `Upgrade`, which are looked at one by one.
const HOP_BY_HOP: [HeaderName; 4] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    TRANSFER_ENCODING,
];

/// What a `Connection` field cannot take away: the message would be another one.
const NEVER_HOP_BY_HOP: [HeaderName; 5] = [
    HOST,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    TRAILER,
    HeaderName::from_static("authorization"),
];

/// The one protocol that connections are upgraded to. Others are not passed on: with `h2c` further requests would follow that nobody
/// looks at.
const WEBSOCKET: &[u8] = b"websocket";

/// Whether a request asks for its connection to be upgraded to WebSocket.
pub(crate) fn is_websocket(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && *method == Method::GET
        && headers.get_all(UPGRADE).iter().count() == 1
        && headers
            .get(UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET))
        && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Takes hop-by-hop fields out. `TE: trailers` stays, which gRPC needs; of an upgrade that goes on, so does what asks for it.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|token| HeaderName::try_from(token).ok())
            .filter(|name| *name != UPGRADE && *name != TE && !NEVER_HOP_BY_HOP.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// Fields that mean something in a head only (RFC 9110 §6.5.1), besides hop-by-hop ones. Some servers end the connection of all for one.
const NEVER_IN_TRAILERS: [HeaderName; 12] = [
    CONNECTION,
    UPGRADE,
    TE,
    TRAILER,
    HOST,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HeaderName::from_static("content-encoding"),
    HeaderName::from_static("content-range"),
    HeaderName::from_static("authorization"),
    HeaderName::from_static("max-forwards"),
    HeaderName::from_static("set-cookie"),
];

/// Takes out of trailers what does not belong there. For HTTP/2: hyper does the same where it writes HTTP/1.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    for name in HOP_BY_HOP.iter().chain(&NEVER_IN_TRAILERS) {
        trailers.remove(name);
    }
}

/// Why it cannot be told which name a request is addressed to (400).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("no Host")]
    Missing,
    #[error("more than one Host")]
    Several,
    #[error("Host is not a name or address")]
    Malformed,
    #[error("Host and :authority differ")]
    Differ,
}

/// The name and port that a request is addressed to: the target's own, else `Host` (RFC 9112 §3.2.2, RFC 9113 §8.3.1). `None`
/// for HTTP/1.0 without one, and where it is empty. Each of them has a normal form ([`normalize_host`]).
pub(crate) fn authority(
    uri: &Uri,
    headers: &HeaderMap,
    version: Version,
) -> Result<Option<Authority>, HostError> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HostError::Several);
    }
    // Authority takes user information, and ports that are no numbers.
    let is_good = |authority: &Authority| normalize_host(authority.as_str()).is_some();
    let parse = |host: &HeaderValue| {
        Authority::try_from(host.as_bytes())
            .ok()
            .filter(is_good)
            .ok_or(HostError::Malformed)
    };
    match (uri.authority(), host) {
        (Some(authority), _) if !is_good(authority) => Err(HostError::Malformed),
        (Some(authority), Some(host)) if version == Version::HTTP_2 => {
            let same = host
                .as_bytes()
                .eq_ignore_ascii_case(authority.as_str().as_bytes());
            same.then(|| Some(authority.clone())).ok_or(HostError::Differ)
        }
        // It goes no further, and is refused all the same (RFC 9112 §3.2).
        (Some(authority), Some(host)) if !host.is_empty() => parse(host).map(|_| Some(authority.clone())),
        (Some(authority), _) => Ok(Some(authority.clone())),
        (None, Some(host)) if host.is_empty() => Ok(None),
        (None, Some(host)) => parse(host).map(Some),
        (None, None) if version < Version::HTTP_11 => Ok(None),
        (None, None) => Err(HostError::Missing),
    }
}

/// The target as an HTTP/1.1 request to an origin has it, and the `Host` that goes with it.
pub(crate) fn to_http1(uri: &Uri, authority: Option<&Authority>, headers: &mut HeaderMap) -> Uri {
    let had_authority = uri.authority().is_some();
    match authority {
        Some(authority) if had_authority || !headers.contains_key(HOST) => {
            // An authority is made of characters that a field may have.
            if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                headers.insert(HOST, host);
            }
        }
        None if !headers.contains_key(HOST) => {
            headers.insert(HOST, HeaderValue::from_static(""));
        }
        _ => {}
    }
    match had_authority {
        false => uri.clone(),
        true => uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from),
    }
}

/// The target as HTTP/2 has it: `http` and `https` have an authority (RFC 9113 §8.3.1).
pub(crate) fn to_http2(
    uri: &Uri,
    authority: &Authority,
    headers: &mut HeaderMap,
) -> Result<Uri, http::Error> {
    headers.remove(HOST);
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(uri.scheme().cloned().unwrap_or(Scheme::HTTP));
    parts.authority = Some(authority.clone());
    parts.path_and_query = uri.path_and_query().cloned();
    Ok(Uri::from_parts(parts)?)
}

/// The header that says why the waypoint did not pass a request on, or its answer back.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-ambit-reason");
/// The reason given where the waypoint has as much to do as it takes on.
pub(crate) const OVERLOADED: &str = "overloaded";

/// Envoy's word on who the caller is. Callers can write what they like, and applications that came from a mesh with sidecars believe it.
pub(crate) const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Adds whom the request came from, and by whom (RFC 9110 §7.6.3). The last address is the client's own, by its connection; those before
/// it are what the client says.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, received: Version, client: IpAddr) {
    let via = match received {
        Version::HTTP_2 => "2 ambit-waypoint",
        Version::HTTP_10 => "1.0 ambit-waypoint",
        _ => "1.1 ambit-waypoint",
    };
    append_to_list(headers, VIA, via.as_bytes());
    append_to_list(headers, FORWARDED_FOR, client.to_string().as_bytes());
}

/// Appends to the last field of that name, after a comma: many applications look at one field only.
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, element: &[u8]) {
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element);
    // Of parts of values.
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        headers.insert(name, list);
    }
}

/// Whether the body of a response is coded in no way but chunked, which hyper has decoded. Where it was, its own length is none
/// (RFC 9112 §6.3).
pub(crate) fn has_known_coding(headers: &mut HeaderMap) -> bool {
    if !headers.contains_key(TRANSFER_ENCODING) {
        return true;
    }
    headers.remove(CONTENT_LENGTH);
    let codings: Vec<_> = headers.get_all(TRANSFER_ENCODING).iter().collect();
    matches!(codings[..], [coding] if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Bytes of fields, as HTTP/1 has them.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

/// Whether a request is a call of gRPC, which is answered in its own way.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
    })
}

/// RFC 9110 §9.2.2.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

/// Header fields as rules look them up: those that go on.
pub(crate) struct Fields<'a> {
    /// Without hop-by-hop fields.
    pub(crate) headers: &'a HeaderMap,
    /// What the endpoint is told, in `Host` or `:authority`.
    pub(crate) authority: Option<&'a Authority>,
}

impl ambit_policy::http::Headers for Fields<'_> {
    fn any(&self, name: &str, matches: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        if let Some(authority) = self.authority.filter(|_| *name == HOST) {
            return matches(authority.as_str().as_bytes());
        }
        let mut values = self.headers.get_all(name).iter();
        values.any(|value| matches(value.as_bytes()))
    }

    fn any_alike(&self, name: &str, matches: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let alike = |other: &HeaderName| {
            let other = other.as_str();
            let same = |(a, b): (u8, u8)| a == b || (a == b'-' && b == b'_');
            other.len() == name.len()
                && other.contains('_')
                && other != name
                && name.bytes().zip(other.bytes()).all(same)
        };
        let mut fields = self.headers.iter();
        fields.any(|(other, value)| alike(other) && matches(value.as_bytes()))
    }
}

#[cfg(test)]
mod tests;
