//! A tenant who means harm: what it takes is bounded, what it forges is refused, and a bystander notices nothing of it.

mod floods;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use ambit_e2e::eventually;
use ambit_e2e::mesh::{self, LogLine, Pod};
use ambit_e2e::sample::{CLIENTS, Plan, Shop, Web};
use ambit_identity::SpiffeId;
use ambit_wire::names::{PORT_CONTROL, PORT_HBONE, TOKEN_AUDIENCE};
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::failures::operators;
use crate::hbone::{Caller, certificate, token, ztunnel_token};
use crate::waypoint::{WAYPOINT, ambient, enforce};
use ambit_e2e::lab::{LIMIT, Lab};

const ATTACKER: &str = "attacker";

/// What a process may have whose container has no limit of memory, in bytes: its own budgets are to keep it below.
const UNLIMITED: u64 = 512 << 20;

/// One of the mesh's own processes, as it was before the attacks.
struct Watched {
    pod: Pod,
    container: &'static str,
    /// In bytes.
    memory_limit: u64,
}

impl Watched {
    fn all(lab: &Lab, web: &Web) -> Result<Vec<Self>> {
        let of = |pods: Vec<Pod>, container| {
            pods.into_iter()
                .map(move |pod| Self::new(lab, pod, container))
                .collect::<Result<Vec<_>>>()
        };
        let mut all = of(mesh::control_planes(&lab.cluster)?, "control")?;
        all.extend(of(mesh::operators(&lab.cluster)?, "operator")?);
        all.extend(of(mesh::ztunnels(&lab.cluster)?, "ztunnel")?);
        all.extend(of(web.waypoints(WAYPOINT)?, "waypoint")?);
        Ok(all)
    }

    fn new(lab: &Lab, pod: Pod, container: &'static str) -> Result<Self> {
        let object = lab
            .cluster
            .get(&["pod", &pod.name, "--namespace", &pod.namespace])?;
        let containers = object["spec"]["containers"].as_array();
        let found = containers.and_then(|all| all.iter().find(|one| one["name"] == container));
        let limit = found.with_context(|| format!("{} has no container {container}", pod.name))?;
        let memory_limit = match limit["resources"]["limits"]["memory"].as_str() {
            Some(text) => bytes(text)?,
            None => UNLIMITED,
        };
        Ok(Self {
            pod,
            container,
            memory_limit,
        })
    }

    /// Fails if it was started again, or if its memory was ever above its limit; returns the most that it had, in MiB.
    fn ensure_well(&self, lab: &Lab) -> Result<u64> {
        let pods = Pod::list(&lab.cluster, &self.pod.namespace, "")?;
        let now = pods.into_iter().find(|now| now.uid == self.pod.uid);
        let now = now.with_context(|| format!("{} is gone", self.pod.name))?;
        ensure!(
            now.restarts == self.pod.restarts && now.ready,
            "{now:?} was {:?}",
            self.pod
        );
        let pid = now.node(&lab.cluster)?.container_pid(&now.uid, self.container)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        let peak = peak.with_context(|| format!("no VmHWM in {status}"))? * 1024;
        ensure!(
            peak < self.memory_limit,
            "{} had {peak} bytes; its limit is {}",
            now.name,
            self.memory_limit
        );
        Ok(peak >> 20)
    }
}

/// A quantity of memory, in bytes.
fn bytes(quantity: &str) -> Result<u64> {
    let (number, unit) = match quantity.find(|letter: char| !letter.is_ascii_digit()) {
        Some(at) => quantity.split_at(at),
        None => (quantity, ""),
    };
    let factor = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        other => bail!("{quantity}: unit {other} is not known"),
    };
    Ok(number.parse::<u64>()? * factor)
}

/// The attacker's pod, in the mesh and in a namespace of its own.
fn attacker(tenant: &Shop) -> Result<Pod> {
    tenant.run_pod(
        ATTACKER,
        ATTACKER,
        &["client", "--http=http://localhost:8081/stats"],
    )?;
    tenant.wait_ready()?;
    tenant.enroll()?;
    tenant.pod_of(ATTACKER)
}

#[test]
fn flood_of_one_tenant_harms_no_other() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_web("bystander", |web| {
        let rule = json!({"name": "no-deletes", "action": "Deny", "methods": ["DELETE"]});
        // One replica, so that what it holds is not shared out, and none comes meanwhile.
        let one = json!({"waypoint": {"minReplicas": 1, "maxReplicas": 1}});
        lab.cluster.apply(web.namespace(), &ambient(one))?;
        enforce(&lab, web, "verbs", json!({"authorization": [rule]}))?;
        lab.with_namespace("hostile", |tenant| {
            lab.with_namespace("outside", |outside| {
                outside.run_pod(
                    "stranger",
                    "stranger",
                    &["client", "--http=http://localhost:8081/stats"],
                )?;
                outside.wait_ready()?;
                let siege = Siege {
                    lab: &lab,
                    web,
                    tenant,
                    attacker: attacker(tenant)?,
                    stranger: outside.pod_of("stranger")?,
                    watched: Watched::all(&lab, web)?,
                    runtime: Runtime::new()?,
                };
                siege.run()
            })
        })
    })
}

struct Siege<'a> {
    lab: &'a Lab,
    web: &'a Web,
    /// The attacker's namespace.
    tenant: &'a Shop,
    /// In the mesh, as any tenant's pod.
    attacker: Pod,
    /// Outside of the mesh.
    stranger: Pod,
    watched: Vec<Watched>,
    runtime: Runtime,
}

impl Siege<'_> {
    fn run(&self) -> Result<()> {
        self.web.load_all(&Plan::get(4, "/").every(20))?;
        for client in CLIENTS {
            self.web.wait_more(client, 50)?;
        }
        self.cancelled_streams()?;
        self.slow_readers()?;
        self.stalled_uploads()?;
        self.heads_without_end()?;
        self.silent_connections()?;
        self.connect_floods()?;
        self.large_messages()
    }

    /// With what an attack holds still held, the bystanders are answered as before.
    fn endured(&self, attack: &str, said: &str) -> Result<()> {
        for client in CLIENTS {
            self.web
                .wait_more(client, 100)
                .with_context(|| attack.to_owned())?;
        }
        let counts = self.web.ensure_no_failure().with_context(|| attack.to_owned())?;
        let mut peaks = Vec::new();
        for watched in &self.watched {
            let peak = watched.ensure_well(self.lab).with_context(|| attack.to_owned())?;
            peaks.push(format!("{} {peak}", watched.container));
        }
        println!(
            "{attack}: {said}; bystanders: {} answered, 0 failed, slowest {} ms; most memory in MiB: {}",
            counts[0].ok + counts[1].ok,
            counts[0].max_micros.max(counts[1].max_micros) / 1000,
            peaks.join(", ")
        );
        Ok(())
    }

    fn service(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::from((self.web.vip()?, Web::HTTP)))
    }

    fn cancelled_streams(&self) -> Result<()> {
        let mut cancelled = 0;
        for _ in 0..30 {
            let stream = self.attacker.dial(&self.lab.cluster, self.service()?)?;
            cancelled += self.runtime.block_on(floods::cancel(stream, 100))?;
        }
        ensure!(cancelled > 0, "no stream could be opened");
        self.endured("cancelled streams", &format!("{cancelled} of 3000 were opened"))
    }

    fn slow_readers(&self) -> Result<()> {
        let mut held = Vec::new();
        let mut begun = 0;
        for stream in self.dial(&self.attacker, self.service()?, 20)? {
            let (holding, answers) = self.runtime.block_on(floods::read_nothing(stream, 100))?;
            begun += answers;
            held.push(holding);
        }
        ensure!(begun > 0, "nothing was answered");
        self.endured(
            "slow readers",
            &format!("{begun} of 2000 answers of 1 MiB begun and not read"),
        )
    }

    fn stalled_uploads(&self) -> Result<()> {
        let mut held = Vec::new();
        let mut sent = 0;
        for stream in self.dial(&self.attacker, self.service()?, 20)? {
            let (holding, bytes) = self.runtime.block_on(floods::upload(stream, 100))?;
            sent += bytes;
            held.push(holding);
        }
        ensure!(sent > 0, "nothing was taken");
        self.endured(
            "stalled uploads",
            &format!("{} MiB taken of 2000 requests without an end", sent >> 20),
        )
    }

    fn heads_without_end(&self) -> Result<()> {
        use std::io::Write;
        let mut held = self.dial(&self.attacker, self.service()?, 1000)?;
        let mut written = 0;
        for stream in &mut held {
            let head = format!("GET / HTTP/1.1\r\nx-fill: {}", "a".repeat(4096));
            written += u32::from(stream.write_all(head.as_bytes()).is_ok());
        }
        ensure!(written > 0, "none could be written to");
        self.endured(
            "requests whose heads do not end",
            &format!("{written} of 1000 are open"),
        )
    }

    /// Nothing, and what is no TLS, at every port that takes a handshake.
    fn silent_connections(&self) -> Result<()> {
        use std::io::Write;
        let mut held = Vec::new();
        let mut said = Vec::new();
        for (what, ip, port) in self.doors()? {
            let mut streams = self.dial(&self.stranger, SocketAddr::from((ip, port)), 500)?;
            for stream in streams.iter_mut().step_by(2) {
                // Who is refused already has a connection that is closed.
                let _ = stream.write_all(&[0x16, 3, 1, 0x40, 0]);
            }
            said.push(format!("{} to {what}", streams.len()));
            held.push(streams);
        }
        // New pods get their certificates nevertheless.
        let url = format!("http://web.{}:{}/", self.web.namespace(), Web::HTTP);
        let (succeeded, answer) = self.tenant.run_to_end("newcomer", "newcomer", &["get", &url])?;
        ensure!(succeeded, "a new pod meanwhile: {answer}");
        self.endured("silent connections", &said.join(", "))
    }

    fn doors(&self) -> Result<Vec<(&'static str, Ipv4Addr, u16)>> {
        let mut doors = Vec::new();
        for watched in &self.watched {
            match watched.container {
                "control" => doors.push(("a control plane", watched.pod.ip, PORT_CONTROL)),
                "waypoint" => doors.push(("the waypoint", watched.pod.ip, PORT_HBONE)),
                _ => {}
            }
        }
        for server in self.web.servers()? {
            doors.push(("a server's ztunnel", server.ip, PORT_HBONE));
        }
        Ok(doors)
    }

    /// With a certificate of the attacker's own, as its node's ztunnel has it.
    fn connect_floods(&self) -> Result<()> {
        let ztunnel = self.lab.ztunnel_of(&self.attacker)?;
        let token = ztunnel_token(&self.lab.cluster, &ztunnel)?;
        let identity = SpiffeId::new("cluster.local", &self.attacker.namespace, ATTACKER)?;
        let certificate = self
            .runtime
            .block_on(certificate(&self.lab.cluster, &token, &identity))?
            .map_err(|status| anyhow::anyhow!("no certificate: {status:?}"))?;
        let mut opened = 0;
        for watched in self
            .watched
            .iter()
            .filter(|watched| watched.container == "waypoint")
        {
            let account = SpiffeId::new("cluster.local", self.web.namespace(), WAYPOINT)?;
            let caller = Caller::new(&certificate, &account);
            let authority = self.service()?.to_string();
            for _ in 0..30 {
                let flood = floods::connect(&caller, watched.pod.ip, &authority, 100);
                opened += self.runtime.block_on(flood)?;
            }
        }
        for server in self.web.servers()? {
            let account = SpiffeId::new("cluster.local", self.web.namespace(), "web")?;
            let caller = Caller::new(&certificate, &account);
            // The guard refuses all but the waypoint; what is refused must not be cheaper to ask than to refuse.
            let authority = format!("{}:{}", server.ip, Web::HTTP);
            for _ in 0..30 {
                let flood = floods::connect(&caller, server.ip, &authority, 100);
                opened += self.runtime.block_on(flood)?;
            }
        }
        ensure!(opened > 0, "no stream could be opened");
        self.endured("CONNECTs given up at once", &format!("{opened} were opened"))
    }

    /// Requests of 64 MiB to the control plane: from a pod of a tenant, and in the name of a ztunnel.
    fn large_messages(&self) -> Result<()> {
        let ztunnel = self.lab.ztunnel_of(&self.attacker)?;
        let mut said = Vec::new();
        for (who, token) in [
            ("nobody", String::new()),
            ("an invented token", "x.y.z".to_owned()),
            (
                "a tenant's pod",
                token(&self.lab.cluster, ATTACKER, TOKEN_AUDIENCE, Some(&self.attacker))?,
            ),
            ("a ztunnel", ztunnel_token(&self.lab.cluster, &ztunnel)?),
        ] {
            let mut codes = Vec::new();
            for _ in 0..5 {
                let flood = floods::large_message(&self.lab.cluster, &token);
                codes.push(self.runtime.block_on(flood)?);
            }
            ensure!(
                codes.iter().all(|code| *code != Code::Ok),
                "{who} was served: {codes:?}"
            );
            said.push(format!("{who}: {:?}", codes[0]));
        }
        self.endured("messages of 64 MiB", &said.join(", "))
    }

    fn dial(&self, from: &Pod, target: SocketAddr, count: usize) -> Result<Vec<std::net::TcpStream>> {
        let dialled = from.dial_many(&self.lab.cluster, target, count)?;
        // Those that were refused are what the limits are for.
        let open: Vec<_> = dialled.into_iter().flatten().collect();
        ensure!(
            !open.is_empty(),
            "{target} takes no connection from {}",
            from.name
        );
        Ok(open)
    }
}

/// A Service that only looks as if the operator had made it, with a pod behind it that takes itself for the waypoint.
#[test]
fn forged_waypoint_is_refused_with_event() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_namespace("forged", |tenant| {
        let labels = json!({
            "ambit.dev/waypoint": "payments",
            "app.kubernetes.io/managed-by": "ambit-operator",
            "app.kubernetes.io/part-of": "ambit",
            "gateway.networking.k8s.io/gateway-name": "payments",
            "istio.io/use-waypoint": "payments",
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "payments", "labels": labels, "annotations": {"ambit.dev/bound": "true", "ambit.dev/applied-hash": "0"}},
            "spec": {"selector": {"app": "evil"}, "ports": [{"name": "hbone", "port": 15008}]},
        });
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "payments"}});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "evil", "labels": {"app": "evil", "ambit.dev/waypoint": "payments", "gateway.networking.k8s.io/gateway-name": "payments"}},
            "spec": {
                "serviceAccountName": "payments", "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "sample", "image": ambit_e2e::sample::IMAGE, "args": ["client", "--http=http://localhost:8081/stats"]}],
            },
        });
        let refused = lab.cluster.refusal(tenant.namespace(), &service.to_string())?;
        ensure!(refused.contains("only Ambit's operator sets them"), "{refused}");
        println!("at the door: {}", refused.trim());
        // No right rests on the door: somebody gets past it.
        let operator = format!("system:serviceaccount:{}:ambit-operator", mesh::NAMESPACE);
        lab.cluster
            .apply_as(&operator, tenant.namespace(), &service.to_string())?;
        for object in [account, pod] {
            lab.cluster.apply(tenant.namespace(), &object.to_string())?;
        }
        tenant.wait_ready()?;
        let evil = tenant.pod_of("evil")?;
        let runtime = Runtime::new()?;
        let wanted = SpiffeId::new("cluster.local", tenant.namespace(), "payments")?;
        let token = token(&lab.cluster, "payments", TOKEN_AUDIENCE, Some(&evil))?;
        let refused = || -> Result<()> {
            match runtime.block_on(certificate(&lab.cluster, &token, &wanted))? {
                Ok(_) => bail!("it got a certificate of {wanted}"),
                Err(status) => {
                    ensure!(status.code() == Code::PermissionDenied, "{status:?}");
                    Ok(())
                }
            }
        };
        refused()?;
        let told = eventually("an Event at the forged Service", LIMIT, || {
            let field = "--field-selector=involvedObject.kind=Service,involvedObject.name=payments";
            let events = lab
                .cluster
                .list(&["events", "--namespace", tenant.namespace(), field])?;
            let event = events.into_iter().find(|event| event["type"] == "Warning");
            event.context("there is none")
        })?;
        println!("{}: {}", told["reason"], told["message"]);
        eventually("a log of it", LIMIT, || {
            let mut lines = Vec::new();
            for (operator, _) in operators(&lab)? {
                lines.extend(LogLine::find(&lab.cluster, &operator, &["payments", "refused"])?);
            }
            let line = lines.first().context("no line")?;
            println!("{}", line.text());
            Ok(())
        })?;
        // In the mesh, it is a pod as any other: still no waypoint.
        tenant.enroll()?;
        refused()
    })
}
