//! Origins: `scheme://host[:port]`.

use http::HeaderValue;

use crate::Reason;
use crate::error::{At, FieldResult};

/// The origins that are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origins {
    /// All of them, `null` too.
    Any,
    List(Box<[Pattern]>),
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    https: bool,
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Any,
    /// Any labels before this, which begins with a dot.
    Under(Box<str>),
    Exact(Box<str>),
}

impl Origins {
    pub(super) fn compile(entries: &[String]) -> FieldResult<Self> {
        if entries.iter().any(|entry| entry == "*") {
            return match entries.len() {
                1 => Ok(Self::Any),
                _ => Err(Reason::WildcardNotAlone).at("allowOrigins"),
            };
        }
        let mut list = Vec::with_capacity(entries.len());
        for (i, entry) in entries.iter().enumerate() {
            let pattern = Pattern::compile(entry).ok_or_else(|| Reason::Origin(entry.clone()));
            list.push(pattern.at(format_args!("allowOrigins[{i}]"))?);
        }
        Ok(Self::List(list.into()))
    }

    pub(super) fn allow(&self, origin: &HeaderValue) -> bool {
        let Self::List(list) = self else {
            return true;
        };
        let Some((https, host, port)) = origin.to_str().ok().and_then(parse) else {
            return false;
        };
        list.iter()
            .any(|pattern| pattern.https == https && pattern.port == port && pattern.host.matches(host))
    }
}

impl Pattern {
    fn compile(entry: &str) -> Option<Self> {
        let (https, host, port) = parse(entry)?;
        let host = match host.strip_prefix('*') {
            Some("") => Host::Any,
            Some(rest) if rest.len() > 1 && rest.starts_with('.') => {
                Host::Under(rest.to_ascii_lowercase().into())
            }
            Some(_) => return None,
            None => Host::Exact(host.to_ascii_lowercase().into()),
        };
        let literal = match &host {
            Host::Any => "",
            Host::Under(text) | Host::Exact(text) => text,
        };
        (!literal.contains('*')).then_some(Self { https, host, port })
    }
}

impl Host {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.eq_ignore_ascii_case(host),
            // Hosts are ASCII, so every place is a boundary.
            Self::Under(suffix) => {
                host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
            }
        }
    }
}

/// Whether the scheme is `https`, the host, and the port: without one the scheme's default.
fn parse(origin: &str) -> Option<(bool, &str, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let https = match scheme {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        // The colon is in an IPv6 address.
        Some((_, after)) if after.ends_with(']') => (rest, None),
        Some((host, port)) => (host, Some(port)),
        None => (rest, None),
    };
    let port = match port {
        None if https => 443,
        None => 80,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok().filter(|port| *port > 0)?
        }
        Some(_) => return None,
    };
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => {
            !address.is_empty()
                && address
                    .bytes()
                    .all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.')
        }
        None => !host.is_empty() && host.bytes().all(valid),
    };
    is_host.then_some((https, host, port))
}
