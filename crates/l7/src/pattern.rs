//! Regular expressions with bounds. The dialect is that of the `regex` crate without Unicode tables, which is RE2's but
//! for `\p` classes and `\C`: linear time, no back-references, `\d \w \s` are ASCII. A pattern matches a whole value.

use std::collections::HashMap;

use regex::bytes::{Regex, RegexBuilder};

use crate::Reason;

/// The largest size of a compiled pattern, in bytes.
pub const PATTERN_SIZE_LIMIT: usize = 32 * 1024;

/// The longest value that is searched, in bytes. A search takes time in proportion to the size of the pattern times the
/// length of the value at worst; with both bounds that is some tens of milliseconds.
pub const PATTERN_VALUE_LIMIT: usize = 8 * 1024;

/// The memory that the lazy DFA of one pattern may take for each thread that searches; beyond, searches get slower.
const DFA_SIZE_LIMIT: usize = 32 * 1024;

/// The depth of groups.
const NEST_LIMIT: u32 = 32;

/// A compiled pattern. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

/// Patterns that were compiled already: many rules have the same one.
#[derive(Default)]
pub(crate) struct Patterns(HashMap<String, Result<Pattern, Reason>>);

impl Patterns {
    pub(crate) fn compile(&mut self, pattern: &str) -> Result<Pattern, Reason> {
        if let Some(known) = self.0.get(pattern) {
            return known.clone();
        }
        let compiled = compile(pattern);
        self.0.insert(pattern.to_owned(), compiled.clone());
        compiled
    }
}

fn compile(pattern: &str) -> Result<Pattern, Reason> {
    // Alone first: `a)|(b` is no pattern, although it would be one in the group below.
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z")).map(Pattern)
}

fn build(pattern: &str) -> Result<Regex, Reason> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .nest_limit(NEST_LIMIT)
        .size_limit(PATTERN_SIZE_LIMIT)
        .dfa_size_limit(DFA_SIZE_LIMIT)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => Reason::PatternSize(limit),
            // The crate draws the place in several lines; the last one says what is wrong.
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or_default();
                Reason::Pattern(last.trim_start_matches("error: ").to_owned())
            }
        })
}

/// Every value that the pattern matches begins with this. Taken from the text of the pattern, and empty in doubt. Most
/// searches are spared by comparing it first.
pub(crate) fn literal_prefix(pattern: &str) -> &str {
    if pattern.contains('|') {
        return "";
    }
    let end = pattern.find(|c: char| !c.is_ascii_alphanumeric() && !"/_-%~,=:@&!;".contains(c));
    let end = end.unwrap_or(pattern.len());
    match pattern.as_bytes().get(end) {
        // The character before may be absent.
        Some(b'?' | b'*' | b'{') => &pattern[..end.saturating_sub(1)],
        _ => &pattern[..end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, value: &str) -> bool {
        compile(pattern).unwrap().matches(value.as_bytes())
    }

    #[test]
    fn whole_value() {
        assert!(matches("/user/[0-9]+", "/user/12"));
        assert!(!matches("/user/[0-9]+", "/user/12/x"));
        assert!(!matches("/user/[0-9]+", "/v1/user/12"));
        // Neither an alternative nor a newline gets around it.
        assert!(!matches("a|b", "ab"));
        assert!(!matches("(?m)a$", "a\nb"));
        assert!(!matches("a$", "a\n"));
        // The leftmost alternative matches a part, the other one the whole.
        assert!(matches("a|ab", "ab"));
    }

    #[test]
    fn re2_classes_are_ascii() {
        assert!(matches(r"\d+", "123"));
        assert!(!matches(r"\d+", "١٢٣"));
        assert!(!matches(r"\w", "é"));
        assert!(matches("(?i)caf.+", "CAFé"));
        assert!(matches("é", "é"));
    }

    #[test]
    fn invalid_patterns() {
        for pattern in [
            "(",
            "a)|(b",
            r"(a)\1",
            "(?=a)",
            r"\p{Greek}",
            "[z-a]",
            "a{2,1}",
            "(?x)a # b",
        ] {
            let Err(Reason::Pattern(text)) = compile(pattern) else {
                panic!("{pattern}");
            };
            assert!(!text.is_empty() && !text.contains('\n'), "{pattern}: {text}");
        }
        assert!(matches!(compile(&"(".repeat(40)), Err(Reason::Pattern(_))));
        let deep = format!("{}{}", "(".repeat(40), ")".repeat(40));
        assert!(matches!(compile(&deep), Err(Reason::Pattern(_))));
    }

    #[test]
    fn large_patterns() {
        for pattern in [r"\w{10000}", "((a{100}){100}){100}", "(x{1,50}){1,50}"] {
            assert_eq!(
                compile(pattern).err(),
                Some(Reason::PatternSize(PATTERN_SIZE_LIMIT)),
                "{pattern}"
            );
        }
        // What people write has room.
        assert!(matches(
            "/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[A-Za-z0-9_-]{1,63}",
            "/01234567-89ab-cdef-0123-456789abcdef/orders"
        ));
    }

    #[test]
    fn literal_prefixes() {
        for (pattern, expected) in [
            ("/user/[0-9]+", "/user/"),
            ("/user/.*", "/user/"),
            ("/users?", "/user"),
            ("/users*/x", "/user"),
            ("/users{0,1}", "/user"),
            ("/users+", "/users"),
            ("/a.b", "/a"),
            (r"/v1\.0/x", "/v1"),
            ("/a/(x|y)", ""),
            ("(?i)/a", ""),
            ("(?x)/a b", ""),
            ("^/a", ""),
            ("?", ""),
            ("/plain", "/plain"),
        ] {
            assert_eq!(literal_prefix(pattern), expected, "{pattern}");
        }
    }

    // Linear time: a pattern that makes backtracking engines hang.
    #[test]
    fn no_backtracking() {
        let pattern = compile("(a+)+b").unwrap();
        assert!(!pattern.matches("a".repeat(60_000).as_bytes()));
    }
}
