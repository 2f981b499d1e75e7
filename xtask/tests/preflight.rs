//! On a machine that lacks something, commands say so before they do anything: all of it in one message.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs, io, process};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");

fn scratch(name: &str) -> io::Result<PathBuf> {
    let dir = env::temp_dir().join(format!("ambit-preflight-{name}-{}", process::id()));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Its standard error, once it has failed.
fn failure(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it did not fail: {text}");
    assert!(text.contains("this machine lacks what that takes"), "{text}");
    text
}

#[test]
fn a_machine_without_go_a_compiler_and_packages_is_told_all_of_it() {
    let dir = scratch("bare").unwrap();
    for command in ["demo", "test"] {
        let output = Command::new(XTASK)
            .arg(command)
            .env_remove("CC")
            .env("PATH", &dir)
            .env("XDG_CACHE_HOME", dir.join("cache"))
            .output()
            .unwrap();
        let text = failure(&output);
        for said in [
            "`go` is not in PATH",
            "https://go.dev/dl",
            "a C compiler",
            "apt-get install gcc",
            "there is no apt-get",
            "containerd",
        ] {
            assert!(text.contains(said), "{command} does not say {said}: {text}");
        }
    }
    assert!(!dir.join("cache").exists(), "something was begun");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_disk_that_is_too_small_is_told_before_a_cluster_is_made() {
    let dir = scratch("disk").unwrap();
    // In a mount namespace of its own, which takes the file system with it.
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=64m none \"$XDG_CACHE_HOME\" && exec \"$0\" cluster up --name too-small")
        .arg(XTASK)
        .env("XDG_CACHE_HOME", &dir)
        .output()
        .unwrap();
    let text = failure(&output);
    for said in ["0.0 GB are free", "kubelets delete images", "XDG_CACHE_HOME"] {
        assert!(text.contains(said), "it does not say {said}: {text}");
    }
    fs::remove_dir_all(dir).unwrap();
}
