//! The table of HTTP/1.

use crate::case::{Case, numbered};
use crate::{chunks, fields, lines};

/// The cases of HTTP/1, each with its number in its paths.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all: Vec<(String, String)> = Vec::new();
    all.extend(fields::encodings());
    all.extend(fields::lengths());
    all.extend(fields::others());
    all.extend(chunks::sizes());
    all.extend(chunks::ends());
    all.extend(lines::request_lines());
    all.extend(lines::methods());
    all.extend(lines::pipelines());
    all.into_iter()
        .enumerate()
        .map(|(number, (name, text))| Case::http1(name, numbered(&text, number)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn cases_differ() {
        let cases = cases();
        let different: BTreeSet<&[u8]> = cases.iter().map(|case| &case.bytes[..]).collect();
        assert_eq!(different.len(), cases.len());
        let second = cases.iter().filter(|case| case.second).count();
        println!("{} cases, {second} with two requests", cases.len());
        assert!(cases.len() > 400 && second > 5);
        // Numbers have four digits.
        assert!(cases.len() < 10_000);
    }
}
