//! Converts `istio.security.Authorization` to the types of the policy engine.

use std::net::IpAddr;

use ambit_policy::{
    Action, Clause, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use ipnet::IpNet;
use thiserror::Error;

use crate::{features, security};

/// Why an authorization was rejected. It is rejected as a whole, since a part of a rule would have another meaning.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AuthorizationError {
    /// A required field is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// An enumeration has a value that this version does not have.
    #[error("{field} has the unknown value {value}")]
    UnknownValue {
        /// The field.
        field: &'static str,
        /// Its number.
        value: i32,
    },
    /// An invalid address block.
    #[error("{0} holds an invalid address block ({1} bytes, prefix length {2})")]
    AddressBlock(&'static str, usize, u32),
    /// A port beyond 65535.
    #[error("{0} holds the port {1}, which is above 65535")]
    Port(&'static str, u32),
    /// A string match without a known kind.
    #[error("{0} holds a match of no known kind")]
    StringMatch(&'static str),
    /// An extension changes what the policy means.
    #[error("it has the extension {0:?}, which is not supported")]
    Extension(String),
    /// It requires a feature of a later version.
    #[error("it requires {0:?}, which this version does not have")]
    Requires(String),
}

impl AuthorizationError {
    /// Whether the last applied version may not stay in force either, because this one requires a later version of the
    /// program.
    pub fn is_of_a_later_version(&self) -> bool {
        matches!(self, Self::Requires(_))
    }
}

impl TryFrom<security::Authorization> for Policy {
    type Error = AuthorizationError;

    fn try_from(from: security::Authorization) -> Result<Self, AuthorizationError> {
        if let Some(feature) = features::missing(&from.requires) {
            return Err(AuthorizationError::Requires(feature.to_owned()));
        }
        let scope = match from.scope() {
            _ if security::Scope::try_from(from.scope).is_err() => {
                return Err(AuthorizationError::UnknownValue {
                    field: "scope",
                    value: from.scope,
                });
            }
            security::Scope::Global => Scope::Global,
            security::Scope::Namespace => Scope::Namespace,
            security::Scope::WorkloadSelector => Scope::WorkloadSelector,
        };
        let action = match from.action() {
            _ if security::Action::try_from(from.action).is_err() => {
                return Err(AuthorizationError::UnknownValue {
                    field: "action",
                    value: from.action,
                });
            }
            security::Action::Allow => Action::Allow,
            security::Action::Deny => Action::Deny,
        };
        if let Some(extension) = from.extensions.into_iter().next() {
            return Err(AuthorizationError::Extension(extension.name));
        }
        if from.name.is_empty() {
            return Err(AuthorizationError::Empty("name"));
        }
        Ok(Policy {
            name: PolicyName {
                namespace: from.namespace,
                name: from.name,
            },
            scope,
            action,
            rules: from.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
            audit: from.dry_run,
        })
    }
}

/// The fallback for a rejected authorization without a last applied version: a `DENY` matches every connection that it
/// applies to, an `ALLOW` none. Audit policies still decide nothing. If the scope is not understood either, the policy
/// applies to its namespace.
pub fn closed(from: &security::Authorization) -> Policy {
    let deny = !matches!(
        security::Action::try_from(from.action),
        Ok(security::Action::Allow)
    );
    Policy {
        name: PolicyName {
            namespace: from.namespace.clone(),
            name: from.name.clone(),
        },
        scope: match security::Scope::try_from(from.scope) {
            Ok(security::Scope::Global) => Scope::Global,
            Ok(security::Scope::WorkloadSelector) => Scope::WorkloadSelector,
            Ok(security::Scope::Namespace) | Err(_) => Scope::Namespace,
        },
        action: if deny { Action::Deny } else { Action::Allow },
        // A rule without clauses matches every connection.
        rules: if deny { vec![Rule::default()] } else { Vec::new() },
        audit: from.dry_run,
    }
}

fn rule(from: security::Rule) -> Result<Rule, AuthorizationError> {
    let clause = |c: security::Clause| {
        c.matches
            .into_iter()
            .map(one_match)
            .collect::<Result<_, _>>()
            .map(Clause)
    };
    from.clauses
        .into_iter()
        .map(clause)
        .collect::<Result<_, _>>()
        .map(Rule)
}

fn one_match(from: security::Match) -> Result<Match, AuthorizationError> {
    if let Some(extension) = from.extensions.into_iter().next() {
        return Err(AuthorizationError::Extension(extension.name));
    }
    Ok(Match {
        namespaces: strings("namespaces", from.namespaces)?,
        not_namespaces: strings("not_namespaces", from.not_namespaces)?,
        service_accounts: accounts(from.service_accounts),
        not_service_accounts: accounts(from.not_service_accounts),
        principals: strings("principals", from.principals)?,
        not_principals: strings("not_principals", from.not_principals)?,
        source_ips: blocks("source_ips", from.source_ips)?,
        not_source_ips: blocks("not_source_ips", from.not_source_ips)?,
        destination_ips: blocks("destination_ips", from.destination_ips)?,
        not_destination_ips: blocks("not_destination_ips", from.not_destination_ips)?,
        destination_ports: ports("destination_ports", from.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", from.not_destination_ports)?,
    })
}

fn strings(
    field: &'static str,
    from: Vec<security::StringMatch>,
) -> Result<Vec<StringMatch>, AuthorizationError> {
    from.into_iter()
        .map(|m| string_match(m).ok_or(AuthorizationError::StringMatch(field)))
        .collect()
}

/// `None` for a match of no known kind.
pub(crate) fn string_match(from: security::StringMatch) -> Option<StringMatch> {
    use security::string_match::MatchType;
    Some(match from.match_type? {
        MatchType::Exact(text) => StringMatch::Exact(text),
        MatchType::Prefix(text) => StringMatch::Prefix(text),
        MatchType::Suffix(text) => StringMatch::Suffix(text),
        MatchType::Presence(()) => StringMatch::Presence,
    })
}

fn accounts(from: Vec<security::ServiceAccountMatch>) -> Vec<ServiceAccountMatch> {
    from.into_iter()
        .map(|m| ServiceAccountMatch {
            namespace: m.namespace,
            service_account: m.service_account,
        })
        .collect()
}

fn blocks(field: &'static str, from: Vec<security::Address>) -> Result<Vec<IpNet>, AuthorizationError> {
    from.into_iter()
        .map(|block| {
            let invalid = || AuthorizationError::AddressBlock(field, block.address.len(), block.length);
            let address = address(&block.address).ok_or_else(invalid)?;
            let length = u8::try_from(block.length).map_err(|_| invalid())?;
            IpNet::new(address, length).map_err(|_| invalid())
        })
        .collect()
}

fn ports(field: &'static str, from: Vec<u32>) -> Result<Vec<u16>, AuthorizationError> {
    from.into_iter()
        .map(|p| u16::try_from(p).map_err(|_| AuthorizationError::Port(field, p)))
        .collect()
}

/// An address from its 4 or 16 bytes in network byte order.
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// The bytes of an address in network byte order.
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(one: security::Match) -> security::Authorization {
        security::Authorization {
            name: "stop".into(),
            namespace: "shop".into(),
            action: security::Action::Deny.into(),
            rules: vec![security::Rule {
                clauses: vec![security::Clause { matches: vec![one] }],
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_whole_policy_is_understood() {
        let one = security::Match {
            source_ips: vec![security::Address {
                address: vec![10, 0, 0, 0],
                length: 8,
            }],
            destination_ports: vec![443],
            ..Default::default()
        };
        let policy = Policy::try_from(with(one)).unwrap();
        assert_eq!(policy.name.to_string(), "shop/stop");
        let only = &policy.rules[0].0[0].0[0];
        assert_eq!(only.source_ips, ["10.0.0.0/8".parse::<IpNet>().unwrap()]);
        assert_eq!(only.destination_ports, [443]);
    }

    #[test]
    fn what_is_not_understood_closes() {
        use ambit_policy::{Connection, Policies, Target};
        let connection = Connection {
            principal: Some("cluster.local/ns/shop/sa/cart"),
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
        };
        let target = Target {
            namespace: "shop",
            policies: &[],
        };
        let decide = |authorization: &security::Authorization| {
            let mut policies = Policies::default();
            policies.insert(closed(authorization));
            policies.evaluate(&connection, target)
        };
        let bad = |action| security::Authorization {
            scope: security::Scope::Namespace.into(),
            action,
            ..with(security::Match {
                destination_ports: vec![70_000],
                ..Default::default()
            })
        };
        for action in [security::Action::Deny.into(), security::Action::Allow.into(), 7] {
            assert!(Policy::try_from(bad(action)).is_err());
            assert!(!decide(&bad(action)).is_allowed(), "action {action}");
        }
        let audit = security::Authorization {
            dry_run: true,
            ..bad(security::Action::Deny.into())
        };
        assert!(decide(&audit).is_allowed());
        assert_eq!(decide(&audit).audited, ["shop/stop"]);
    }

    #[test]
    fn what_a_later_version_requires_closes() {
        let from = security::Authorization {
            requires: vec!["later".into()],
            ..with(security::Match::default())
        };
        let error = Policy::try_from(from).unwrap_err();
        assert_eq!(error, AuthorizationError::Requires("later".into()));
        assert!(error.is_of_a_later_version());
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_field() {
        let block = |address: Vec<u8>, length| security::Match {
            source_ips: vec![security::Address { address, length }],
            ..Default::default()
        };
        let cases = [
            (
                block(vec![10, 0, 0], 8),
                AuthorizationError::AddressBlock("source_ips", 3, 8),
            ),
            (
                block(vec![10, 0, 0, 0], 33),
                AuthorizationError::AddressBlock("source_ips", 4, 33),
            ),
            (
                security::Match {
                    destination_ports: vec![70_000],
                    ..Default::default()
                },
                AuthorizationError::Port("destination_ports", 70_000),
            ),
            (
                security::Match {
                    principals: vec![Default::default()],
                    ..Default::default()
                },
                AuthorizationError::StringMatch("principals"),
            ),
        ];
        for (one, error) in cases {
            assert_eq!(Policy::try_from(with(one)), Err(error));
        }
        let unknown = security::Authorization {
            action: 7,
            ..with(Default::default())
        };
        assert_eq!(
            Policy::try_from(unknown),
            Err(AuthorizationError::UnknownValue {
                field: "action",
                value: 7
            })
        );
    }
}
