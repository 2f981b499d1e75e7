//! What a commit does.

use super::*;

/// A policy and the way to allow what it denies.
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
    step("self-heal", || self_heal(story))?;
    step("ten reconciliations", || no_drift(story))
}

fn labelled(story: &Story<'_>) -> Result<()> {
    let path = format!("{FOLDER}/namespaces/shop.yaml");
    let name = "  name: shop\n";
    let label = format!("{name}  labels:\n    istio.io/dataplane-mode: ambient\n");
    story.argocd.repository.replace(&path, name, &label)?;
    story.commit("shop is in the mesh", &[NAMESPACES])?;
    story.shop.wait_captured()
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
            node.run(&[
                "ctr",
                "--namespace=k8s.io",
                "images",
                "tag",
                "--force",
                &from,
                &to,
            ])?;
        }
    }
    story.web.load_all(&load())?;
    for client in CLIENTS {
        story.web.wait_more(client, 50)?;
    }
    let before = CLIENTS.map(|client| story.web.load_stats(client));
    story
        .argocd
        .repository
        .replace(&format!("{FOLDER}/apps/chart.yaml"), "tag: dev", "tag: next")?;
    let revision = story.commit("the next version", &[PARENT])?;
    story.argocd.application(CHART).wait_healthy(&revision)?;
    eventually("every part to run the next version", 2 * LIMIT, || {
        for namespace in [mesh::NAMESPACE, SHOP] {
            for pod in cluster.list(&["pods", "--namespace", namespace])? {
                let image = pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
                ensure!(
                    image.contains("/sample:")
                        || image.ends_with(":next") && pod["status"]["phase"] == "Running",
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
    for client in CLIENTS {
        story.web.wait_more(client, 50)?;
    }
    let after = story.web.ensure_no_failure()?;
    let [a, b] = before;
    let before = a?.ok + b?.ok;
    let requests = after.iter().map(|stats| stats.ok).sum::<u64>() - before;
    let resets: u64 = after.iter().map(|stats| stats.resets).sum();
    println!(
        "version bump: {requests} requests, 0 failed, {resets} connections ended before a response and made again"
    );
    Ok(())
}

fn self_heal(story: &Story<'_>) -> Result<()> {
    let cluster = &story.lab.cluster;
    let healed = |kind: &str, name: &str, pointer: &str, patch: Value, expected: Value| -> Result<()> {
        let begin = Instant::now();
        let namespace = if kind == "deployment" {
            mesh::NAMESPACE
        } else {
            SHOP
        };
        let object = [kind, name, "--namespace", namespace];
        let patch = patch.to_string();
        let edit = ["patch", "--type=merge", "--patch", &patch];
        cluster.run_kubectl(&[&edit[..], &object[..]].concat())?;
        eventually(&format!("{kind} {name} to be as in git"), LIMIT, || {
            let found = cluster.get(&object)?;
            ensure!(
                found.pointer(pointer) == Some(&expected),
                "{:?}",
                found.pointer(pointer)
            );
            Ok(())
        })?;
        println!(
            "{kind} {name} is as in git after {:.1} s",
            begin.elapsed().as_secs_f32()
        );
        Ok(())
    };
    let strict = json!({"spec": {"mtls": {"mode": "Strict"}}});
    healed("mesh", "default", "/spec/mtls/mode", strict, json!("Permissive"))?;
    let rules =
        json!({"spec": {"authorization": [{"name": "no-delete", "action": "Allow", "methods": ["PUT"]}]}});
    healed(
        "waypointpolicy",
        "web",
        "/spec/authorization/0/action",
        rules,
        json!("Deny"),
    )?;
    let none = json!({"metadata": {"labels": {"istio.io/dataplane-mode": null}}});
    healed(
        "namespace",
        SHOP,
        "/metadata/labels/istio.io~1dataplane-mode",
        none,
        json!("ambient"),
    )?;
    mesh::wait_ready(cluster)?;
    story.shop.wait_captured()?;
    story.wait_status("PUT", 403)
}

/// Nothing that git has is written by Ambit, and nothing that Ambit writes makes a difference to git.
fn no_drift(story: &Story<'_>) -> Result<()> {
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
