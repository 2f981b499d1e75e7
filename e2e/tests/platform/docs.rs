//! Commands and manifests of the documentation, as a reader uses them: document by document, each from its top.
//!
//! Before each document Ambit is installed with a Mesh that is Ready, and the sample application runs in namespace
//! `shop`, in the mesh. A document that installs Ambit itself begins without it.

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ambit_e2e::docs::{self, Block, Mark};
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::sample::Shop;
use ambit_e2e::tools::Package;
use ambit_e2e::{eventually, mesh, tools, workspace};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const SHOP: &str = "shop";

/// Programs that commands of the documentation use beside kubectl and Helm.
const PROGRAMS: &[Package] = &[
    Package {
        name: "curl",
        program: "curl",
        why: "commands of the documentation",
    },
    Package {
        name: "jq",
        program: "jq",
        why: "commands of the documentation",
    },
];

const DENY: &str = "apiVersion: ambit.dev/v1alpha1
kind: AmbientNamespace
metadata: {name: ambient}
spec:
  authorization:
    - name: no-client-a
      action: Deny
      from: [{principals: [cluster.local/ns/shop/sa/client-a]}]
";

/// Before the commands of each block. A forwarded port takes a moment, for which a reader waits.
const PROLOGUE: &str = r#"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
curl() { command curl --retry 30 --retry-connrefused --retry-delay 1 "$@"; }
"#;

#[test]
fn commands_and_manifests_of_the_docs_work() -> Result<()> {
    let lab = Lab::enter()?;
    tools::ensure(PROGRAMS, &|message| println!("{message}"))?;
    let mut documents: BTreeMap<PathBuf, Vec<Block>> = BTreeMap::new();
    for block in docs::blocks()? {
        if block.mark()?.is_some_and(|mark| !matches!(mark, Mark::Skip(_))) {
            documents.entry(block.file.clone()).or_default().push(block);
        }
    }
    let result = lab.with_shop(SHOP, |shop| {
        for (file, blocks) in &documents {
            prepare(&lab, shop, blocks)?;
            println!("{}: {} blocks", file.display(), blocks.len());
            for block in blocks {
                run(&lab, block).with_context(|| format!("{}:\n{}", block.place(), block.text))?;
            }
        }
        Ok(())
    });
    // The next test finds it installed, whatever the last document did.
    let left = lab.install();
    result.and(left)
}

/// The state that a document begins with.
fn prepare(lab: &Lab, shop: &Shop, blocks: &[Block]) -> Result<()> {
    let cluster = &lab.cluster;
    let note = |message: &str| println!("{message}");
    let installed = cluster
        .get(&["deployment", "ambit-operator", "--namespace", mesh::NAMESPACE])
        .is_ok();
    if blocks
        .iter()
        .any(|block| block.text.contains("helm install ambit "))
    {
        return if installed {
            mesh::uninstall(cluster, &note)
        } else {
            Ok(())
        };
    }
    if installed && cluster.get(&["mesh", "default"]).is_ok() {
        // An earlier document may have begun a roll-out.
        mesh::wait_ready(cluster)?;
    } else {
        lab.install()?;
    }
    // What an earlier document said of the namespace goes; a refusal stays in the logs.
    for kind in ["waypointpolicies", "ambientnamespaces"] {
        cluster.run_kubectl(&["delete", kind, "--all", "--namespace", SHOP])?;
    }
    shop.enroll()?;
    let before = shop.stats("client-a")?.total_failed();
    cluster.apply(SHOP, DENY)?;
    eventually("client-a to be refused", LIMIT, || {
        ensure!(shop.stats("client-a")?.total_failed() > before, "it is not");
        Ok(())
    })?;
    let allow = DENY.split("spec:").next().unwrap_or_default();
    cluster.apply(SHOP, &format!("{allow}spec: {{}}\n"))?;
    shop.wait_more("client-a", 1).map(drop)
}

fn run(lab: &Lab, block: &Block) -> Result<()> {
    let text = bound(lab, &block.text)?;
    match (block.mark()?, block.language.as_str()) {
        (Some(Mark::DryRun), _) => shell(lab, "kubectl apply --dry-run=server --filename=-", &text).map(drop),
        (Some(Mark::Values), _) => shell(lab, "helm template ambit charts/ambit --values=-", &text).map(drop),
        (_, "yaml") => {
            shell(lab, "kubectl apply --filename=-", &text)?;
            wait_waypoint(lab)
        }
        (_, "console") => console(lab, &text),
        _ => shell(lab, &text, "").map(drop),
    }
}

/// Where the namespace has a waypoint: until as many replicas run as there are at least. kubectl refuses the logs of a
/// replica that has yet to start.
fn wait_waypoint(lab: &Lab) -> Result<()> {
    let cluster = &lab.cluster;
    // Without Ambit there is no such kind.
    let policies = cluster.list(&["waypointpolicies", "--namespace", SHOP]);
    if !policies.is_ok_and(|policies| !policies.is_empty()) {
        return Ok(());
    }
    eventually("the waypoint to run", LIMIT, || {
        let ambient = cluster.get(&["ambientnamespace", "ambient", "--namespace", SHOP])?;
        let least = ambient
            .pointer("/spec/waypoint/minReplicas")
            .and_then(Value::as_u64);
        let waypoint = cluster.get(&["deployment", "waypoint", "--namespace", SHOP])?;
        ensure!(
            waypoint["status"]["readyReplicas"].as_u64() >= least.or(Some(1)),
            "{}",
            waypoint["status"]
        );
        Ok(())
    })
}

/// The text with what a reader puts in place of its placeholders.
fn bound(lab: &Lab, text: &str) -> Result<String> {
    let ztunnel = if text.contains("ztunnel-xxxxx") {
        let all = mesh::ztunnels(&lab.cluster)?;
        all.into_iter().next().context("no ztunnel runs")?.name
    } else {
        String::new()
    };
    // Where no tag is said, it is that of a release.
    let install = "helm install ambit charts/ambit";
    let text = match text.contains("image.tag=") {
        true => text.to_owned(),
        false => text.replace(install, &format!("{install} --set image.tag=dev")),
    };
    Ok(text
        .replace("ztunnel-xxxxx", &ztunnel)
        .replace("registry.example/ambit", "localhost/ambit")
        .replace("<namespace>", SHOP))
}

/// Commands begin with `$`; what they print has the columns that the lines after them show.
fn console(lab: &Lab, text: &str) -> Result<()> {
    for part in text.split("$ ").skip(1) {
        let (command, shown) = part.split_once('\n').unwrap_or((part, ""));
        let printed = shell(lab, command, "")?;
        for header in shown.lines().filter(|line| is_header(line)) {
            let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            ensure!(
                printed.lines().any(|line| columns(line) == columns(header)),
                "no line `{header}` in:\n{printed}"
            );
        }
    }
    Ok(())
}

/// `NAME  READY  AGE`: the columns of a table.
fn is_header(line: &str) -> bool {
    line.split_whitespace().count() > 1 && line.chars().all(|c| c.is_uppercase() || c == ' ' || c == '-')
}

/// Runs commands in the root of the work tree, with kubectl and Helm for the cluster; returns what they print.
fn shell(lab: &Lab, commands: &str, input: &str) -> Result<String> {
    let cluster = &lab.cluster;
    let helm = tools::helm(&|message| println!("{message}"))?;
    let path = env::var_os("PATH").unwrap_or_default();
    let ours = [
        Some(cluster.programs().to_owned()),
        helm.parent().map(PathBuf::from),
    ];
    let path = env::join_paths(ours.into_iter().flatten().chain(env::split_paths(&path)))?;
    let mut child = Command::new("timeout")
        .args(["300", "bash", "-euo", "pipefail", "-c"])
        .arg(format!("{PROLOGUE}{commands}"))
        .current_dir(workspace())
        .env("PATH", path)
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start bash")?;
    let mut stdin = child.stdin.take().context("bash has no input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!(
            "{}: {printed}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(printed)
}
