//! Values that are wrong, and where it shows.

use ambit_e2e::eventually;
use ambit_e2e::kube::condition;
use ambit_e2e::lab::{LIMIT, Lab};
use ambit_e2e::mesh;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ensure_says, helm, own_chart, refused, run, upgrade};

#[test]
fn misspelt_values_are_refused_by_name() -> Result<()> {
    let lab = Lab::enter()?;
    let revision = |lab: &Lab| -> Result<String> {
        run(&mut helm(
            lab,
            &[
                "history",
                mesh::RELEASE,
                "--namespace",
                mesh::NAMESPACE,
                "--output=json",
            ],
        )?)
    };
    let before = revision(&lab)?;
    for (value, words) in [
        ("operater.replicas=1", ["operater", "not allowed"]),
        ("control.replica=1", ["/control", "'replica' not allowed"]),
        ("control.replicas=two", ["/control/replicas", "want integer"]),
        (
            "image.pullPolicy=Sometimes",
            ["/image/pullPolicy", "'IfNotPresent'"],
        ),
        ("images.agent.digest=latest", ["/images/agent/digest", "sha256"]),
        ("platform=k3", ["/platform", "'k3s'"]),
        ("runtime.socket=containerd.sock", ["/runtime/socket", "pattern"]),
        (
            "mesh.spec.drainDeadlin=90s",
            ["/mesh/spec", "'drainDeadlin' not allowed"],
        ),
        (
            "monitoring.podMonitor.enabled=true",
            ["monitoring.podMonitor.enabled", "Install the Prometheus operator"],
        ),
    ] {
        let text = refused(&mut upgrade(&lab, &own_chart(), &["--set", value])?)?;
        ensure_says(&text, &words).with_context(|| value.to_owned())?;
        println!("--set {value}: {}", text.lines().last().unwrap_or_default());
    }
    ensure!(revision(&lab)? == before, "a refused upgrade left a revision");
    Ok(())
}

#[test]
fn a_second_release_is_refused_and_the_first_is_named() -> Result<()> {
    let lab = Lab::enter()?;
    let second = [
        "install",
        "second",
        &own_chart(),
        "--namespace",
        "elsewhere",
        "--create-namespace",
    ];
    let text = refused(&mut helm(&lab, &second)?)?;
    ensure_says(
        &text,
        &[
            "release ambit in namespace ambit-system",
            "one mesh only",
            "helm uninstall ambit",
        ],
    )?;
    println!("{text}");
    // Helm makes the namespace before it renders anything.
    lab.cluster
        .run_kubectl(&["delete", "namespace", "elsewhere", "--ignore-not-found"])?;
    mesh::wait_ready(&lab.cluster)
}

/// As from a chart that had them in a folder of their own, which Helm does not upgrade.
#[test]
fn definitions_of_an_older_chart_are_handed_over() -> Result<()> {
    let lab = Lab::enter()?;
    let crd = "meshes.ambit.dev";
    lab.cluster
        .run_kubectl(&["label", "crd", crd, "app.kubernetes.io/managed-by-"])?;
    lab.cluster.run_kubectl(&[
        "annotate",
        "crd",
        crd,
        "meta.helm.sh/release-name-",
        "meta.helm.sh/release-namespace-",
    ])?;
    let own = ["--set", super::OWN_IMAGES];
    let text = refused(&mut upgrade(&lab, &own_chart(), &own)?)?;
    ensure_says(&text, &["do not belong to this release: meshes.ambit.dev"])?;
    // The two commands that it prints, as they stand there.
    let commands = text
        .split_once("kubectl label")
        .context("it prints no command")?
        .1;
    let commands = commands
        .split_once(". Or set")
        .context("the commands have no end")?
        .0;
    for command in format!("label{commands}").split(" && ") {
        let words: Vec<&str> = command.trim_start_matches("kubectl ").split(' ').collect();
        println!("kubectl {}", words.join(" "));
        lab.cluster.run_kubectl(&words)?;
    }
    run(&mut upgrade(&lab, &own_chart(), &own)?)?;
    mesh::wait_ready(&lab.cluster)
}

/// Helm succeeds, since the pods are the Mesh's: the Mesh says what is wrong, and pods go on with the ztunnels that they have.
#[test]
fn an_image_that_does_not_exist_shows_in_the_mesh() -> Result<()> {
    let lab = Lab::enter()?;
    let result = lab.with_shop("noimage", |shop| {
        shop.enroll()?;
        let missing = ["--set", super::OWN_IMAGES, "--set", "images.ztunnel.tag=nosuch"];
        run(&mut upgrade(&lab, &own_chart(), &missing)?)?;
        let message = eventually("the Mesh to name the image", LIMIT, || {
            let mesh = lab.cluster.get(&["mesh", "default"])?;
            let degraded = condition(&mesh, "Degraded").context("no condition Degraded")?;
            ensure!(
                degraded.0 == "True" && degraded.1 == "PodsFailing",
                "{degraded:?}"
            );
            ensure_says(
                degraded.2,
                &["localhost/ambit/ztunnel:nosuch", "values `image` and `images`"],
            )?;
            Ok(degraded.2.to_owned())
        })?;
        println!("{message}");
        for client in ["client-a", "client-b"] {
            let stats = shop.wait_more(client, 50)?;
            ensure!(stats.total_failed() == 0, "{client}: {:?}", stats.failures);
        }
        Ok(())
    });
    result.and(mesh::upgrade(&lab.cluster, &|message| println!("{message}")))
}

/// Each node's runtime gets the images under their digests, as a registry would have them.
fn by_digest(lab: &Lab, part: &str) -> Result<String> {
    let tagged = format!("localhost/ambit/{part}:dev");
    let mut found = None;
    for node in lab.cluster.nodes() {
        let listed = node.run(&[
            "ctr",
            "--namespace=k8s.io",
            "images",
            "ls",
            &format!("name=={tagged}"),
        ])?;
        let digest = listed.split_whitespace().find(|word| word.starts_with("sha256:"));
        let digest = digest
            .with_context(|| format!("{tagged} has no digest: {listed}"))?
            .to_owned();
        let name = format!("localhost/ambit/{part}@{digest}");
        node.tag_image(&tagged, &name)?;
        found = Some(digest);
    }
    found.context("there are no nodes")
}

#[test]
fn digests_reach_daemon_sets_and_waypoints() -> Result<()> {
    let lab = Lab::enter()?;
    let parts = ["operator", "agent", "ztunnel", "waypoint"];
    let digests: Vec<String> = parts
        .iter()
        .map(|part| by_digest(&lab, part))
        .collect::<Result<_>>()?;
    let result = lab.with_web("digests", |web| {
        let sets = parts
            .iter()
            .zip(&digests)
            .map(|(part, digest)| format!("images.{part}.digest={digest}"));
        let sets = sets.collect::<Vec<_>>().join(",");
        run(&mut upgrade(
            &lab,
            &own_chart(),
            &["--set", super::OWN_IMAGES, "--set", &sets],
        )?)?;
        let policy = json!({
            "apiVersion": "ambit.dev/v1alpha1", "kind": "WaypointPolicy", "metadata": {"name": "gets"},
            "spec": {"targetRefs": [{"kind": "Service", "name": "web"}],
                "authorization": [{"name": "gets", "action": "Allow", "methods": ["GET"]}]},
        });
        lab.cluster.apply(web.namespace(), &policy.to_string())?;
        let image = |object: &Value| object.pointer("/spec/template/spec/containers/0/image").cloned();
        for (part, kind, name, namespace) in [
            ("operator", "deployment", "ambit-control", mesh::NAMESPACE),
            ("operator", "deployment", "ambit-operator", mesh::NAMESPACE),
            ("agent", "daemonset", "ambit-agent", mesh::NAMESPACE),
            ("ztunnel", "daemonset", "ztunnel", mesh::NAMESPACE),
            ("waypoint", "deployment", "waypoint", web.namespace()),
        ] {
            let digest = parts.iter().zip(&digests).find(|(other, _)| **other == part);
            let expected = format!("localhost/ambit/{part}@{}", digest.context("no digest")?.1);
            eventually(&format!("{kind} {name} to have {expected}"), LIMIT, || {
                let found = image(&lab.cluster.get(&[kind, name, "--namespace", namespace])?);
                ensure!(found == Some(json!(expected)), "{found:?}");
                Ok(())
            })?;
            println!("{kind} {name}: {expected}");
        }
        eventually("the waypoint to run", LIMIT, || {
            let pods = web.waypoints("waypoint")?;
            ensure!(!pods.is_empty() && pods.iter().all(|pod| pod.ready), "{pods:?}");
            Ok(())
        })?;
        mesh::wait_ready(&lab.cluster)
    });
    result.and(mesh::upgrade(&lab.cluster, &|message| println!("{message}")))
}
