//! Redirects (`HTTPRequestRedirectFilter`).

use http::header::InvalidHeaderValue;
use http::{HeaderValue, StatusCode};

use crate::error::{At, FieldResult};
use crate::{PathEdit, Reason, RedirectSpec};

use super::hostname;

/// A compiled `RequestRedirect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    scheme: Option<&'static str>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<PathEdit>,
    status: StatusCode,
}

/// What was requested, and where.
#[derive(Debug, Clone, Copy)]
pub struct RequestTarget<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `Host` or `:authority`; its port is not used.
    pub authority: &'a str,
    /// The port of the frontend (the API's "listener port"): for a Service as parent, its port.
    pub port: u16,
    /// The path that the rule matched.
    pub path: &'a str,
    /// The same as it was requested: a redirect without a path keeps it.
    pub written: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
}

impl Redirect {
    /// `prefix` as for [`Rewrite::compile`](crate::Rewrite).
    pub(crate) fn compile(spec: &RedirectSpec, prefix: Option<&str>) -> FieldResult<Self> {
        let scheme = match spec.scheme.as_deref() {
            None => None,
            Some("http") => Some("http"),
            Some("https") => Some("https"),
            Some(other) => return Err(Reason::Scheme(other.to_owned())).at("scheme"),
        };
        let host = match &spec.hostname {
            None => None,
            Some(name) => Some(hostname(name).at("hostname")?),
        };
        if spec.port == Some(0) {
            return Err(Reason::Port).at("port");
        }
        let path = match &spec.path {
            None => None,
            Some(path) => Some(PathEdit::compile(path, prefix).at("path")?),
        };
        let status = match spec.status {
            None => StatusCode::FOUND,
            Some(301) => StatusCode::MOVED_PERMANENTLY,
            Some(302) => StatusCode::FOUND,
            Some(303) => StatusCode::SEE_OTHER,
            Some(307) => StatusCode::TEMPORARY_REDIRECT,
            Some(308) => StatusCode::PERMANENT_REDIRECT,
            Some(other) => return Err(Reason::RedirectStatus(other)).at("statusCode"),
        };
        Ok(Self {
            scheme,
            host,
            port: spec.port,
            path,
            status,
        })
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The `Location` of the response: an absolute URL. The port is the filter's; else the default one of the filter's
    /// scheme; else the frontend's. A default port is left out.
    ///
    /// # Errors
    /// When the request's authority or path has a character that a header value cannot have.
    pub fn location(&self, target: &RequestTarget<'_>) -> Result<HeaderValue, InvalidHeaderValue> {
        let scheme = self.scheme.unwrap_or(target.scheme);
        let default = match scheme {
            "https" => 443,
            _ => 80,
        };
        let port = self.port.unwrap_or(match self.scheme {
            Some(_) => default,
            None => target.port,
        });
        let host = self.host.as_deref().unwrap_or(without_port(target.authority));
        let mut location = format!("{scheme}://{host}");
        if port != default {
            location.push_str(&format!(":{port}"));
        }
        // `OPTIONS *` has no path.
        let or_root = |path| if str::starts_with(path, '/') { path } else { "/" };
        match &self.path {
            Some(edit) => location.push_str(&edit.apply(or_root(target.path), target.query)),
            None => {
                location.push_str(or_root(target.written));
                if let Some(query) = target.query {
                    location.push('?');
                    location.push_str(query);
                }
            }
        }
        HeaderValue::try_from(location)
    }
}

/// The host of an authority; an IPv6 address stays in its brackets.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests;
