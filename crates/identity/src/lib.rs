//! SPIFFE identities of workloads.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest SPIFFE id in bytes (SPIFFE-ID §2.3).
const MAX_LENGTH: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE-ID §2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is not the SPIFFE id of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdentityError {
    /// The scheme is missing or is another one.
    #[error("{0:?} does not begin with spiffe://")]
    Scheme(String),
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Path(String),
    /// Characters or lengths that the SPIFFE specification does not allow.
    #[error("{0:?} has a trust domain or path segment that SPIFFE does not allow")]
    Characters(String),
}

/// A workload's SPIFFE id, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`: the form that Istio uses
/// for Kubernetes service accounts. It follows the [SPIFFE-ID standard].
///
/// Cheap to clone. Two ids are equal if all their parts are.
///
/// [SPIFFE-ID standard]: https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// The id without its scheme.
    principal: Arc<str>,
    trust_domain: u16,
    namespace: u16,
}

impl SpiffeId {
    /// The id of a service account.
    ///
    /// # Errors
    /// When a part is empty or has characters that a SPIFFE id cannot contain.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, ParseIdentityError> {
        let principal = format!("{trust_domain}/ns/{namespace}/sa/{service_account}");
        let legal = trust_domain_is_legal(trust_domain)
            && segment_is_legal(namespace)
            && segment_is_legal(service_account)
            && principal.len() + "spiffe://".len() <= MAX_LENGTH;
        if !legal {
            return Err(ParseIdentityError::Characters(principal));
        }
        Ok(Self {
            // Both fit: the id is at most 2048 bytes long.
            trust_domain: trust_domain.len() as u16,
            namespace: namespace.len() as u16,
            principal: principal.into(),
        })
    }

    /// The trust domain, `cluster.local` in `spiffe://cluster.local/ns/a/sa/b`.
    pub fn trust_domain(&self) -> &str {
        &self.principal[..usize::from(self.trust_domain)]
    }

    /// The service account's namespace.
    pub fn namespace(&self) -> &str {
        let start = usize::from(self.trust_domain) + "/ns/".len();
        &self.principal[start..start + usize::from(self.namespace)]
    }

    /// The service account's name.
    pub fn service_account(&self) -> &str {
        let start =
            usize::from(self.trust_domain) + "/ns/".len() + usize::from(self.namespace) + "/sa/".len();
        &self.principal[start..]
    }

    /// The id without its scheme, as authorization rules name it.
    pub fn principal(&self) -> &str {
        &self.principal
    }
}

impl FromStr for SpiffeId {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text
            .split_at_checked("spiffe://".len())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("spiffe://"))
            .map(|(_, rest)| rest)
            .ok_or_else(|| ParseIdentityError::Scheme(text.to_owned()))?;
        let mut parts = rest.split('/');
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) => {
                Self::new(trust_domain, namespace, service_account)
            }
            _ => Err(ParseIdentityError::Path(text.to_owned())),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.principal)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn trust_domain_is_legal(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_TRUST_DOMAIN
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

fn segment_is_legal(segment: &str) -> bool {
    !segment.is_empty()
        && segment != "."
        && segment != ".."
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_text_agree() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "cart");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(id, SpiffeId::new("cluster.local", "shop", "cart").unwrap());
    }

    #[test]
    fn a_namespace_cannot_be_shifted_into_the_service_account() {
        let one = SpiffeId::new("td", "a", "b").unwrap();
        assert!(SpiffeId::new("td", "a/sa/b", "c").is_err());
        assert_ne!(one, SpiffeId::new("td", "b", "a").unwrap());
    }

    #[test]
    fn what_is_no_workload_id_is_refused() {
        for text in [
            "",
            "spiffe",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/b?q",
            "spiffe://cluster.local/ns/a/sa/b c",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
