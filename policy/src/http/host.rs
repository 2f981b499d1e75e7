//! The name a request is addressed to.

use std::borrow::Cow;

/// The host of a `Host` header or an `:authority` as rules compare it: without the port and the root's dot, in lower case.
pub fn normalize_host(authority: &str) -> Cow<'_, str> {
    let host = match authority.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => host,
        _ => authority,
    };
    let host = host.trim_end_matches('.');
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
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
            ("10.0.0.1:80", "10.0.0.1"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("", ""),
        ];
        for (authority, host) in cases {
            assert_eq!(normalize_host(authority), host, "{authority}");
        }
    }
}
