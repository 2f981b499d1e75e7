//! The host that a request is addressed to.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The host of a `Host` field or an `:authority` as rules compare it: without the port and the root's dot, in lower
/// case.
///
/// `None` unless it is a `uri-host [ ":" port ]` (RFC 9110 §7.2) that every application reads alike: no user
/// information; the port is a 16-bit number, or empty (RFC 3986 §3.2.3); an IPv6 address is in brackets; a name has
/// only labels of letters, digits, `-` and `_`, which is less than RFC 3986 §3.2.2 permits, but all that names of
/// services use.
pub fn normalize_host(authority: &str) -> Option<Cow<'_, str>> {
    let literal = authority.starts_with('[');
    let end = match literal {
        true => authority.find(']')? + 1,
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
        return None;
    }
    let host = match literal {
        true => host[1..end - 1].parse::<Ipv6Addr>().ok().map(|_| host)?,
        false => Some(host.strip_suffix('.').unwrap_or(host)).filter(|name| is_name(name))?,
    };
    Some(if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

fn is_port(port: &str) -> bool {
    // `parse` would accept a sign.
    port.bytes().all(|b| b.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        !label.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::normalize_host;

    #[test]
    fn port_case_and_root_do_not_matter() {
        let cases = [
            ("server", "server"),
            ("Server.Shop.SVC:8080", "server.shop.svc"),
            ("server.shop.", "server.shop"),
            ("server.shop.:80", "server.shop"),
            ("server:", "server"),
            ("server:00080", "server"),
            ("server:65535", "server"),
            ("my_server-1.shop", "my_server-1.shop"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("[::ffff:10.0.0.1]:", "[::ffff:10.0.0.1]"),
        ];
        for (authority, host) in cases {
            assert_eq!(normalize_host(authority).as_deref(), Some(host), "{authority}");
        }
    }

    #[test]
    fn what_some_read_in_another_way_is_no_host() {
        let cases = [
            "",
            ":80",
            ".",
            "..",
            ".shop",
            "server..",
            "server..shop",
            "server:x",
            "server:80x",
            "server:+80",
            "server:-1",
            "server: 80",
            "server:65536",
            "server:80:80",
            "server:x:80",
            "user@server",
            "user:80@server",
            "::1",
            "[::1",
            "::1]",
            "[]",
            "[::1]x",
            "[::1]:x",
            "[::1]]",
            "[::1]:80:80",
            "[::1%25eth0]",
            "[v1.x]",
            "[server]",
            "server[::1]",
            "server/",
            "server%2e",
            "server,other",
            "ser ver",
            "s\u{e9}rver",
        ];
        for authority in cases {
            assert_eq!(normalize_host(authority), None, "{authority}");
        }
    }
}
