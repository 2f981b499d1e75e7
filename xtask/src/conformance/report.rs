//! The report, in the form in which the Gateway API's project collects reports:
//! <https://github.com/kubernetes-sigs/gateway-api/tree/main/conformance/reports>.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_yaml::Value;

use super::output::Outcome;
use crate::workspace;

/// Where reports are committed.
const FOLDER: &str = "docs/conformance";

/// The channel of the definitions that are installed.
const CHANNEL: &str = "experimental";

/// How Ambit is set up: by its defaults.
const MODE: &str = "default";

/// The version of the programs that are tested.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The file name that the project asks for.
pub(super) fn name() -> String {
    format!("{CHANNEL}-v{VERSION}-{MODE}-report.yaml")
}

/// The options of the test program that say whose report this is. The chart's own description has it.
pub(super) fn implementation() -> Result<[String; 6]> {
    let chart = workspace::root().join("charts/ambit/Chart.yaml");
    let text = fs::read_to_string(&chart).with_context(|| format!("cannot read {}", chart.display()))?;
    let chart: Value = serde_yaml::from_str(&text).context("Chart.yaml")?;
    let field = |name: &str| {
        let value = chart[name].as_str();
        value.with_context(|| format!("Chart.yaml has no {name}, which a report needs"))
    };
    let (name, home) = (field("name")?, field("home")?);
    Ok([
        format!("--organization={name}"),
        format!("--project={name}"),
        format!("--url={home}"),
        format!("--contact={home}"),
        format!("--version=v{VERSION}"),
        format!("--mode={MODE}"),
    ])
}

/// What a report says of each profile, a line each.
///
/// # Errors
/// When a profile is missing, or not a success.
pub(super) fn summary(report: &Path, profiles: &[&str]) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(report).with_context(|| format!("there is no report {}", report.display()))?;
    let report: Value = serde_yaml::from_str(&text).context("the report")?;
    ensure!(
        report["gatewayAPIChannel"] == CHANNEL,
        "the report is about the channel {:?}, not {CHANNEL}",
        report["gatewayAPIChannel"]
    );
    profiles
        .iter()
        .map(|profile| summary_of(&report, profile))
        .collect()
}

fn summary_of(report: &Value, profile: &str) -> Result<String> {
    let all = report["profiles"].as_sequence();
    let found = all.into_iter().flatten().find(|found| found["name"] == profile);
    let found = found.with_context(|| format!("the report has no profile {profile}"))?;
    let text = found["summary"].as_str().unwrap_or_default();
    for part in ["core", "extended"] {
        // A profile may have no test of extended features.
        let result = &found[part]["result"];
        ensure!(
            result == "success" || (part == "extended" && found.get(part).is_none()),
            "{profile}: {part} is {result:?}: {text}"
        );
    }
    let unsupported = &found["extended"]["unsupportedFeatures"];
    ensure!(
        unsupported.is_null(),
        "{profile}: unsupported features: {unsupported:?}"
    );
    Ok(format!("{profile}: {text}"))
}

/// Writes the names and verdicts of all tests beside the report, which counts only a part of them.
pub(super) fn write_tests(report: &Path, outcomes: &[Outcome]) -> Result<()> {
    let mut lines: Vec<String> = outcomes
        .iter()
        .map(|outcome| format!("{:?} {}\n", outcome.verdict, outcome.name))
        .collect();
    lines.sort();
    fs::write(tests_of(report), lines.concat()).context("cannot write the list of tests")
}

fn tests_of(report: &Path) -> PathBuf {
    let name = report.file_name().unwrap_or_default().to_string_lossy();
    report.with_file_name(name.replace("-report.yaml", "-tests.txt"))
}

/// Copies the report, as it is, and the list of tests to the documentation; returns their paths.
pub(super) fn keep(report: &Path) -> Result<[PathBuf; 2]> {
    let folder = workspace::root().join(FOLDER);
    let kept = |from: &Path| -> Result<PathBuf> {
        let to = folder.join(from.file_name().context("a report has a name")?);
        // The contents alone: the suite lets nobody else read its report.
        let text = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))?;
        Ok(to)
    };
    Ok([kept(report)?, kept(&tests_of(report))?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chart_says_whose_report_it_is() {
        let options = implementation().unwrap();
        assert!(options.iter().all(|option| !option.ends_with('=')), "{options:?}");
    }

    #[test]
    fn only_success_without_gaps_counts() {
        let report = |core: &str, extended: &str| -> Value {
            serde_yaml::from_str(&format!(
                "profiles: [{{name: P, summary: S, core: {{result: {core}}}, {extended}}}]"
            ))
            .unwrap()
        };
        let judged = |core: &str, extended: &str| summary_of(&report(core, extended), "P");
        assert_eq!(judged("success", "").unwrap(), "P: S");
        assert_eq!(judged("success", "extended: {result: success}").unwrap(), "P: S");
        assert!(judged("partial", "").is_err());
        assert!(judged("success", "extended: {result: failure}").is_err());
        assert!(judged("success", "extended: {result: success, unsupportedFeatures: [A]}").is_err());
        assert!(summary_of(&report("success", ""), "Q").is_err());
    }

    #[test]
    fn the_list_of_tests_is_beside_the_report() {
        let tests = tests_of(Path::new("a/experimental-v1.0.0-default-report.yaml"));
        assert_eq!(tests, Path::new("a/experimental-v1.0.0-default-tests.txt"));
    }
}
