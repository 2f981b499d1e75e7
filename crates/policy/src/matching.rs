//! Whether a rule matches a connection.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;

/// Attributes of a connection at its destination.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// The peer's authenticated principal, `<trust domain>/ns/<namespace>/sa/<service account>` (no scheme);
    /// `None` for plaintext.
    pub principal: Option<&'a str>,
    /// The address of the client.
    pub source: IpAddr,
    /// Address and port of the application.
    pub destination: SocketAddr,
}

impl<'a> Connection<'a> {
    /// Namespace and service account of the principal.
    fn identity(&self) -> Option<(&'a str, &'a str)> {
        let (_, rest) = self.principal?.split_once("/ns/")?;
        rest.split_once("/sa/")
    }
}

/// How a string is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Present, and not empty.
    Presence,
}

impl StringMatch {
    pub(crate) fn matches(&self, value: Option<&str>) -> bool {
        let value = value.unwrap_or_default();
        match self {
            Self::Exact(exact) => value == exact,
            // Without a principal only `Exact` of an empty text matches.
            _ if value.is_empty() => false,
            Self::Prefix(prefix) => value.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => value.ends_with(suffix.as_str()),
            Self::Presence => true,
        }
    }
}

/// A service account of any trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountMatch {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
}

impl ServiceAccountMatch {
    fn matches(&self, identity: Option<(&str, &str)>) -> bool {
        identity == Some((&self.namespace, &self.service_account))
    }
}

/// Every field with values must match. Within a field one value is enough; none of its `not_` values may match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    missing_docs,
    reason = "the fields of istio.security.Match, under their own names"
)]
pub struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<ServiceAccountMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_ports: Vec<u16>,
}

impl Match {
    /// Whether no field is set. Such a match matches nothing: a truncated or misspelt rule must not match everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn matches(&self, connection: &Connection) -> bool {
        let identity = connection.identity();
        let namespace = identity.map(|(namespace, _)| namespace);
        !self.is_empty()
            && field(&self.namespaces, &self.not_namespaces, |m| m.matches(namespace))
            && field(&self.service_accounts, &self.not_service_accounts, |m| {
                m.matches(identity)
            })
            && field(&self.principals, &self.not_principals, |m| {
                m.matches(connection.principal)
            })
            && field(&self.source_ips, &self.not_source_ips, |net| {
                net.contains(&connection.source)
            })
            && field(&self.destination_ips, &self.not_destination_ips, |net| {
                net.contains(&connection.destination.ip())
            })
            && field(&self.destination_ports, &self.not_destination_ports, |port| {
                *port == connection.destination.port()
            })
    }
}

fn field<T>(any_of: &[T], none_of: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (any_of.is_empty() || any_of.iter().any(&matches)) && !none_of.iter().any(&matches)
}

/// One of these matches must match. An empty list always matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Clause(pub Vec<Match>);

/// All clauses ("from", "to", "when") must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Rule(pub Vec<Clause>);

impl Rule {
    pub(crate) fn matches(&self, connection: &Connection) -> bool {
        self.0
            .iter()
            .all(|clause| clause.0.is_empty() || clause.0.iter().any(|m| m.matches(connection)))
    }
}
