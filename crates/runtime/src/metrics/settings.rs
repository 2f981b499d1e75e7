//! What the mesh says of metrics, in a file that is followed while the program runs: a change restarts nothing.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Expose;
use crate::followed::{FollowedFile, LOOK};

/// Longest file, in bytes.
const LONGEST: u64 = 16 << 10;

/// What the mesh says of metrics. The operator writes it as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsSettings {
    /// Labels that Istio's metrics are not to have. Labels that a metric has not got are of no account.
    pub drop_labels: Vec<String>,
    /// A waypoint counts each request as its destination would, too.
    pub waypoint_reports_destination: bool,
}

impl MetricsSettings {
    /// Drops the labels of the settings from Istio's metrics among the families. Metrics of ours have few labels.
    pub fn drop_labels_of(&self, families: &[&dyn Expose]) {
        let dropped: Vec<&str> = self.drop_labels.iter().map(String::as_str).collect();
        for family in families
            .iter()
            .filter(|family| family.name().starts_with("istio_"))
        {
            family.set_dropped(&dropped);
        }
    }

    /// Follows the file at `path`, and never resolves. `apply` is given the settings when they have been read, and when they have changed.
    /// While there is no file, or it cannot be understood, they are as before.
    pub async fn follow(path: &Path, mut apply: impl FnMut(&Self)) {
        let mut file = FollowedFile::new(path, LONGEST);
        loop {
            Self::look(&mut file, &mut apply);
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(file: &mut FollowedFile, apply: &mut impl FnMut(&Self)) {
        let path = file.path().to_owned();
        let error = match file.changed() {
            None => return,
            Some(Ok(text)) => match serde_json::from_str::<Self>(text) {
                Ok(settings) => {
                    apply(&settings);
                    tracing::info!(dropped_labels = ?settings.drop_labels, settings.waypoint_reports_destination, "the settings of metrics have been read");
                    return;
                }
                Err(error) => error.to_string(),
            },
            Some(Err(error)) => error.to_string(),
        };
        tracing::warn!(error, path = %path.display(), "the settings of metrics stay as they are");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_follow_the_file_and_stay_while_it_is_not_understood() {
        let path = std::env::temp_dir().join(format!("ambit-metrics-{}", std::process::id()));
        let mut file = FollowedFile::new(&path, LONGEST);
        let mut applied = Vec::new();
        let long = " ".repeat(20 << 10) + "{}";
        for text in [
            None,
            Some(r#"{"dropLabels":["source_principal"],"waypointReportsDestination":true}"#),
            Some(r#"{"dropLabels":["source_principal"],"waypointReportsDestination":true}"#),
            Some(r#"{"dropLabels":"#),
            Some(&long),
            // Of a later version.
            Some(r#"{"dropLabels":[],"somethingNew":1}"#),
        ] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            MetricsSettings::look(&mut file, &mut |settings| applied.push(settings.clone()));
        }
        std::fs::remove_file(&path).unwrap();
        let first = MetricsSettings {
            drop_labels: vec!["source_principal".into()],
            waypoint_reports_destination: true,
        };
        assert_eq!(applied, [first, MetricsSettings::default()]);
    }
}
