//! What a commit does.

use serde_json::{Value, json};

use super::*;

const POLICY: &str = "examples/argocd/policies/shop.yaml";

/// `application` is the Application with policies, which the repository does not have yet.
pub(super) fn all(story: &Story<'_>, application: &str) -> Result<()> {
    step(
        "a commit that labels the namespace: every pod is captured",
        || labelled(story),
    )?;
    step("a commit with policies: they are enforced", || {
        policies(story, application)
    })?;
    step("a changed policy is in force", || changed_policy(story))?;
    step("a version bump under load", || version_bump(story))?;
    step("its commit reverted, under load", || roll_back(story))?;
    step("self-heal under load", || self_heal(story))?;
    step("ten reconciliations", || drift::none(story))
}

fn labelled(story: &Story<'_>) -> Result<()> {
    story.connect(clients::EARLY)?;
    let path = format!("{FOLDER}/namespaces/shop.yaml");
    let name = "  name: shop\n";
    let label = format!("{name}  labels:\n    istio.io/dataplane-mode: ambient\n");
    story.argocd.repository.replace(&path, name, &label)?;
    story.commit("shop is in the mesh", &[NAMESPACES])?;
    story.shop.wait_captured()?;
    story.early_connection_lives()
}

fn policies(story: &Story<'_>, application: &str) -> Result<()> {
    story.wait_status("DELETE", 200)?;
    story
        .argocd
        .repository
        .write(&format!("{FOLDER}/apps/policies.yaml"), application)?;
    let revision = story.commit("policies", &[PARENT])?;
    story.argocd.application(POLICIES).wait_healthy(&revision)?;
    story.wait_status("DELETE", 403)?;
    story.wait_status("GET", 200)?;
    let ambient = story.shop.ambient()?;
    ensure!(ambient["status"]["mtlsMode"] == "Strict", "{}", ambient["status"]);
    for object in [["ambientnamespace", "ambient"], ["waypointpolicy", "web"]] {
        let (status, message) = story.kstatus(&[&object[..], &["--namespace", SHOP]].concat())?;
        ensure!(status == "Current", "kstatus of {object:?}: {status}: {message}");
    }
    Ok(())
}

fn changed_policy(story: &Story<'_>) -> Result<()> {
    story
        .argocd
        .repository
        .replace(POLICY, "methods: [DELETE]", "methods: [PUT]")?;
    // For the self-heal: a field on which no request depends.
    let name = "  name: web\n  namespace: shop\n";
    let labelled = format!("{name}  labels:\n    team: shop\n");
    story.argocd.repository.replace(POLICY, name, &labelled)?;
    story.commit("PUT is denied, not DELETE", &[POLICIES])?;
    story.wait_status("PUT", 403)?;
    story.wait_status("DELETE", 200)
}

/// The same images under a second tag: every part is replaced.
fn version_bump(story: &Story<'_>) -> Result<()> {
    let cluster = &story.lab.cluster;
    for node in cluster.nodes() {
        for part in ["operator", "agent", "ztunnel", "waypoint"] {
            let image = format!("localhost/ambit/{part}");
            let (from, to) = (format!("{image}:dev"), format!("{image}:next"));
            node.tag_image(&from, &to)?;
        }
    }
    change_version(story, "dev", "next")
}

fn roll_back(story: &Story<'_>) -> Result<()> {
    change_version(story, "next", "dev")
}

/// Commits the tag, and waits until every part runs with it.
fn change_version(story: &Story<'_>, from: &str, to: &str) -> Result<()> {
    let cluster = &story.lab.cluster;
    let begin = story.begin()?;
    let tag = |version: &str| format!("tag: {version}");
    let path = format!("{FOLDER}/apps/chart.yaml");
    story.argocd.repository.replace(&path, &tag(from), &tag(to))?;
    let revision = story.commit(&format!("version {to}"), &[PARENT])?;
    story.argocd.application(CHART).wait_healthy(&revision)?;
    let image_tag = format!(":{to}");
    eventually(&format!("every part to run version {to}"), 2 * LIMIT, || {
        for namespace in [mesh::NAMESPACE, SHOP] {
            for pod in cluster.list(&["pods", "--namespace", namespace])? {
                let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
                ensure!(
                    image.contains("/sample:")
                        || image.ends_with(&image_tag) && pod["status"]["phase"] == "Running",
                    "{} runs {image}",
                    pod["metadata"]["name"]
                );
            }
        }
        Ok(())
    })?;
    mesh::wait_ready(cluster)?;
    for name in [MESH, NAMESPACES, POLICIES] {
        story.argocd.application(name).wait_healthy(&revision)?;
    }
    println!("version {to}: {}", story.end(&begin)?);
    story.early_connection_lives()
}

/// A user edits fields that git has: numbers, labels and annotations on which no request depends.
fn self_heal(story: &Story<'_>) -> Result<()> {
    let begin = story.begin()?;
    let wave = "argocd.argoproj.io/sync-wave";
    let edits = [
        (
            ["deployment", "ambit-operator", "--namespace", mesh::NAMESPACE],
            "/spec/replicas",
            json!({"spec": {"replicas": 1}}),
        ),
        (
            ["mesh", "default", "--namespace", mesh::NAMESPACE],
            "/metadata/annotations/argocd.argoproj.io~1sync-wave",
            json!({"metadata": {"annotations": {wave: "6"}}}),
        ),
        (
            ["waypointpolicy", "web", "--namespace", SHOP],
            "/metadata/labels/team",
            json!({"metadata": {"labels": {"team": "somebody-else"}}}),
        ),
    ];
    for (object, field, patch) in &edits {
        healed(story, object, field, patch)?;
    }
    let revision = story.argocd.repository.head()?;
    for name in [CHART, MESH, POLICIES] {
        story.argocd.application(name).wait_healthy(&revision)?;
    }
    story.wait_status("PUT", 403)?;
    println!("self-heal: {}", story.end(&begin)?);
    Ok(())
}

/// Edits a field, and waits until it is as before.
fn healed(story: &Story<'_>, object: &[&str], field: &str, patch: &Value) -> Result<()> {
    let cluster = &story.lab.cluster;
    let begin = Instant::now();
    let value = |object: &Value| object.pointer(field).cloned().context("no such field");
    let before = cluster.get(object)?;
    let patch = patch.to_string();
    let edit = ["patch", "--type=merge", "--output=json", "--patch", &patch];
    let edited = cluster.run_kubectl(&[&edit[..], object].concat())?;
    let edited = value(&serde_json::from_str(&edited)?)?;
    let expected = value(&before)?;
    ensure!(edited != expected, "the edit is not there: {edited}");
    eventually(&format!("{field} of {object:?} to be as in git"), LIMIT, || {
        let found = value(&cluster.get(object)?)?;
        ensure!(found == expected, "it is {found}");
        Ok(())
    })?;
    println!(
        "{field} of {} {} is as in git after {:.1} s",
        object[0],
        object[1],
        begin.elapsed().as_secs_f32()
    );
    Ok(())
}
