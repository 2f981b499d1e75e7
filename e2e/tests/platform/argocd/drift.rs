//! Reconciliations without a difference.

use serde_json::{Value, json};

use super::*;

/// Nothing that git has is written by Ambit, and nothing that Ambit writes makes a difference to git.
pub(super) fn none(story: &Story<'_>) -> Result<()> {
    let applications = [PARENT, CHART, MESH, NAMESPACES, POLICIES];
    let operations = || -> Result<Vec<Value>> {
        let finished = applications.iter().map(|name| {
            let application = story.argocd.application(name).get()?;
            Ok(application["status"]["operationState"]["finishedAt"].clone())
        });
        finished.collect()
    };
    let (before, synced) = (generations(story)?, operations()?);
    for _ in 0..10 {
        for name in applications {
            let application = story.argocd.application(name);
            application.refresh("hard")?;
            let status = &application.get()?["status"]["sync"]["status"];
            ensure!(
                status == "Synced",
                "{name} is {status}: {}",
                story.argocd.describe()
            );
        }
    }
    ensure!(operations()? == synced, "something was synced");
    let after = generations(story)?;
    for (before, after) in before.iter().zip(&after) {
        ensure!(before == after, "{before:?} is now {after:?}");
    }
    println!("{} objects are as they were", after.len());
    Ok(())
}

/// The generation of every object that the Applications have applied, by kind, namespace and name.
fn generations(story: &Story<'_>) -> Result<Vec<(String, Value)>> {
    let mut all = Vec::new();
    for name in [PARENT, CHART, MESH, NAMESPACES, POLICIES] {
        let application = story.argocd.application(name).get()?;
        let resources = application["status"]["resources"].as_array().cloned();
        for resource in resources.context("an Application has objects")? {
            // Argo CD writes the status of an Application into its own generation.
            if resource["kind"] == "Application" {
                continue;
            }
            let text = |field: &str| resource[field].as_str().unwrap_or_default().to_owned();
            let kind = match text("group") {
                group if group.is_empty() => text("kind"),
                group => format!("{}.{}.{group}", text("kind"), text("version")),
            };
            let (object, namespace) = (text("name"), text("namespace"));
            let namespace = if namespace.is_empty() {
                "default".to_owned()
            } else {
                namespace
            };
            let found = story
                .lab
                .cluster
                .get(&[&kind, &object, "--namespace", &namespace])?;
            let metadata = &found["metadata"];
            // Statuses change the version of an object; the spec of what has none is all of it.
            let version = if found["status"].is_null() {
                &metadata["resourceVersion"]
            } else {
                &Value::Null
            };
            let state = json!([metadata["uid"], metadata["generation"], version]);
            all.push((format!("{kind} {namespace}/{object}"), state));
        }
    }
    Ok(all)
}
