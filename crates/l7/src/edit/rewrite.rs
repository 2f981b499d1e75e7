//! Changing host and path of a request (`HTTPURLRewriteFilter`).

use http::HeaderValue;

use crate::error::{At, FieldResult};
use crate::{PathEditSpec, Reason, RewriteSpec};

use super::hostname;

/// A compiled `URLRewrite`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    host: Option<HeaderValue>,
    path: Option<PathEdit>,
}

impl Rewrite {
    /// `prefix` is the one prefix of the rule, if it has just one match, and of this type.
    pub(crate) fn compile(spec: &RewriteSpec, prefix: Option<&str>) -> FieldResult<Self> {
        let host = match &spec.hostname {
            None => None,
            Some(name) => {
                let host = hostname(name).at("hostname")?;
                let value = HeaderValue::from_str(&host).map_err(|_| Reason::Hostname(name.clone()));
                Some(value.at("hostname")?)
            }
        };
        let path = match &spec.path {
            None => None,
            Some(path) => Some(PathEdit::compile(path, prefix).at("path")?),
        };
        Ok(Self { host, path })
    }

    /// The new `Host` or `:authority`.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// The change of the path.
    pub fn path(&self) -> Option<&PathEdit> {
        self.path.as_ref()
    }
}

/// A compiled change of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathEdit {
    /// This is the path.
    Full(Box<str>),
    /// The prefix is replaced.
    Prefix {
        /// What the rule matched, without a slash at its end.
        matched: Box<str>,
        /// What comes in its place, without a slash at its end.
        replacement: Box<str>,
    },
}

impl PathEdit {
    pub(crate) fn compile(spec: &PathEditSpec, prefix: Option<&str>) -> FieldResult<Self> {
        match spec {
            PathEditSpec::Full(path) => {
                let path = checked(path).at("replaceFullPath")?;
                Ok(Self::Full(path.into()))
            }
            PathEditSpec::Prefix(path) => {
                let replacement = match path.as_str() {
                    "" => "",
                    path => checked(path).at("replacePrefixMatch")?,
                };
                let matched = prefix.ok_or(Reason::NoPrefix).at("replacePrefixMatch")?;
                Ok(Self::Prefix {
                    matched: matched.into(),
                    replacement: replacement.trim_end_matches('/').into(),
                })
            }
        }
    }

    /// The new path with the query of the request. `path` is the path that the rule matched
    /// ([`RequestHead::path`](crate::RequestHead::path)). A path that does not have the prefix (as `*`) stays.
    pub fn apply(&self, path: &str, query: Option<&str>) -> String {
        let (start, rest) = match self {
            Self::Full(path) => (&**path, ""),
            Self::Prefix { matched, replacement } => match path.strip_prefix(&**matched) {
                Some("") if replacement.is_empty() => ("/", ""),
                Some(rest) if rest.is_empty() || rest.starts_with('/') => (&**replacement, rest),
                _ => (path, ""),
            },
        };
        let mut out =
            String::with_capacity(start.len() + rest.len() + query.map_or(0, |query| query.len() + 1));
        out.push_str(start);
        out.push_str(rest);
        if let Some(query) = query {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

fn checked(path: &str) -> Result<&str, Reason> {
    match path.starts_with('/') {
        false => Err(Reason::Path("it must begin with a slash")),
        true if path.starts_with("//") => Err(Reason::Path("it must not begin with two slashes")),
        true if path.contains(['?', '#']) => Err(Reason::Path("it must have no query and no fragment")),
        true if !path.bytes().all(|byte| byte.is_ascii_graphic()) => Err(Reason::Path(
            "spaces and other than ASCII characters must be percent-encoded",
        )),
        true => Ok(path),
    }
}

#[cfg(test)]
mod tests;
