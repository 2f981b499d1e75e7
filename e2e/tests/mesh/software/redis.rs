//! redis: inline commands, and refusals to clients that are too many.

use ambit_e2e::eventually;
use anyhow::{Result, ensure};
use serde_json::json;

use super::with_software;
use ambit_e2e::lab::{LIMIT, Lab};

const REDIS: &str = include_str!("../../../manifests/software/redis.yaml");

/// Words and a line end, which is what people type and probes send.
const INLINE: &str = r"printf 'SET a 1\r\nGET a\r\nQUIT\r\n' | timeout 10 nc.openbsd redis 6379 | tr -d '\r'";

#[test]
fn redis_accepts_inline_commands_and_its_errors_arrive() -> Result<()> {
    let lab = Lab::enter()?;
    with_software(&lab, "redis", REDIS, |software| {
        software.meshed.make_strict()?;
        ensure!(software.alike(INLINE)? == "+OK\n$1\n1\n+OK\n");
        ensure!(software.alike("redis-cli -h redis INCR hits")?.trim() == "1");
        // Four hold all there is, each for as long as it is let: probes and whoever looks take a place now and then,
        // and those who find none try again. All places are held once many in a row find none.
        let hold = "for i in 1 2 3 4; do (until redis-cli -h redis BLPOP nothing 0 2>&1 | grep -q nobody; do sleep 0.1; done) >/dev/null 2>&1 & done; \
                    n=0; until [ $n = 20 ]; do \
                    if redis-cli -h redis PING 2>&1 | grep -q 'max number of clients'; then n=$((n+1)); else n=0; sleep 0.2; fi; done; echo held";
        software.alike(hold)?;
        let refused = "for i in $(seq 100); do redis-cli -h redis PING 2>&1; done | grep -c 'ERR max number of clients reached'";
        ensure!(software.alike(refused)?.trim() == "100");
        // The brackets keep the script from finding itself.
        let let_go = "for p in /proc/[0-9]*; do if grep -q 'BLPO[P]' $p/cmdline; then kill ${p#/proc/}; fi; done 2>/dev/null; \
                      until redis-cli -h redis PING 2>/dev/null | grep PONG; do sleep 0.2; done";
        software.alike(let_go)?;

        // A policy for the namespace brings a waypoint in front of everything in it: what is no HTTP goes on as it was.
        let policy = json!({
            "apiVersion": "ambit.dev/v1alpha1", "kind": "WaypointPolicy", "metadata": {"name": "slow"},
            "spec": {"targetRefs": [{"kind": "Namespace", "name": software.meshed.namespace()}], "timeouts": {"request": "30s"}},
        });
        lab.cluster
            .apply(software.meshed.namespace(), &policy.to_string())?;
        eventually("the policy to be enforced", LIMIT, || {
            let namespace = software.meshed.namespace();
            let object = lab
                .cluster
                .get(&["waypointpolicy", "slow", "--namespace", namespace])?;
            let conditions = &object["status"]["ancestors"][0]["conditions"];
            let programmed = conditions
                .as_array()
                .into_iter()
                .flatten()
                .find(|one| one["type"] == "Programmed");
            ensure!(
                programmed.is_some_and(|one| one["status"] == "True"),
                "{}",
                object["status"]
            );
            Ok(())
        })?;
        ensure!(software.alike(INLINE)? == "+OK\n$1\n1\n+OK\n");
        ensure!(software.alike("redis-cli -h redis INCR hits")?.trim() == "2");
        Ok(())
    })
}
