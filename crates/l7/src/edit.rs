//! Changes of heads: each is a compiled filter of the Gateway API.

pub(crate) mod cors;
pub(crate) mod headers;
pub(crate) mod redirect;
pub(crate) mod rewrite;

use crate::Reason;

/// A host name in lower case, as the API's `PreciseHostname`.
fn hostname(name: &str) -> Result<Box<str>, Reason> {
    let label = |label: &str| {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(valid)
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(name.into()),
        false => Err(Reason::Hostname(name.to_owned())),
    }
}
