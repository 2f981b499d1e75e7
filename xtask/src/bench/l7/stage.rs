//! Where the benchmark takes place: the load and the backend in one network namespace and on one core, the proxy in
//! another and on another. The namespaces have a wire to each other and none to anywhere else.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use ambit_bench::Report;
use ambit_bench::l7::{
    CONTROL_PORT, HBONE_PORT, HTTP_PORT, NAMESPACE, SERVER, SERVICE_IP, SERVICE_PORT, TRUST_DOMAIN, Verdict,
    WAYPOINT, files,
};
use anyhow::{Context, Result, ensure};

use super::config;
use super::contestant::{Contestant, Group};
use super::peers::Peers;
use super::started::{Proxy, Service};
use crate::workspace;

/// A network namespace and a core.
pub(super) struct Place {
    netns: &'static str,
    core: usize,
    /// Its address on the wire (RFC 5737: nobody's).
    pub(super) ip: Ipv4Addr,
}

/// Load, backend and control plane.
pub(super) const LOAD: Place = Place {
    netns: "ambit-bench-load",
    core: 0,
    ip: Ipv4Addr::new(192, 0, 2, 1),
};

/// The proxy.
pub(super) const PROXY: Place = Place {
    netns: "ambit-bench-proxy",
    core: 1,
    ip: Ipv4Addr::new(192, 0, 2, 2),
};

impl Place {
    /// A program there. It ends when the benchmark does, however that ends.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns));
        command.args([
            "--",
            "setpriv",
            "--pdeathsig",
            "TERM",
            "--",
            "taskset",
            "--cpu-list",
        ]);
        command.arg(self.core.to_string()).arg(program.as_ref());
        command
    }
}

/// Where the load sends to, and as what: arguments of `ambit-bench-l7`.
pub(super) struct Target(Vec<String>);

/// The namespaces and the backend. Dropping it removes them.
pub(super) struct Stage {
    dir: PathBuf,
    bench: PathBuf,
    waypoint: PathBuf,
    /// Before the namespaces: it is ended first.
    _backend: Service,
    _wire: Wire,
    _lock: File,
}

impl Stage {
    /// Makes it, with the programs in `binaries`.
    pub(super) fn set(binaries: &Path) -> Result<Self> {
        let cores = thread::available_parallelism()?.get();
        ensure!(
            cores >= 2,
            "load and proxy need a core each, and this machine gives {cores}"
        );
        let dir = workspace::target().join("bench-l7");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let lock = File::create(dir.join("lock"))?;
        ensure!(
            lock.try_lock().is_ok(),
            "another run of this benchmark is under way: they would disturb each other"
        );
        let bench = binaries.join("ambit-bench-l7");
        workspace::output(Command::new(&bench).arg("setup").arg(&dir))?;
        let wire = Wire::lay()?;
        let mut backend = LOAD.command(&bench);
        backend.arg("backend").arg("--dir").arg(&dir);
        backend.arg(format!("--http={}", address(&LOAD, HTTP_PORT)));
        backend.arg(format!("--hbone={}", address(&LOAD, HBONE_PORT)));
        Ok(Self {
            _backend: Service::start("backend", &mut backend, &dir)?,
            waypoint: binaries.join("ambit-waypoint"),
            bench,
            dir,
            _wire: wire,
            _lock: lock,
        })
    }

    /// What the load is to be told for a contestant, and for this port of the Service.
    pub(super) fn target(&self, contestant: Contestant, port: u16) -> Target {
        let place = if contestant.is_direct() { &LOAD } else { &PROXY };
        let (authority, peer) = match contestant.group() {
            Group::Http => return Target(vec![format!("--address={}", address(place, HTTP_PORT))]),
            Group::Hbone if contestant.is_direct() => (address(&LOAD, HTTP_PORT), SERVER),
            Group::Hbone => (SocketAddr::from((SERVICE_IP, port)), WAYPOINT),
        };
        Target(vec![
            format!("--address={}", address(place, HBONE_PORT)),
            format!("--hbone={}", self.dir.display()),
            format!("--authority={authority}"),
            format!("--peer={peer}"),
        ])
    }

    /// Starts a proxy and waits until it answers.
    pub(super) fn start(&self, contestant: Contestant, peers: &Peers) -> Result<Proxy> {
        let control = contestant
            .is_ambit()
            .then(|| self.control_plane(contestant))
            .transpose()?;
        let mut command = self.proxy(contestant, peers)?;
        let probe = self.probe(&self.target(contestant, SERVICE_PORT));
        Proxy::start(contestant.name(), &mut command, probe, control, &self.dir)
    }

    /// What the way without a proxy lets through.
    pub(super) fn verdict(&self, target: &Target) -> Result<Verdict> {
        let printed = workspace::output(&mut self.probe(target))?;
        let line = printed.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("ambit-bench-l7 printed {printed}"))
    }

    /// Runs the load once.
    pub(super) fn load(&self, target: &Target, arguments: &[String]) -> Result<Report> {
        let mut load = LOAD.command(&self.bench);
        load.arg("load").args(&target.0).args(arguments);
        let printed = workspace::output(&mut load)?;
        serde_json::from_str(&printed).with_context(|| format!("ambit-bench-l7 printed {printed}"))
    }

    fn probe(&self, target: &Target) -> Command {
        let mut probe = LOAD.command(&self.bench);
        probe.arg("probe").args(&target.0);
        probe
    }

    fn control_plane(&self, contestant: Contestant) -> Result<Service> {
        let mut control = LOAD.command(&self.bench);
        control.arg("control").arg("--dir").arg(&self.dir);
        control.arg(format!("--listen={}", address(&LOAD, CONTROL_PORT)));
        control.arg(format!("--backend={}", address(&LOAD, HTTP_PORT)));
        control.arg(format!("--routes={}", contestant.routes()));
        if contestant.writes_access_log() {
            control.arg("--access-log");
        }
        Service::start("control", &mut control, &self.dir)
    }

    fn proxy(&self, contestant: Contestant, peers: &Peers) -> Result<Command> {
        let config = |name: &str| config::write(name, &self.dir, contestant);
        let envoy = |name: &str| -> Result<Command> {
            let binary = peers.envoy.as_ref().context("Envoy was not installed")?;
            let mut envoy = PROXY.command(binary);
            envoy.args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "warn",
            ]);
            envoy.arg("--config-path").arg(config(name)?);
            Ok(envoy)
        };
        Ok(match contestant {
            Contestant::Ambit | Contestant::AmbitLog | Contestant::AmbitRoutes => {
                let mut waypoint = PROXY.command(&self.waypoint);
                waypoint.env_clear().envs(self.environment());
                waypoint.env("PATH", std::env::var_os("PATH").unwrap_or_default());
                waypoint
            }
            Contestant::Envoy | Contestant::EnvoyLog | Contestant::EnvoyRoutes => {
                envoy("envoy-waypoint.yaml")?
            }
            Contestant::EnvoyRouter => envoy("envoy-http.yaml")?,
            Contestant::Nginx => {
                let mut nginx = PROXY.command("nginx");
                nginx.arg("-c").arg(config("nginx.conf")?);
                nginx
            }
            Contestant::Haproxy => {
                let mut haproxy = PROXY.command("haproxy");
                haproxy.arg("-db").arg("-f").arg(config("haproxy.cfg")?);
                haproxy
            }
            Contestant::DirectHbone | Contestant::Direct => anyhow::bail!("there is no proxy to start"),
        })
    }

    /// What the operator gives a waypoint's pod.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let file = |name: &str| self.dir.join(name).display().to_string();
        vec![
            (
                "AMBIT_CONTROL_PLANE",
                format!("https://{}", address(&LOAD, CONTROL_PORT)),
            ),
            ("AMBIT_ROOT_CERT", file(files::ROOT)),
            ("AMBIT_TOKEN", file(files::TOKEN)),
            ("AMBIT_TRUST_DOMAIN", TRUST_DOMAIN.into()),
            ("AMBIT_CLUSTER_ID", "Kubernetes".into()),
            ("AMBIT_WAYPOINT", WAYPOINT.into()),
            ("AMBIT_DRAIN_DEADLINE", "5".into()),
            ("NODE_NAME", "n1".into()),
            ("POD_NAME", "waypoint-0".into()),
            ("POD_NAMESPACE", NAMESPACE.into()),
            ("SERVICE_ACCOUNT", WAYPOINT.into()),
        ]
    }
}

fn address(place: &Place, port: u16) -> SocketAddr {
    SocketAddr::from((place.ip, port))
}

/// The two namespaces and what joins them.
struct Wire;

impl Wire {
    fn lay() -> Result<Self> {
        // What a killed run left.
        Self::remove();
        let wire = Self;
        for place in [&LOAD, &PROXY] {
            ip(&format!("netns add {}", place.netns))
                .context("the benchmark makes network namespaces; run it as root")?;
            ip(&format!("-n {} link set lo up", place.netns))?;
        }
        let (load, proxy) = (LOAD.netns, PROXY.netns);
        ip(&format!(
            "-n {load} link add wire type veth peer name wire netns {proxy}"
        ))?;
        for place in [&LOAD, &PROXY] {
            ip(&format!("-n {} addr add {}/24 dev wire", place.netns, place.ip))?;
            ip(&format!("-n {} link set wire up", place.netns))?;
        }
        Ok(wire)
    }

    fn remove() {
        for place in [&LOAD, &PROXY] {
            if Path::new("/run/netns").join(place.netns).exists()
                && let Err(error) = ip(&format!("netns delete {}", place.netns))
            {
                eprintln!("{error:#}");
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        Self::remove();
    }
}

fn ip(arguments: &str) -> Result<String> {
    workspace::output(Command::new("ip").args(arguments.split(' ')))
}
