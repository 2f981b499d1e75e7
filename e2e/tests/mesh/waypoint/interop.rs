//! gRPC's own interoperation tests, through a waypoint.

use ambit_e2e::lab::Lab;
use anyhow::{Context, Result, ensure};

use super::smuggling::serve;

const GRPC: &str = include_str!("../../../manifests/software/grpc.yaml");

/// All cases of the client in Go that need no credentials of a cloud. It has none for compression; without a mesh, too, the
/// server in Go fails pick_first_unary (it has no id), orca_per_rpc and orca_oob.
const CASES: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];

#[test]
fn grpc_interop_passes_through_the_waypoint() -> Result<()> {
    let lab = Lab::enter()?;
    lab.with_namespace("interop", |shop| {
        lab.cluster.apply(shop.namespace(), GRPC)?;
        shop.wait_ready()?;
        shop.enroll()?;
        serve(&lab, shop, &["grpc"])?;
        let caller = shop.pod_of("caller")?;
        let waypoint = || -> Result<f64> {
            let pods =
                ambit_e2e::mesh::Pod::list(&lab.cluster, shop.namespace(), "ambit.dev/waypoint=waypoint")?;
            pods.iter()
                .map(|pod| pod.metric("istio_requests_total", &["request_protocol=\"grpc\""]))
                .sum()
        };
        let run = |case: &str| {
            let test = format!("-test_case={case}");
            let command = [
                "/client",
                "-server_host=grpc",
                "-server_port=8080",
                &test,
                "-soak_iterations=50",
            ];
            lab.cluster.exec(shop.namespace(), &caller.name, &command)
        };
        ambit_e2e::eventually("calls to go through the waypoint", ambit_e2e::lab::LIMIT, || {
            let before = waypoint()?;
            run("empty_unary")?;
            ensure!(waypoint()? > before, "the waypoint counts none");
            Ok(())
        })?;
        let before = waypoint()?;
        let failed: Vec<String> = CASES
            .iter()
            .filter_map(|case| run(case).with_context(|| (*case).to_owned()).err())
            .map(|error| format!("{error:#}"))
            .collect();
        println!("{} of {} cases passed", CASES.len() - failed.len(), CASES.len());
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        let calls = waypoint()? - before;
        ensure!(calls >= CASES.len() as f64, "the waypoint counted {calls} calls");
        Ok(())
    })
}
