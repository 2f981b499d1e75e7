//! nginx behind HAProxy: early refusals, roll-outs and a drained node under load.

use anyhow::{Context, Result, anyhow, ensure};

use super::with_software;
use ambit_e2e::lab::Lab;

const WEB: &str = include_str!("../../../manifests/software/web.yaml");

/// What `ab` counts of a run: requests complete, and of these failed.
fn counted(said: &str) -> Result<(u32, u32)> {
    let number = |label: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(label));
        let number = line.and_then(|rest| rest.trim().parse().ok());
        number.with_context(|| format!("no {label:?} in {said}"))
    };
    Ok((number("Complete requests:")?, number("Failed requests:")?))
}

#[test]
fn nginx_behind_haproxy_rolls_out_under_load() -> Result<()> {
    let lab = Lab::enter()?;
    with_software(&lab, "web", WEB, |software| {
        software.meshed.make_strict()?;
        ensure!(software.alike("curl -sS 'http://haproxy:8080/a?b=%2F'")?.trim() == "/a?b=%2F");
        // nginx refuses a body that is too large before it has come, and reads no more of it.
        let early = "head -c 5000000 /dev/zero >/tmp/body; for i in $(seq 50); do \
                     curl -s -o /dev/null -w '%{http_code}\\n' -H 'Expect:' -T /tmp/body http://nginx:8080/upload; done | grep -c 413";
        ensure!(software.alike(early)?.trim() == "50");

        let load = "ab -q -r -s 20 -t 25 -n 1000000 -c 4 http://haproxy:8080/ 2>&1";
        let node = lab
            .cluster
            .nodes()
            .first()
            .context("there is no node")?
            .name()
            .to_owned();
        let (changed, loaded) = std::thread::scope(|scope| {
            let changing = scope.spawn(|| {
                software.kubectl(&["rollout", "restart", "deployment/nginx", "deployment/haproxy"])?;
                for deployment in ["deployment/nginx", "deployment/haproxy"] {
                    software.kubectl(&["rollout", "status", deployment, "--timeout=120s"])?;
                }
                let drain = [
                    "drain",
                    &node,
                    "--ignore-daemonsets",
                    "--delete-emptydir-data",
                    "--pod-selector=app in (nginx, haproxy)",
                ];
                lab.cluster.run_kubectl(&drain).map(drop)
            });
            let loaded = software.both(load);
            (changing.join(), loaded)
        });
        let uncordoned = lab.cluster.run_kubectl(&["uncordon", &node]);
        changed.map_err(|_| anyhow!("the thread panicked"))??;
        uncordoned?;
        let (native, meshed) = loaded?;
        let (native, meshed) = (counted(&native)?, counted(&meshed)?);
        println!("requests and failures: natively {native:?}, in the mesh {meshed:?}");
        ensure!(
            native.0 > 1000 && meshed.0 > 1000,
            "hardly a request: natively {native:?}, in the mesh {meshed:?}"
        );
        ensure!(
            meshed.1 <= native.1,
            "failures: natively {native:?}, in the mesh {meshed:?}"
        );
        Ok(())
    })
}
