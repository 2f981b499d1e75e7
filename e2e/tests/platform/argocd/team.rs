//! A team's own Application, which creates its namespace in the mesh.

use ambit_e2e::cluster::Cluster;

use super::*;

const TEAM: &str = "team";

const APPLICATION: [&str; 4] = ["applications.argoproj.io", TEAM, "--namespace", argocd::NAMESPACE];

/// The label is in the Application, as `docs/gitops.md` shows it. Without the label, the namespace leaves the mesh.
pub(super) fn enrols_its_namespace(cluster: &Cluster, argocd: &ArgoCd) -> Result<()> {
    argocd
        .repository
        .write(&format!("{TEAM}/shop.yaml"), &Shop::manifest(cluster))?;
    permit_namespace(argocd)?;
    let revision = argocd.repository.commit("an application of a team")?;
    cluster.apply(argocd::NAMESPACE, &application(argocd)?)?;
    argocd.application(TEAM).wait_healthy(&revision)?;
    let shop = Shop::deployed(cluster, TEAM);
    shop.wait_captured()?;
    let label =
        r#"{"spec":{"syncPolicy":{"managedNamespaceMetadata":{"labels":{"istio.io/dataplane-mode":null}}}}}"#;
    cluster.run_kubectl(&[&["patch", "--type=merge", "--patch", label], &APPLICATION[..]].concat())?;
    shop.wait_released()?;
    cluster.run_kubectl(&[&["delete", "--timeout=2m"], &APPLICATION[..]].concat())?;
    let namespace = cluster.get(&["namespace", TEAM])?;
    ensure!(
        namespace["metadata"]["deletionTimestamp"].is_null(),
        "the namespace goes with its Application"
    );
    shop.delete()
}

/// As `docs/gitops.md` says: the name of the namespace is added to the destinations of the project.
fn permit_namespace(argocd: &ArgoCd) -> Result<()> {
    let path = format!("{FOLDER}/project.yaml");
    let shop = "    - server: https://kubernetes.default.svc\n      namespace: shop\n";
    let both = format!("{shop}{}", shop.replace(SHOP, TEAM));
    argocd.repository.replace(&path, shop, &both)?;
    argocd.apply(&path)
}

/// An Application with the part that the documentation shows.
fn application(argocd: &ArgoCd) -> Result<String> {
    let docs = std::fs::read_to_string(workspace().join("docs/gitops.md"))?;
    let (_, part) = docs
        .split_once("```yaml\nsyncPolicy:\n")
        .context("the docs show no syncPolicy")?;
    let (part, _) = part.split_once("```").context("the part has an end")?;
    let part: String = part.lines().map(|line| format!("  {line}\n")).collect();
    let example = argocd
        .repository
        .read(&format!("{FOLDER}/apps/policies.yaml"))?
        .replace(POLICIES, TEAM)
        .replace(&format!("{FOLDER}/policies"), TEAM)
        .replace("namespace: shop", "namespace: team");
    let (head, _) = example
        .split_once("  syncPolicy:\n")
        .context("the example has a syncPolicy")?;
    // Without both, other labels are applied only with the next commit.
    let automated = "    automated: {prune: true, selfHeal: true}\n";
    Ok(format!("{head}  syncPolicy:\n{automated}{part}"))
}
