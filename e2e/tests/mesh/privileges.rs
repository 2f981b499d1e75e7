//! The proxy has none, and of the operator's two accounts neither has those of the other.

use std::fs;

use ambit_e2e::mesh;
use anyhow::{Context, Result, bail, ensure};

use ambit_e2e::lab::Lab;

#[test]
fn a_ztunnel_runs_without_any_privilege() -> Result<()> {
    let lab = Lab::enter()?;
    for ztunnel in mesh::ztunnels(&lab.cluster)? {
        let pid = ztunnel
            .node(&lab.cluster)?
            .container_pid(&ztunnel.uid, "ztunnel")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<Vec<&str>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            Ok(line
                .with_context(|| format!("no {name} in {status}"))?
                .split_whitespace()
                .collect())
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            ensure!(field(set)? == ["0000000000000000"], "{set} {:?}", field(set)?);
        }
        ensure!(field("Uid:")? == ["65532"; 4], "Uid {:?}", field("Uid:")?);
        ensure!(field("NoNewPrivs:")? == ["1"], "it may gain privileges");
        ensure!(field("Seccomp:")? == ["2"], "no seccomp filter");
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
        let root = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some("/"))
            .context("no root")?;
        let options = root.split(' ').nth(3).unwrap_or_default();
        ensure!(
            options.split(',').any(|option| option == "ro"),
            "its root can be written: {root}"
        );
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
        ensure!(
            namespace(&pid.to_string())? != namespace("self")?,
            "it is on the host's network"
        );
    }
    Ok(())
}

/// The one that talks with every pod cannot make objects, the one that makes objects cannot see the key of the
/// authority.
#[test]
fn accounts_have_separate_rights() -> Result<()> {
    const CONTROL: &str = "ambit-control";
    const OPERATOR: &str = "ambit-operator";
    let lab = Lab::enter()?;
    let may = |account: &str, what: &str| -> Result<bool> {
        let user = format!("--as=system:serviceaccount:{}:{account}", mesh::NAMESPACE);
        let words: Vec<&str> = ["auth", "can-i"]
            .into_iter()
            .chain(what.split(' '))
            .chain([user.as_str()])
            .collect();
        // A "no" is a failure of kubectl, too.
        let output = lab.cluster.kubectl().args(words).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        match said.split_whitespace().next() {
            Some("yes") => Ok(true),
            Some("no") => Ok(false),
            _ => bail!("{account} {what}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    };
    let own = format!("-n {}", mesh::NAMESPACE);
    for (account, what, allowed) in [
        (CONTROL, "get secret/ambit-ca OWN", true),
        (CONTROL, "create tokenreviews.authentication.k8s.io -A", true),
        (CONTROL, "patch pods -A", true),
        (CONTROL, "create configmap/ambit-ca-root OWN", true),
        (CONTROL, "patch configmap/ambit-nodes OWN", true),
        (CONTROL, "list configmaps OWN", true),
        (CONTROL, "create configmaps OWN", false),
        (CONTROL, "patch configmap/ambit-waypoints.shop OWN", false),
        (CONTROL, "get configmap/ambit-ca-root -n default", false),
        (CONTROL, "patch secret/ambit-ca OWN", false),
        (CONTROL, "list secrets OWN", false),
        (CONTROL, "create deployments.apps -A", false),
        (CONTROL, "create deployments.apps OWN", false),
        (CONTROL, "patch daemonsets.apps OWN", false),
        (CONTROL, "create services -A", false),
        (CONTROL, "create serviceaccounts -A", false),
        (CONTROL, "create pods -A", false),
        (CONTROL, "delete pods -A", false),
        (CONTROL, "patch meshes.ambit.dev", false),
        (
            CONTROL,
            "patch waypointpolicies.ambit.dev --subresource=status -A",
            false,
        ),
        (CONTROL, "update lease/ambit-operator OWN", false),
        (OPERATOR, "create deployments.apps -A", true),
        (OPERATOR, "create configmaps OWN", true),
        (OPERATOR, "update lease/ambit-operator OWN", true),
        (OPERATOR, "get secret/ambit-ca OWN", false),
        (OPERATOR, "create secrets OWN", false),
        (OPERATOR, "create tokenreviews.authentication.k8s.io -A", false),
        (OPERATOR, "patch pods -A", false),
        (OPERATOR, "patch pods OWN", false),
        (OPERATOR, "delete pods -A", false),
        ("ambit-uninstall", "get meshes.ambit.dev/default", true),
        ("ambit-uninstall", "create deployments.apps -A", false),
        ("ambit-uninstall", "get secret/ambit-ca OWN", false),
    ] {
        let words = what.replace("OWN", &own);
        ensure!(
            may(account, &words)? == allowed,
            "{account}, {words}: expected {allowed}"
        );
    }
    Ok(())
}

fn control_plane() -> String {
    format!("system:serviceaccount:{}:ambit-control", mesh::NAMESPACE)
}

/// RBAC has no right to patch annotations alone: the admission policy is what keeps the rest of a pod from the control
/// plane.
#[test]
fn control_plane_changes_only_its_annotations_of_pods() -> Result<()> {
    let lab = Lab::enter()?;
    let pod = mesh::ztunnels(&lab.cluster)?.remove(0);
    let user = format!("--as={}", control_plane());
    // Where one is let through, the pod stays as it is nevertheless.
    let change = |patch: &str| {
        let words = [
            "patch",
            "pod",
            &pod.name,
            "--type=merge",
            "--patch",
            patch,
            "--dry-run=server",
            "--namespace",
            mesh::NAMESPACE,
            &user,
        ];
        lab.cluster.run_kubectl(&words)
    };
    for (patch, refused) in [
        (
            r#"{"metadata":{"labels":{"harmless":"true"}}}"#,
            "may not change labels",
        ),
        (
            r#"{"metadata":{"annotations":{"harmless":"true"}}}"#,
            "may change no annotations",
        ),
        (
            r#"{"metadata":{"finalizers":["example.com/stay"]}}"#,
            "may not change owners or finalizers",
        ),
        (
            r#"{"spec":{"activeDeadlineSeconds":3600}}"#,
            "may not change the spec",
        ),
    ] {
        let error = change(patch)
            .err()
            .with_context(|| format!("{patch} is let through"))?;
        ensure!(format!("{error:#}").contains(refused), "{patch}: {error:#}");
    }
    change(r#"{"metadata":{"annotations":{"ambit.dev/capture-failure":"none"}}}"#)?;
    Ok(())
}

/// RBAC cannot limit a creation by name: the admission policy is what keeps the control plane from Secrets that are not
/// its own.
#[test]
fn control_plane_creates_only_its_own_secret() -> Result<()> {
    let lab = Lab::enter()?;
    let create = |name: &str, kind: &str, annotations: &str| {
        let manifest = format!(
            r#"{{"apiVersion": "v1", "kind": "Secret", "type": "{kind}", "metadata": {{"name": "{name}", "annotations": {annotations}}}}}"#
        );
        let created = lab
            .cluster
            .try_create_as(&control_plane(), mesh::NAMESPACE, &manifest);
        created
            .err()
            .map(|error| format!("{error:#}"))
            .with_context(|| format!("{manifest} is let through"))
    };
    let of_operator = r#"{"kubernetes.io/service-account.name": "ambit-operator"}"#;
    for (name, kind, annotations, refused) in [
        (
            "ambit-ca",
            "kubernetes.io/service-account-token",
            of_operator,
            "no Secret of another type",
        ),
        ("ambit-ca", "Opaque", "{}", "no Secret of another type"),
        (
            "ambit-ca",
            "ambit.dev/ca",
            of_operator,
            "no Secret for a service account",
        ),
        ("another", "ambit.dev/ca", "{}", "no Secret but ambit-ca"),
    ] {
        let error = create(name, kind, annotations)?;
        ensure!(error.contains(refused), "{name}, {kind}, {annotations}: {error}");
    }
    // The policy lets its own pass, which is there already.
    let error = create("ambit-ca", "ambit.dev/ca", "{}")?;
    ensure!(error.contains("already exists"), "{error}");
    Ok(())
}
