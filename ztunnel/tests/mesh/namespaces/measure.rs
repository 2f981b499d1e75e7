//! What the pair of ztunnels costs against the direct path, without a cluster: run by hand, in release, with
//! `AMBIT_BENCH` set to the `ambit-bench` binary.

use std::process::{Command, Stdio};
use std::sync::Arc;

use ambit_tls::testing::TestCa;
use ambit_wire::workload::TunnelProtocol;

use super::net::{Net, Pod};
use crate::control_plane::{ControlPlane, workload};
use crate::node::{Node, until};

async fn bench(pod: &Pod, arguments: String) -> String {
    let program = std::env::var("AMBIT_BENCH").expect("AMBIT_BENCH is the path of ambit-bench");
    let run = move || {
        let output = Command::new(program)
            .args(arguments.split_whitespace())
            .stderr(Stdio::inherit())
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    pod.run(run).await.unwrap()
}

const WORKS: [&str; 7] = [
    "throughput --connections 1 --target {}:5201",
    "throughput --connections 4 --target {}:5201",
    "request --connections 1 --target {}:5202",
    "request --connections 16 --target {}:5202",
    "request --connections 32 --target {}:5202",
    "connect --connections 1 --target {}:5203",
    "connect --connections 16 --target {}:5203",
];

async fn all(title: &str, client: &Pod, server: &Pod) {
    let only = std::env::var("ONLY").unwrap_or_default();
    for work in WORKS.iter().filter(|work| work.contains(&only)) {
        let line = work.replace("{}", &server.ip.to_string());
        let answer = bench(client, format!("client {line} --seconds 4")).await;
        println!(
            "{title:8} {:40} {}",
            work.split(" --target").next().unwrap(),
            answer.trim()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn measure() {
    let net = Net::new();
    let (client, server) = (net.pod("client", 2).await, net.pod("server", 3).await);
    let program = std::env::var("AMBIT_BENCH").expect("AMBIT_BENCH is the path of ambit-bench");
    let mut serving = server
        .run(move || Command::new(program).arg("server").spawn())
        .await
        .unwrap();
    // It opens all its ports before it serves any.
    until("the server listens", async || {
        let connect = || std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, 5203));
        server.run(connect).await.is_ok()
    })
    .await;
    if std::env::var("DIRECT").is_ok() {
        all("direct", &client, &server).await;
    }
    let (control_plane, ca) = (ControlPlane::start().await, Arc::new(TestCa::new().unwrap()));
    let limits = ambit_ztunnel::Limits::of_process;
    let mut nodes = Vec::new();
    for pod in [&client, &server] {
        let mut node = Node::start_parts(&control_plane, &ca, limits(), None).await;
        pod.capture(&mut node).await;
        control_plane.set_workload(workload(pod.name, pod.ip, TunnelProtocol::Hbone));
        node.ready().await;
        nodes.push(node);
    }
    until("both are known", async || {
        nodes[0].config_dump().await["workloads"]
            .as_object()
            .is_some_and(|workloads| workloads.len() == 2)
    })
    .await;
    all("ambit", &client, &server).await;
    serving.kill().unwrap();
    serving.wait().unwrap();
}
