//! What is wrong, and what a user of Argo CD sees of it.

use super::*;

const POLICY: &str = "examples/argocd/policies/shop.yaml";

pub(super) fn all(story: &Story<'_>) -> Result<()> {
    step("a bad policy is refused, the one before stays in force", || {
        bad_policy(story)
    })?;
    step(
        "a misspelt field of a policy, of the Mesh and of an Application",
        || misspelt(story),
    )?;
    step("a policy that only the operator can judge is Degraded", || {
        unknown_target(story)
    })?;
    step(
        "an object in a namespace that the project does not permit",
        || other_namespace(story),
    )?;
    step("a misspelt value of the chart", || misspelt_value(story))?;
    step("an image that does not exist", || missing_image(story))
}

/// Commits a change of a file, waits until an Application says these words, and takes the change back.
fn refused(
    story: &Story<'_>,
    application: &str,
    path: &str,
    change: (&str, &str),
    words: &[&str],
) -> Result<()> {
    let repository = &story.argocd.repository;
    let good = repository.read(path)?;
    repository.replace(path, change.0, change.1)?;
    let said = story.commit_refused("a mistake", application, words)?;
    println!("{application} says: {said}");
    former_is_in_force(story)?;
    repository.write(path, &good)?;
    story.commit("the mistake is put right", &[application]).map(drop)
}

/// The policy from before the mistake decides: PUT is denied by its rule, and nothing else.
fn former_is_in_force(story: &Story<'_>) -> Result<()> {
    for client in CLIENTS {
        let denied = story.web.request(client, &Request::new("PUT", "/"))?;
        ensure!(
            denied.status == 403 && denied.reason() == "denied by shop/web/no-delete",
            "PUT of {client} gets {}",
            denied.head()
        );
    }
    ensure!(story.statuses("DELETE")? == [200; 2], "DELETE is denied again");
    ensure!(story.statuses("GET")? == [200; 2], "GET is denied");
    Ok(())
}

fn bad_policy(story: &Story<'_>) -> Result<()> {
    let action = ("action: Deny", "action: Forbid");
    let words = ["spec.authorization[0].action", "Forbid", "\"Allow\", \"Deny\""];
    refused(story, POLICIES, POLICY, action, &words)
}

fn misspelt(story: &Story<'_>) -> Result<()> {
    let rules = ("  authorization:", "  authorisation:");
    refused(
        story,
        POLICIES,
        POLICY,
        rules,
        &["authorisation", "field not declared in schema"],
    )?;
    let mode = ("  mtls:", "  mTLS:");
    let mesh = format!("{FOLDER}/mesh/mesh.yaml");
    refused(
        story,
        MESH,
        &mesh,
        mode,
        &["mTLS", "field not declared in schema"],
    )?;
    let path = (
        "    path: examples/argocd/policies",
        "    folder: examples/argocd/policies",
    );
    let app = format!("{FOLDER}/apps/policies.yaml");
    refused(
        story,
        PARENT,
        &app,
        path,
        &["folder", "field not declared in schema"],
    )
}

/// The API server cannot know that there is no such Service.
fn unknown_target(story: &Story<'_>) -> Result<()> {
    let repository = &story.argocd.repository;
    let good = repository.read(POLICY)?;
    repository.replace(POLICY, "      name: web", "      name: wbe")?;
    repository.commit("a policy for another Service")?;
    let application = story.argocd.application(POLICIES);
    application.refresh("normal")?;
    let reason = application.wait_object("WaypointPolicy", "web", "Degraded")?;
    println!("Argo CD shows: {reason}");
    ensure!(
        reason.contains("TargetNotFound") && reason.contains("wbe"),
        "{reason}"
    );
    let policy = ["waypointpolicy", "web", "--namespace", SHOP];
    let (status, message) = story.kstatus(&policy)?;
    ensure!(
        status == "Failed" && message.contains("wbe"),
        "kstatus: {status}: {message}"
    );
    former_is_in_force(story)?;
    repository.write(POLICY, &good)?;
    story.commit("the right Service", &[POLICIES]).map(drop)
}

fn other_namespace(story: &Story<'_>) -> Result<()> {
    let namespace = (
        "  name: web\n  namespace: shop",
        "  name: web\n  namespace: kube-system",
    );
    refused(
        story,
        POLICIES,
        POLICY,
        namespace,
        &["kube-system", "not permitted in project 'ambit'"],
    )
}

const VALUES: &str = "          tag: dev\n";

/// Commits a change of the chart's values, which the app of apps brings to the Application with the chart.
fn change_values(story: &Story<'_>, to: &str) -> Result<String> {
    let path = format!("{FOLDER}/apps/chart.yaml");
    let good = story.argocd.repository.read(&path)?;
    story.argocd.repository.replace(&path, VALUES, to)?;
    story.argocd.repository.commit("a mistake in the values")?;
    story.argocd.application(PARENT).refresh("normal")?;
    Ok(good)
}

/// Takes the change back.
fn restore_values(story: &Story<'_>, good: &str) -> Result<()> {
    let path = format!("{FOLDER}/apps/chart.yaml");
    story.argocd.repository.write(&path, good)?;
    let applications = [PARENT, CHART, MESH];
    story.commit("the mistake is put right", &applications).map(drop)
}

fn misspelt_value(story: &Story<'_>) -> Result<()> {
    let good = change_values(story, &format!("{VALUES}          pulPolicy: Always\n"))?;
    let chart = story.argocd.application(CHART);
    let said = chart.wait_said(&["ComparisonError", "pulPolicy", "not allowed"])?;
    println!("{CHART} says: {said}");
    former_is_in_force(story)?;
    restore_values(story, &good)
}

/// The ztunnels that run are replaced only by ones that are Ready.
fn missing_image(story: &Story<'_>) -> Result<()> {
    let begin = story.begin()?;
    let images = "        images:\n          ztunnel:\n            tag: nosuch\n";
    let good = change_values(story, &format!("{VALUES}{images}"))?;
    let reason = story
        .argocd
        .application(MESH)
        .wait_object("Mesh", "default", "Degraded")?;
    println!("Argo CD shows: {reason}");
    ensure!(
        reason.contains("localhost/ambit/ztunnel:nosuch") && reason.contains("values `image` and `images`"),
        "{reason}"
    );
    restore_values(story, &good)?;
    println!("an image that does not exist: {}", story.end(&begin)?);
    Ok(())
}

/// An Application whose own destination is outside of its project, and one with a misspelt field.
pub(super) fn application_is_refused(lab: &Lab, argocd: &ArgoCd) -> Result<()> {
    let example = argocd.repository.read(&format!("{FOLDER}/application.yaml"))?;
    let misspelt = example.replace("  syncPolicy:", "  syncPolcy:");
    let said = lab.cluster.refusal(argocd::NAMESPACE, &misspelt)?;
    println!("kubectl says: {said}");
    ensure!(said.contains("unknown field \"spec.syncPolcy\""), "{said}");
    let elsewhere = example
        .replace("namespace: ambit-system", "namespace: kube-system")
        .replace(
            "  name: ambit\n  namespace: argocd",
            "  name: elsewhere\n  namespace: argocd",
        );
    lab.cluster.apply(argocd::NAMESPACE, &elsewhere)?;
    let application = argocd.application("elsewhere");
    let said = application.wait_said(&["namespace 'kube-system'", "project 'ambit'"])?;
    println!("Argo CD says: {said}");
    let delete = [
        "delete",
        "applications.argoproj.io",
        "elsewhere",
        "--namespace",
        argocd::NAMESPACE,
    ];
    lab.cluster
        .run_kubectl(&[&delete[..], &["--timeout=2m"]].concat())
        .map(drop)
}
