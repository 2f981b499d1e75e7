//! Setting, adding and removing headers (`HTTPHeaderFilter`).

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};

use crate::error::{At, FieldResult};
use crate::matching::header_name;
use crate::{HeaderEditSpec, HeaderSpec, Reason};

/// A compiled change of headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
}

impl HeaderEdit {
    pub(crate) fn compile(spec: &HeaderEditSpec) -> FieldResult<Self> {
        let set = compile_list("set", &spec.set)?;
        let add = compile_list("add", &spec.add)?;
        let mut remove: Vec<HeaderName> = Vec::new();
        for (i, name) in spec.remove.iter().enumerate() {
            let name = changeable(name).at(format_args!("remove[{i}]"))?;
            if !remove.contains(&name) {
                remove.push(name);
            }
        }
        let names = |list: &[(HeaderName, HeaderValue)]| {
            list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let (set_names, add_names) = (names(&set), names(&add));
        let twice = |name: &&HeaderName| {
            [&set_names, &add_names, &remove]
                .iter()
                .filter(|list| list.contains(name))
                .count()
                > 1
        };
        for (field, list) in [("add", &add_names), ("remove", &remove)] {
            if let Some(name) = list.iter().find(twice) {
                return Err(Reason::ManyActions(name.to_string())).at(field);
            }
        }
        Ok(Self {
            set: set.into(),
            add: add.into(),
            remove: remove.into(),
        })
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Changes the headers. An added header is a field of its own, after those with its name (RFC 9110 §5.3).
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// Of entries with equal names the first counts.
fn compile_list(field: &str, specs: &[HeaderSpec]) -> FieldResult<Vec<(HeaderName, HeaderValue)>> {
    let mut list: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let at = format_args!("{field}[{i}]").to_string();
        let name = changeable(&spec.name).at("name").at(&at)?;
        let value = HeaderValue::from_str(&spec.value)
            .map_err(|_| Reason::HeaderValue)
            .at("value")
            .at(&at)?;
        if list.iter().all(|(known, _)| *known != name) {
            list.push((name, value));
        }
    }
    Ok(list)
}

/// Not a header of the connection (RFC 9110 §7.6.1), of the message framing or of the target, which a hop decides.
fn changeable(name: &str) -> Result<HeaderName, Reason> {
    let protected = [
        CONNECTION,
        CONTENT_LENGTH,
        HOST,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    let name = header_name(name)?;
    match protected.contains(&name) || matches!(name.as_str(), "keep-alive" | "proxy-connection") {
        true => Err(Reason::Protected(name.to_string())),
        false => Ok(name),
    }
}

#[cfg(test)]
mod tests;
