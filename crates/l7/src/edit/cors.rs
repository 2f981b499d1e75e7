//! Cross-origin resource sharing (`HTTPCORSFilter`, GEP-1767; the Fetch standard, section "CORS protocol").
//!
//! The filter is the authority: a backend's own CORS headers are replaced, also where the filter allows nothing.
//!
//! Where the API leaves a choice:
//! - a preflight from an origin that is not allowed gets status 403, one that is allowed 204;
//! - `*` without credentials becomes `*`, except for request headers, which are echoed: to browsers `*` does
//!   not include `Authorization`, and to the API it does;
//! - `*` in `exposeHeaders` with credentials, which browsers take for a name, becomes the names of the response's
//!   headers.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, VARY,
};
use http::{Method, StatusCode};

use crate::error::{At, FieldResult};
use crate::matching::header_name;
use crate::{CorsSpec, Reason};

mod origin;

use origin::Origins;

const WILDCARD: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The API's default, in seconds.
const DEFAULT_MAX_AGE: u32 = 5;

/// A compiled `CORS` filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    origins: Origins,
    credentials: bool,
    methods: Names,
    headers: Names,
    expose: Names,
    max_age: HeaderValue,
}

/// A list of methods or header names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    None,
    Any,
    /// Joined by commas.
    List(HeaderValue),
}

/// The response to a preflight.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// Its status: it has no body.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
}

/// What the response to an actual request gets: made from the request, applied to the response.
#[derive(Debug, Clone)]
pub struct CorsResponse<'a> {
    cors: &'a Cors,
    /// The request's `Origin`.
    origin: Option<HeaderValue>,
    allowed: bool,
}

impl Cors {
    pub(crate) fn compile(spec: &CorsSpec) -> FieldResult<Self> {
        for (i, method) in spec.allow_methods.iter().enumerate() {
            Method::from_bytes(method.as_bytes())
                .map_err(|_| Reason::Method(method.clone()))
                .at(format_args!("allowMethods[{i}]"))?;
        }
        if spec.max_age == Some(0) {
            return Err(Reason::MaxAge).at("maxAge");
        }
        Ok(Self {
            origins: Origins::compile(&spec.allow_origins)?,
            credentials: spec.allow_credentials,
            methods: Names::compile(&spec.allow_methods).at("allowMethods")?,
            headers: Names::of_headers("allowHeaders", &spec.allow_headers)?,
            expose: Names::of_headers("exposeHeaders", &spec.expose_headers)?,
            max_age: spec.max_age.unwrap_or(DEFAULT_MAX_AGE).into(),
        })
    }

    /// The response, if this is a preflight: it is not forwarded.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<Preflight> {
        let origin = request.get(ORIGIN)?;
        let requested = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if *method != Method::OPTIONS {
            return None;
        }
        let mut headers = HeaderMap::new();
        if !self.allow_origin(origin, &mut headers) {
            return Some(Preflight {
                status: StatusCode::FORBIDDEN,
                headers,
            });
        }
        match &self.methods {
            Names::None => {}
            Names::Any if self.credentials => {
                drop(headers.insert(ACCESS_CONTROL_ALLOW_METHODS, requested.clone()))
            }
            Names::Any => drop(headers.insert(ACCESS_CONTROL_ALLOW_METHODS, WILDCARD)),
            Names::List(list) => drop(headers.insert(ACCESS_CONTROL_ALLOW_METHODS, list.clone())),
        }
        match &self.headers {
            Names::None => {}
            Names::Any => {
                for requested in request.get_all(ACCESS_CONTROL_REQUEST_HEADERS) {
                    headers.append(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
                }
            }
            Names::List(list) => drop(headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, list.clone())),
        }
        match &self.expose {
            Names::Any if !self.credentials => drop(headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, WILDCARD)),
            Names::None | Names::Any => {}
            Names::List(list) => drop(headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, list.clone())),
        }
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        Some(Preflight {
            status: StatusCode::NO_CONTENT,
            headers,
        })
    }

    /// What the response to this request gets. Every request that is not a preflight is forwarded: that a browser does
    /// not show a response to a foreign page is the browser's part.
    pub fn actual(&self, request: &HeaderMap) -> CorsResponse<'_> {
        let origin = request.get(ORIGIN).cloned();
        CorsResponse {
            cors: self,
            allowed: origin.as_ref().is_some_and(|origin| self.origins.allow(origin)),
            origin,
        }
    }

    /// The headers that say whether this origin may read the response.
    fn allow_origin(&self, origin: &HeaderValue, headers: &mut HeaderMap) -> bool {
        let allowed = self.origins.allow(origin);
        self.insert_origin(Some(origin).filter(|_| allowed), headers);
        allowed
    }

    /// `origin` is the request's, if it is allowed.
    fn insert_origin(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let same_for_all = self.origins == Origins::Any && !self.credentials;
        if !same_for_all {
            vary_by_origin(headers);
        }
        let Some(origin) = origin else {
            return;
        };
        let value = if same_for_all { WILDCARD } else { origin.clone() };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
    }
}

impl CorsResponse<'_> {
    /// Changes the headers of the response.
    pub fn apply(&self, response: &mut HeaderMap) {
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            response.remove(name);
        }
        let cors = self.cors;
        let origin = self.origin.as_ref().filter(|_| self.allowed);
        let exposed = match &cors.expose {
            _ if origin.is_none() => None,
            Names::None => None,
            Names::Any if cors.credentials => names_of(response),
            Names::Any => Some(WILDCARD),
            Names::List(list) => Some(list.clone()),
        };
        cors.insert_origin(origin, response);
        if let Some(exposed) = exposed {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

impl Names {
    fn compile(names: &[String]) -> Result<Self, Reason> {
        match names {
            [] => Ok(Self::None),
            [only] if only == "*" => Ok(Self::Any),
            names if names.iter().any(|name| name == "*") => Err(Reason::WildcardNotAlone),
            names => {
                let list = HeaderValue::try_from(names.join(", ")).map_err(|_| Reason::HeaderValue)?;
                Ok(Self::List(list))
            }
        }
    }

    fn of_headers(field: &str, names: &[String]) -> FieldResult<Self> {
        for (i, name) in names.iter().enumerate() {
            header_name(name).at(format_args!("{field}[{i}]"))?;
        }
        Self::compile(names).at(field)
    }
}

/// Shared caches must not give one origin's response to another one.
fn vary_by_origin(headers: &mut HeaderMap) {
    let named = |value: &HeaderValue| {
        let names = value.to_str().unwrap_or_default().split(',');
        names
            .map(str::trim)
            .any(|name| name == "*" || name.eq_ignore_ascii_case(ORIGIN.as_str()))
    };
    if !headers.get_all(VARY).iter().any(named) {
        headers.append(VARY, HeaderValue::from_name(ORIGIN));
    }
}

/// The names of all headers, joined by commas.
fn names_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", "))
        .ok()
        .filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests;
