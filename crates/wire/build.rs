//! Compiles `proto/` with a protobuf compiler in Rust: nothing to install.

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "workload",
        "authorization",
        "ca",
        "xds",
        "agent",
        "waypoint",
        "loads",
        "broker",
        "cri",
    ]
    .map(|n| format!("{n}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
