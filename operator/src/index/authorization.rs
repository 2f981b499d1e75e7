//! Rules of an AmbientNamespace as authorizations on the wire.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ambit_crds::{Action, AuthorizationRule, Mode, MtlsMode, PodSelector, Source};
use ambit_wire::{names, security};
use ipnet::IpNet;
use security::string_match::MatchType;

use super::PodRecord;

/// Most characters that the sources of a namespace's rules have together: each edit of them goes to all nodes with a pod of the namespace.
pub(super) const MOST_TEXT: usize = 64 << 10;

/// Why a rule is not in force as it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RuleError {
    /// The API server's validation lets no such block pass; this is for objects from before it.
    #[error("ipBlocks: {0:?} is neither a CIDR block nor an IP address")]
    Block(String),
    /// The namespace's budget.
    #[error(
        "from: the sources of the namespace's rules up to this one have {0} characters together, and the \
         limit is {MOST_TEXT}: shorten them, or replace many sources by one that ends in '*'"
    )]
    Budget(usize),
}

/// `rules` of `namespace`, on the wire, or why not: what they have together is bounded, the first ones go first.
pub(super) fn read(
    namespace: &str,
    rules: &[AuthorizationRule],
) -> impl Iterator<Item = Result<security::Authorization, RuleError>> {
    let mut text = 0;
    rules.iter().map(move |rule| {
        let sources = rule.from.iter();
        let texts = sources.flat_map(|s| s.principals.iter().chain(&s.namespaces).chain(&s.ip_blocks));
        text += texts.map(|t| t.chars().count()).sum::<usize>();
        if text > MOST_TEXT {
            return Err(RuleError::Budget(text));
        }
        encode(namespace, rule)
    })
}

/// `rule` of `namespace`, on the wire.
fn encode(namespace: &str, rule: &AuthorizationRule) -> Result<security::Authorization, RuleError> {
    let mut clauses = Vec::new();
    if !rule.from.is_empty() {
        let matches = rule.from.iter().map(source).collect::<Result<_, _>>()?;
        clauses.push(security::Clause { matches });
    }
    if !rule.ports.is_empty() {
        let destination_ports = rule.ports.iter().copied().map(u32::from).collect();
        clauses.push(security::Clause {
            matches: vec![security::Match {
                destination_ports,
                ..Default::default()
            }],
        });
    }
    Ok(security::Authorization {
        rules: vec![security::Rule { clauses }],
        ..head(namespace, rule)
    })
}

/// What is sent for `rules`, one by one. One that cannot be read closes, whatever was in force before: what a replica sends depends on nothing
/// that only it has seen.
pub(super) fn in_force(
    namespace: &str,
    rules: &[AuthorizationRule],
) -> impl Iterator<Item = security::Authorization> {
    let read = read(namespace, rules);
    read.zip(rules)
        .map(move |(read, rule)| read.unwrap_or_else(|_| closed(namespace, rule)))
}

/// In the place of a rule that cannot be read: a Deny matches every connection in its scope, an Allow none.
fn closed(namespace: &str, rule: &AuthorizationRule) -> security::Authorization {
    let rules = match rule.action {
        Action::Allow => Vec::new(),
        // A rule without clauses matches everything.
        Action::Deny => vec![security::Rule::default()],
    };
    security::Authorization {
        rules,
        ..head(namespace, rule)
    }
}

/// Name of a rule's authorization: the rule's own, as the variant for selected pods if it is that, and never that of a guard.
///
/// What a rule applies to is said in two places, its scope and what workloads name, which do not reach a proxy at one moment. As an
/// authorization of another name the rule is in force in both ways in between, and never in none.
pub(super) fn wire_name(rule: &AuthorizationRule) -> String {
    let variant = match rule.pod_selector {
        Some(_) => "selecting",
        None if rule.name.starts_with(names::GUARD_PREFIX) => "rule",
        None => return rule.name.clone(),
    };
    format!("{variant}{}{}", names::POLICY_VARIANT_END, rule.name)
}

/// The same with its namespace, as workloads name it.
pub(super) fn full_name(namespace: &str, rule: &AuthorizationRule) -> String {
    format!("{namespace}/{}", wire_name(rule))
}

/// All of `rule` but what it matches.
fn head(namespace: &str, rule: &AuthorizationRule) -> security::Authorization {
    let scope = match rule.pod_selector {
        None => security::Scope::Namespace,
        Some(_) => security::Scope::WorkloadSelector,
    };
    let action = match rule.action {
        Action::Allow => security::Action::Allow,
        Action::Deny => security::Action::Deny,
    };
    security::Authorization {
        name: wire_name(rule),
        namespace: namespace.to_owned(),
        scope: scope.into(),
        action: action.into(),
        rules: Vec::new(),
        dry_run: rule.mode == Mode::Audit,
        extensions: Vec::new(),
        requires: Vec::new(),
    }
}

/// Strict mTLS: callers without an identity are denied.
pub(super) fn strict(system_namespace: &str) -> security::Authorization {
    strict_on(
        system_namespace,
        names::STRICT_POLICY.to_owned(),
        Vec::new(),
        Vec::new(),
    )
}

/// Name of a namespace's authorization for ports with another mode than the others. No rule's is like it.
pub(super) fn strict_by_port_name() -> String {
    format!("mtls{}{}", names::POLICY_VARIANT_END, names::STRICT_POLICY)
}

/// The same for a namespace whose mode is `mode` but for these ports; `None` where they have no other.
pub(super) fn strict_by_port(
    namespace: &str,
    mode: MtlsMode,
    ports: &BTreeMap<u16, MtlsMode>,
) -> Option<security::Authorization> {
    let others = ports.iter().filter(|(_, of_port)| **of_port != mode);
    let others: Vec<u32> = others.map(|(port, _)| u32::from(*port)).collect();
    if others.is_empty() {
        return None;
    }
    let (only, but) = match mode {
        MtlsMode::Strict => (Vec::new(), others),
        MtlsMode::Permissive => (others, Vec::new()),
    };
    Some(strict_on(namespace, strict_by_port_name(), only, but))
}

fn strict_on(namespace: &str, name: String, only: Vec<u32>, but: Vec<u32>) -> security::Authorization {
    let presence = security::StringMatch {
        match_type: Some(MatchType::Presence(())),
    };
    let deny = security::Match {
        not_principals: vec![presence],
        destination_ports: only,
        not_destination_ports: but,
        ..Default::default()
    };
    security::Authorization {
        name,
        namespace: namespace.to_owned(),
        scope: security::Scope::WorkloadSelector.into(),
        action: security::Action::Deny.into(),
        rules: vec![security::Rule {
            clauses: vec![security::Clause { matches: vec![deny] }],
        }],
        ..Default::default()
    }
}

/// Whether `selector` selects `pod`. No selector selects all.
pub(super) fn selects(selector: Option<&PodSelector>, pod: &PodRecord) -> bool {
    selector.is_none_or(|selector| selector.selects(&pod.labels))
}

fn source(source: &Source) -> Result<security::Match, RuleError> {
    Ok(security::Match {
        principals: source.principals.iter().map(|p| string_match(p)).collect(),
        namespaces: source.namespaces.iter().map(|n| string_match(n)).collect(),
        source_ips: source
            .ip_blocks
            .iter()
            .map(|b| block(b))
            .collect::<Result<_, _>>()?,
        ..Default::default()
    })
}

/// Text with one `*` at most, at the beginning or the end.
pub(super) fn string_match(text: &str) -> security::StringMatch {
    let match_type = if text == "*" {
        MatchType::Presence(())
    } else if let Some(suffix) = text.strip_prefix('*') {
        MatchType::Suffix(suffix.to_owned())
    } else if let Some(prefix) = text.strip_suffix('*') {
        MatchType::Prefix(prefix.to_owned())
    } else {
        MatchType::Exact(text.to_owned())
    };
    security::StringMatch {
        match_type: Some(match_type),
    }
}

fn block(text: &str) -> Result<security::Address, RuleError> {
    let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net.trunc(),
        (_, Ok(address)) => IpNet::from(address),
        _ => return Err(RuleError::Block(text.to_owned())),
    };
    Ok(security::Address {
        address: bytes(net.addr()),
        length: u32::from(net.prefix_len()),
    })
}

/// The address in network byte order, as the wire has it.
pub(super) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
