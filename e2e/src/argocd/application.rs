//! What an Application says.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::NAMESPACE;
use crate::cluster::Cluster;
use crate::eventually;

/// When a state of an Application is no longer waited for: many times what it takes.
const LIMIT: Duration = Duration::from_secs(300);

/// The annotation that asks Argo CD to look again; Argo CD removes it.
const REFRESH: &str = "argocd.argoproj.io/refresh";

/// An Application of Argo CD's namespace.
#[derive(Debug, Clone, Copy)]
pub struct Application<'a> {
    cluster: &'a Cluster,
    name: &'a str,
}

impl<'a> Application<'a> {
    pub(super) fn new(cluster: &'a Cluster, name: &'a str) -> Self {
        Self { cluster, name }
    }

    /// The object.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self) -> Result<Value> {
        self.cluster
            .get(&["applications.argoproj.io", self.name, "--namespace", NAMESPACE])
    }

    /// Has Argo CD look at it again: `normal`, or `hard` to render its manifests anew too. Waits until that is done.
    ///
    /// # Errors
    /// When it is not.
    pub fn refresh(&self, kind: &str) -> Result<()> {
        self.request_refresh(kind)?;
        self.wait("to be refreshed", |app| {
            ensure!(
                app["metadata"]["annotations"][REFRESH].is_null(),
                "{}",
                describe(app)
            );
            Ok(())
        })
    }

    fn request_refresh(&self, kind: &str) -> Result<()> {
        let annotation = format!("{REFRESH}={kind}");
        let annotate = ["annotate", "--overwrite", "--namespace", NAMESPACE];
        let application = ["applications.argoproj.io", self.name, &annotation];
        self.cluster
            .run_kubectl(&[&annotate[..], &application].concat())
            .map(drop)
    }

    /// Waits until `revision` is applied and every object is Healthy.
    ///
    /// # Errors
    /// When that does not happen; the error tells the status.
    pub fn wait_healthy(&self, revision: &str) -> Result<Value> {
        self.wait(&format!("to be Synced to {revision} and Healthy"), |app| {
            let (status, sync) = (&app["status"], &app["status"]["sync"]);
            let revisions = format!("{}{}", sync["revision"], sync["revisions"]);
            if !revisions.contains(revision) && app["metadata"]["annotations"][REFRESH].is_null() {
                self.request_refresh("normal")?;
            }
            ensure!(
                sync["status"] == "Synced"
                    && revisions.contains(revision)
                    && app["operation"].is_null()
                    && status["operationState"]["phase"] != "Running"
                    && status["health"]["status"] == "Healthy",
                "{}",
                describe(app)
            );
            Ok(app.clone())
        })
    }

    /// Waits until `found` accepts it.
    ///
    /// # Errors
    /// When that does not happen; the error tells the status.
    pub fn wait<T>(&self, what: &str, found: impl Fn(&Value) -> Result<T>) -> Result<T> {
        eventually(&format!("Application {} {what}", self.name), LIMIT, || {
            found(&self.get()?)
        })
    }

    /// Waits until its status has all of these words where a user of Argo CD looks: the conditions and the result of the last sync. Returns
    /// that text.
    ///
    /// # Errors
    /// When that does not happen; the error tells the status.
    pub fn wait_said(&self, words: &[&str]) -> Result<String> {
        self.wait(&format!("to say {words:?}"), |app| {
            let said = said(app);
            match words.iter().find(|word| !said.contains(**word)) {
                None => Ok(said),
                Some(word) => bail!("no {word} in {}", describe(app)),
            }
        })
    }

    /// Waits until an object of it has this health, and returns the reason.
    ///
    /// # Errors
    /// When that does not happen; the error tells the status.
    pub fn wait_object(&self, kind: &str, name: &str, health: &str) -> Result<String> {
        self.wait(&format!("to show {kind} {name} as {health}"), |app| {
            let resources = app["status"]["resources"].as_array();
            let mut resources = resources.into_iter().flatten();
            let object = resources.find(|object| object["kind"] == kind && object["name"] == name);
            let found = &object.with_context(|| describe(app))?["health"];
            ensure!(found["status"] == health, "{found}; {}", describe(app));
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }
}

/// What went wrong, as Argo CD's UI shows it.
fn said(app: &Value) -> String {
    let status = &app["status"];
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let conditions = conditions.map(|condition| (&condition["type"], &condition["message"]));
    let results = status["operationState"]["syncResult"]["resources"].as_array();
    let failed = results
        .into_iter()
        .flatten()
        .filter(|result| result["status"] == "SyncFailed" || result["hookPhase"] == "Failed");
    let failed = failed.map(|result| (&result["name"], &result["message"]));
    let operation = &status["operationState"]["message"];
    let lines = conditions
        .chain(failed)
        .chain([(&status["operationState"]["phase"], operation)]);
    lines
        .map(|(what, message)| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text(what), text(message))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// A line of an Application's status.
pub(super) fn describe(app: &Value) -> String {
    let status = &app["status"];
    let poor: Vec<String> = status["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|object| {
            object["status"] != "Synced"
                || object["health"]["status"] == "Degraded"
                || object["health"]["status"] == "Progressing"
        })
        .map(|object| {
            format!(
                "{}/{} {} {}",
                object["kind"], object["name"], object["status"], object["health"]
            )
        })
        .collect();
    format!(
        "{}: {} {}, health {}; {}; not as they should be: {poor:?}",
        app["metadata"]["name"],
        status["sync"]["status"],
        status["sync"]["revision"],
        status["health"],
        said(app)
    )
}
