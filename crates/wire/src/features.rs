//! Features that this version understands beyond the fields that every version has.
//!
//! A message with rules lists in `requires` the features that its reader must support. An old reader drops fields that
//! it does not know, and an `Allow` rule without its newest condition allows more. So a message with an unknown feature
//! is rejected.

/// `load_balancing` with mode `STRICT`: endpoints of other nodes are never chosen.
pub const LOCAL: &str = "local";

/// `Service.others`: rules of other Services that also apply.
pub const RULE_SETS: &str = "rule-sets";

/// `Service.routes`: requests are routed.
pub const ROUTES: &str = "routes";

/// `Service.routes`, with a TCPRoute or TLSRoute among them: connections are routed.
pub const CONNECTION_ROUTES: &str = "connection-routes";
/// `RouteRule.policies` and `ServicePort.policies`: policies for a part of a Service's requests.
pub const SCOPED_POLICIES: &str = "scoped-policies";

const UNDERSTOOD: [&str; 5] = [LOCAL, RULE_SETS, ROUTES, CONNECTION_ROUTES, SCOPED_POLICIES];

/// The first feature in `requires` that this version does not support.
pub fn missing(requires: &[String]) -> Option<&str> {
    let mut requires = requires.iter().map(String::as_str);
    requires.find(|feature| !UNDERSTOOD.contains(feature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_missing() {
        assert_eq!(missing(&[]), None);
        assert_eq!(missing(&[LOCAL.to_owned()]), None);
        assert_eq!(missing(&[LOCAL.to_owned(), "later".to_owned()]), Some("later"));
    }
}
