//! The chart's values.yaml: values, and what the comments above them say.
//!
//! A comment describes the key below it. Lines that begin with `@` are for the schema: `@type NAME` (see
//! [`super::schema`]), `@schema {…}` (JSON that is merged into the schema), `@like PATH` (keys without a comment are as
//! those of the same name below PATH).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use serde_yaml::Mapping;

/// What is said about one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Note {
    /// The description.
    pub(super) text: String,
    /// Name of a type that the value alone does not tell.
    pub(super) kind: Option<String>,
    /// Merged into the schema.
    pub(super) schema: Map<String, Value>,
    like: Option<String>,
}

/// The file.
pub(super) struct Values {
    /// The default values, in the file's order.
    pub(super) defaults: Mapping,
    notes: BTreeMap<String, Note>,
}

impl Values {
    /// Reads the text of a values.yaml.
    pub(super) fn read(text: &str) -> Result<Self> {
        Ok(Self {
            defaults: serde_yaml::from_str(text).context("values.yaml")?,
            notes: notes(text)?,
        })
    }

    /// The note on the key at `path`, its own or the one that it is like.
    pub(super) fn note(&self, path: &str) -> Result<&Note> {
        let mut at = path.to_owned();
        loop {
            match self.notes.get(&at) {
                Some(note) if !note.text.is_empty() => return Ok(note),
                _ => {
                    at = self
                        .alike(&at)
                        .with_context(|| format!("values.yaml: {path} has no comment"))?
                }
            }
        }
    }

    /// The path that a key is like, by the nearest key above it that says so.
    fn alike(&self, path: &str) -> Option<String> {
        let mut above = path;
        loop {
            let rest = &path[above.len()..];
            let like = self.notes.get(above).and_then(|note| note.like.as_deref());
            if let (Some(like), false) = (like, rest.is_empty()) {
                return Some(format!("{like}{rest}"));
            }
            above = above.rsplit_once('.')?.0;
        }
    }
}

/// Path and value of each key in a mapping at `path`.
pub(super) fn children<'a>(
    path: &str,
    of: &'a Mapping,
) -> impl Iterator<Item = (String, &'a serde_yaml::Value)> {
    let path = path.to_owned();
    of.iter()
        .filter_map(move |(key, value)| Some((join(&path, key.as_str()?), value)))
}

/// The path of a key below `path`.
fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn notes(text: &str) -> Result<BTreeMap<String, Note>> {
    let mut notes = BTreeMap::new();
    let mut pending = Note::default();
    // Indentation and path of each key that is open.
    let mut open: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        if let Some(comment) = trimmed.strip_prefix('#') {
            pending
                .add(comment.trim())
                .with_context(|| format!("values.yaml: {line}"))?;
        } else if let Some((key, _)) = trimmed.split_once(':') {
            let indentation = line.len() - trimmed.len();
            open.retain(|(outer, _)| *outer < indentation);
            let above = open.last().map_or("", |(_, path)| path);
            let path = join(above, key);
            open.push((indentation, path.clone()));
            notes.insert(path, std::mem::take(&mut pending));
        } else {
            pending = Note::default();
        }
    }
    Ok(notes)
}

impl Note {
    fn add(&mut self, comment: &str) -> Result<()> {
        match comment.split_once(' ') {
            Some(("@type", kind)) => self.kind = Some(kind.to_owned()),
            Some(("@like", path)) => self.like = Some(path.to_owned()),
            Some(("@schema", json)) => self.schema = serde_json::from_str(json)?,
            _ => {
                if !self.text.is_empty() {
                    self.text.push(' ');
                }
                self.text.push_str(comment);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_belong_to_the_key_below() {
        let text = "# A part.\na:\n  # One,\n  # and more.\n  # @schema {\"minimum\": 1}\n  one: 1\n  # @type strings\n  # Two.\n  two: {}\n\
                    # Not of b.\n\n# As a.\n# @like a\nb:\n  one: 2\n  two: {}\nc: 1\n";
        let values = Values::read(text).unwrap();
        let note = |path: &str| values.note(path).unwrap().clone();
        assert_eq!(note("a.one").text, "One, and more.");
        assert_eq!(note("a.one").schema["minimum"], 1);
        assert_eq!(note("a.two").kind.as_deref(), Some("strings"));
        assert_eq!(note("b").text, "As a.");
        assert_eq!(note("b.one"), note("a.one"));
        assert!(
            values
                .note("c")
                .unwrap_err()
                .to_string()
                .contains("c has no comment")
        );
        assert!(values.note("b.three").is_err());
        assert_eq!(values.defaults["b"]["one"], 2);
    }
}
