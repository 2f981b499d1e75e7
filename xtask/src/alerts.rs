//! The chart's alerts, checked and tried with Prometheus' own tool.

use std::process::Command;

use ambit_e2e::tools;
use anyhow::Result;

use crate::progress::Progress;
use crate::workspace;

const RULES: &str = "charts/ambit/alerts.yaml";
const TESTS: &str = "charts/ambit/alerts_test.yaml";

/// Fails where a rule is none that Prometheus takes, and where it fires on other series than its test says.
pub(crate) fn check(progress: &Progress) -> Result<()> {
    let promtool = tools::prometheus(&|message| progress.note(message))?.promtool;
    let run = |what: &str, file: &str| {
        let mut command = Command::new(&promtool);
        workspace::run(command.args([what, "rules", file]).current_dir(workspace::root()))
    };
    run("check", RULES)?;
    run("test", TESTS)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(path: &str) -> String {
        fs::read_to_string(workspace::root().join(path)).unwrap()
    }

    /// Name and text of each alert.
    fn alerts() -> Vec<(String, String)> {
        let rules = read(RULES);
        let parts = rules.split("- alert: ").skip(1);
        parts
            .map(|part| {
                (
                    part.lines().next().unwrap_or_default().to_owned(),
                    part.to_owned(),
                )
            })
            .collect()
    }

    #[test]
    fn every_alert_leads_to_its_runbook() {
        let runbooks = read("docs/runbooks.md");
        let all = alerts();
        assert!(all.len() > 15, "{}", all.len());
        for (name, text) in &all {
            let link = format!(
                "runbook_url: https://ambit.dev/docs/runbooks.md#{}\n",
                name.to_lowercase()
            );
            assert!(text.contains(&link), "{name} lacks {link}");
            assert!(
                runbooks.contains(&format!("\n### {name}\n")),
                "no runbook for {name}"
            );
            for field in ["severity: ", "summary: ", "description: "] {
                assert!(text.contains(field), "{name} has no {field}");
            }
        }
        let sections = runbooks.lines().filter_map(|line| line.strip_prefix("### "));
        for section in sections {
            assert!(
                all.iter().any(|(name, _)| name == section),
                "{section} is no alert"
            );
        }
    }

    #[test]
    fn every_alert_has_a_test_in_which_it_fires() {
        let tests = read(TESTS);
        for (name, _) in alerts() {
            assert!(tests.contains(&format!("{{alertname=\"{name}\"}}")), "{name}");
        }
    }
}
