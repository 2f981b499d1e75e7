//! What readers of this version understand beyond the fields that every version has.
//!
//! A message that carries rules names in `requires` what its reader must understand: an old reader drops fields that it does not know, and
//! an `Allow` without its newest condition allows more. What is not in this list is closed.

/// `load_balancing` with mode `STRICT`: endpoints of other nodes are never chosen.
pub const LOCAL: &str = "local";

/// `Service.others`: rules of other Services that hold too.
pub const RULE_SETS: &str = "rule-sets";

const UNDERSTOOD: [&str; 2] = [LOCAL, RULE_SETS];

/// The first of `requires` that this version does not understand.
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
