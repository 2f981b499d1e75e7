//! Release notes from the log: the commits since the release before, by the part that they change.

use std::fmt::Write;

use anyhow::Result;
use semver::Version;

use super::Source;
use super::source::git;

/// Headings, and the prefixes of commit messages that belong under each. The first has what users notice most.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Operator and control plane",
        &["operator", "control", "index", "mesh"],
    ),
    ("Node agent", &["agent"]),
    ("ztunnel", &["ztunnel", "tunnel", "hbone"]),
    ("Waypoints", &["waypoint"]),
    ("Chart and kinds", &["chart", "charts", "crds", "examples"]),
    (
        "Shared libraries",
        &["identity", "l7", "policy", "runtime", "tls", "wire", "xds"],
    ),
    ("Documentation", &["docs", "readme"]),
    (
        "Development",
        &[
            "bench", "ci", "demo", "dev", "e2e", "fuzz", "sample", "tilt", "xtask",
        ],
    ),
];

/// Commits without a prefix, or with one that is in no group.
const OTHER: &str = "Other";

/// The notes in Markdown. `about` are paragraphs between the title and the changes.
pub(super) fn notes(source: &Source, about: &str) -> Result<String> {
    let before = previous(&git(&["tag", "--merged", "HEAD"])?, &source.version);
    let range = before
        .as_ref()
        .map_or("HEAD".to_owned(), |tag| format!("{tag}..HEAD"));
    // Git's own choice of the length depends on how many objects the clone has.
    let log = git(&["log", "--no-merges", "--abbrev=12", "--format=%h %s", &range])?;
    let mut text = format!("# Ambit {}\n\n", source.version);
    writeln!(text, "Commit {} of {}.\n", source.commit, source.date()?)?;
    text += about;
    text += "## Changes\n\n";
    match before {
        Some(tag) => writeln!(text, "Since {tag}:\n")?,
        None => writeln!(text, "This is the first release.\n")?,
    }
    text += &changes(&log)?;
    Ok(text)
}

/// The tag of the latest release before `version`.
fn previous(tags: &str, version: &Version) -> Option<String> {
    tags.lines()
        .filter_map(|tag| Some((Version::parse(tag.strip_prefix('v')?).ok()?, tag)))
        .filter(|(tagged, _)| tagged < version)
        .max()
        .map(|(_, tag)| tag.to_owned())
}

/// The commits of a log (a line each: hash, space, subject) under the headings of their groups.
fn changes(log: &str) -> Result<String> {
    let commits: Vec<(&str, &str)> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    let headings = GROUPS.iter().map(|(heading, _)| *heading).chain([OTHER]);
    let mut text = String::new();
    for heading in headings {
        let group: Vec<_> = commits
            .iter()
            .filter(|(_, subject)| group(subject) == heading)
            .collect();
        if group.is_empty() {
            continue;
        }
        writeln!(text, "### {heading}\n")?;
        for (hash, subject) in group {
            writeln!(text, "- {subject} ({hash})")?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// The heading for a commit: that of the first word of its prefix.
fn group(subject: &str) -> &'static str {
    let prefix = subject.split_once(": ").map_or("", |(prefix, _)| prefix);
    let word = prefix.split([',', ' ', '/']).find(|word| !word.is_empty());
    let word = word.unwrap_or_default().trim_start_matches('.').to_lowercase();
    GROUPS
        .iter()
        .find(|(_, prefixes)| prefixes.contains(&word.as_str()))
        .map_or(OTHER, |(heading, _)| heading)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_grouped_by_their_prefix() {
        let log = "aaa Read once more: all of it\nbbb operator: one\nccc agent, ztunnel: two\nddd xtask bench l4: three\n\
                   eee .ci/run: four\nfff operator: five\n111 a subject with no prefix";
        let expected = "### Operator and control plane\n\n- operator: one (bbb)\n- operator: five (fff)\n\n\
                        ### Node agent\n\n- agent, ztunnel: two (ccc)\n\n\
                        ### Development\n\n- xtask bench l4: three (ddd)\n- .ci/run: four (eee)\n\n\
                        ### Other\n\n- Read once more: all of it (aaa)\n- a subject with no prefix (111)\n\n";
        assert_eq!(changes(log).unwrap(), expected);
    }

    #[test]
    fn the_release_before_is_the_latest_that_is_older() {
        let before = |tags: &str, version| previous(tags, &Version::parse(version).unwrap());
        let tags = "v0.10.0\nv0.2.0\nv0.2.0-rc.1\nnightly\nv1";
        assert_eq!(before(tags, "0.11.0").as_deref(), Some("v0.10.0"));
        assert_eq!(before(tags, "0.10.0").as_deref(), Some("v0.2.0"));
        assert_eq!(before(tags, "0.2.0").as_deref(), Some("v0.2.0-rc.1"));
        assert_eq!(before(tags, "0.1.0"), None);
    }
}
