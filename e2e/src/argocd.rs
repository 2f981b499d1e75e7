//! Argo CD on a cluster: its real programs, beside the control plane, and a git repository that they read.
//!
//! Argo CD runs as processes of this machine in the network namespace of the control plane: its ports are nobody else's, and nothing of it is
//! reached from outside of the cluster. It ends with the value that started it; what a killed run has left is removed by the next.

mod application;
mod repository;
mod setup;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use application::Application;
pub use repository::Repository;
use setup::{configure, remove};

use crate::cluster::{Cluster, Started};
use crate::tools::{self, ArgoCdPrograms, Package, Progress};
use crate::{shell, wait};

/// Where Argo CD's own objects are.
pub const NAMESPACE: &str = "argocd";

const REDIS: &str = "argocd-redis";
const REPO_SERVER: &str = "argocd-repo-server";
const CONTROLLER: &str = "argocd-application-controller";

const REDIS_PORT: u16 = 6379;
const REPO_SERVER_PORT: u16 = 8081;

/// Debian's `redis-server` would start a server of its own on the machine. The program is the same one under this name.
const REDIS_PROGRAM: &str = "/usr/bin/redis-check-rdb";

const PACKAGES: &[Package] = &[
    Package {
        name: "redis-tools",
        program: REDIS_PROGRAM,
        why: "Redis, the cache of Argo CD",
    },
    Package {
        name: "git",
        program: "git",
        why: "the repository that Argo CD reads",
    },
];

/// Kinds of Argo CD that are on the cluster while it runs.
const KINDS: [&str; 2] = ["applications.argoproj.io", "appprojects.argoproj.io"];

const LIMIT: Duration = Duration::from_secs(180);

/// Installs or builds what [`ArgoCd::start`] needs.
///
/// # Errors
/// When that fails.
pub fn prepare(progress: Progress) -> Result<ArgoCdPrograms> {
    tools::ensure(PACKAGES, progress)?;
    tools::argocd(progress)
}

/// Argo CD, as it runs on a cluster.
pub struct ArgoCd {
    cluster: Cluster,
    /// It, and what judges objects as it does.
    pub programs: ArgoCdPrograms,
    /// What it reads.
    pub repository: Repository,
}

impl ArgoCd {
    /// Starts Argo CD with a repository that holds the chart and the examples of this working tree.
    ///
    /// # Errors
    /// When a program does not start, or the API server refuses an object of Argo CD's.
    pub fn start(cluster: &Cluster, progress: Progress) -> Result<Self> {
        let programs = prepare(progress)?;
        let helm = tools::helm(progress)?;
        remove(cluster)?;
        let folder = cluster.dir().join("argocd");
        let repository = Repository::create(&folder.join("repository"))?;
        configure(cluster, &programs)?;
        let argocd = Self {
            cluster: cluster.clone(),
            programs,
            repository,
        };
        argocd.run(&folder, &helm)?;
        Ok(argocd)
    }

    /// Ends Argo CD and removes its objects, without deleting what its Applications have applied.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove(self) -> Result<()> {
        remove(&self.cluster)
    }

    /// Applies a file of the repository, as a user would.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn apply(&self, path: &str) -> Result<()> {
        self.cluster.apply(NAMESPACE, &self.repository.read(path)?)
    }

    /// One of its Applications.
    pub fn application<'a>(&'a self, name: &'a str) -> Application<'a> {
        Application::new(&self.cluster, name)
    }

    /// All Applications, with what their status says, one a line.
    pub fn describe(&self) -> String {
        let all = self.cluster.list(&[KINDS[0], "--namespace", NAMESPACE]);
        match all {
            Ok(all) => all
                .iter()
                .map(application::describe)
                .collect::<Vec<_>>()
                .join("\n"),
            Err(error) => format!("{error:#}"),
        }
    }

    fn run(&self, folder: &Path, helm: &Path) -> Result<()> {
        let home = folder.join("home");
        fs::create_dir_all(&home)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let helm = helm.parent().context("helm is in a folder")?.display();
        let common = [
            "env".to_owned(),
            format!("PATH={helm}:{path}"),
            format!("HOME={}", home.display()),
            format!("TMPDIR={}", home.display()),
            "ARGOCD_GPG_ENABLED=false".to_owned(),
            // `https://kubernetes.default.svc` is the cluster of the kubeconfig.
            "ARGOCD_FAKE_IN_CLUSTER=true".to_owned(),
            format!("KUBECONFIG={}", self.cluster.kubeconfig().display()),
        ];
        let argocd = |role: &str, arguments: &[String]| -> Result<Started> {
            let mut words = common.to_vec();
            words.push(format!("ARGOCD_BINARY_NAME={role}"));
            words.push(self.programs.argocd().display().to_string());
            words.extend_from_slice(arguments);
            self.cluster.start_beside(role, &words)
        };
        // A process of the cluster is found by its environment. A title of Redis's own would overwrite that.
        let redis = format!(
            "cd '{}' && exec -a redis-server {REDIS_PROGRAM} --bind 127.0.0.1 --port {REDIS_PORT} --save '' --appendonly no \
             --set-proc-title no",
            home.display()
        );
        let redis_address = format!("--redis=127.0.0.1:{REDIS_PORT}");
        let started = [
            self.cluster
                .start_beside(REDIS, &["bash".to_owned(), "-c".to_owned(), redis])?,
            argocd(
                REPO_SERVER,
                &[
                    redis_address.clone(),
                    "--disable-tls".to_owned(),
                    "--address=127.0.0.1".to_owned(),
                    format!("--port={REPO_SERVER_PORT}"),
                    "--metrics-address=127.0.0.1".to_owned(),
                ],
            )?,
            argocd(
                CONTROLLER,
                &[
                    redis_address,
                    format!("--kubeconfig={}", self.cluster.kubeconfig().display()),
                    format!("--namespace={NAMESPACE}"),
                    format!("--repo-server=127.0.0.1:{REPO_SERVER_PORT}"),
                    "--repo-server-plaintext".to_owned(),
                    // The UI reads the health of each object from the cache, a test from the Application.
                    "--persist-resource-health".to_owned(),
                ],
            )?,
        ];
        let alive = || started.iter().try_for_each(Started::check);
        let logs = || format!("see {}", self.cluster.dir().join("log").display());
        for port in [REDIS_PORT, REPO_SERVER_PORT] {
            wait::until_unless(&format!("port {port} to be open"), LIMIT, logs, alive, || {
                let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
                let netns = format!("--net=/run/netns/{}", self.cluster.wire_netns()?);
                shell::run(Command::new("nsenter").args([netns.as_str(), "bash", "-c", &connect])).map(drop)
            })?;
        }
        Ok(())
    }
}

impl Drop for ArgoCd {
    fn drop(&mut self) {
        // What is left is named by the next start, which removes it first.
        _ = self.cluster.end_beside(&[CONTROLLER, REPO_SERVER, REDIS]);
    }
}

/// What kstatus, which Flux and kpt wait with, makes of an object: `Current`, `InProgress`, `Failed`, …, and why.
///
/// # Errors
/// When it takes it for no object.
pub fn kstatus(programs: &ArgoCdPrograms, object: &Value) -> Result<(String, String)> {
    let mut judge = Command::new(programs.judge())
        .arg("kstatus")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // The pipe ends here, and with it what is read.
    let written = judge
        .stdin
        .take()
        .map(|mut input| input.write_all(object.to_string().as_bytes()));
    let output = judge.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    written.transpose()?;
    let (status, message) = said.split_once('\t').unwrap_or((&said, ""));
    Ok((status.to_owned(), message.to_owned()))
}

/// The tests of the health scripts in `argocd/health`, run by Argo CD's own Lua engine: a line for each.
///
/// # Errors
/// When one fails.
pub fn test_health_scripts(progress: Progress) -> Result<String> {
    let folder = crate::workspace().join("argocd/health");
    shell::run(Command::new(prepare(progress)?.judge()).arg("lua").arg(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A user applies one file; the scripts that are tested, and sent upstream, are in others.
    #[test]
    fn the_configuration_has_the_health_scripts_as_they_are_tested() {
        let root = crate::workspace();
        let configuration = fs::read_to_string(root.join("examples/argocd/argocd-cm.yaml")).unwrap();
        for kind in ["Mesh", "AmbientNamespace", "WaypointPolicy"] {
            let script = root.join(format!("argocd/health/ambit.dev/{kind}/health.lua"));
            let script = fs::read_to_string(script).unwrap();
            let indented: String = script.lines().map(|line| format!("    {line}\n")).collect();
            let entry = format!("  resource.customizations.health.ambit.dev_{kind}: |\n{indented}");
            assert!(configuration.contains(&entry), "{kind}");
        }
    }
}
