//! Software as people run it: each thing is done twice in one run, outside of the mesh and inside, and must come out
//! alike.

mod databases;
mod redis;
mod web;

use std::thread;

use ambit_e2e::sample::Shop;
use anyhow::{Context, Result, anyhow, ensure};

use ambit_e2e::lab::Lab;

const CLIENT: &str = include_str!("../../manifests/software/client.yaml");

/// The same software in two namespaces.
struct Software<'a> {
    lab: &'a Lab,
    native: Shop,
    meshed: Shop,
}

/// Deploys `manifest` and a client into two namespaces, one of them in the mesh, and runs `test`.
fn with_software(
    lab: &Lab,
    name: &str,
    manifest: &str,
    test: impl FnOnce(&Software) -> Result<()>,
) -> Result<()> {
    let native = format!("{name}-native");
    lab.with_namespace(&native, |native| {
        lab.with_namespace(name, |meshed| {
            for shop in [native, meshed] {
                lab.cluster.apply(shop.namespace(), manifest)?;
                lab.cluster.apply(shop.namespace(), CLIENT)?;
            }
            for shop in [native, meshed] {
                shop.wait_ready()?;
            }
            meshed.enroll()?;
            let (native, meshed) = (native.clone(), meshed.clone());
            test(&Software { lab, native, meshed })
        })
    })
}

impl Software<'_> {
    /// Runs a script in both clients at once and returns what it printed: natively, in the mesh.
    fn both(&self, script: &str) -> Result<(String, String)> {
        thread::scope(|scope| {
            let native = scope.spawn(|| self.run(&self.native, script));
            let meshed = self.run(&self.meshed, script).context("in the mesh")?;
            let native = native.join().map_err(|_| anyhow!("the thread panicked"))?;
            Ok((native.context("natively")?, meshed))
        })
    }

    /// Runs a script in both clients, and expects it to print the same.
    fn alike(&self, script: &str) -> Result<String> {
        let (native, meshed) = self.both(script)?;
        println!(
            "{script:?}: natively {:?}, in the mesh {:?}",
            native.trim(),
            meshed.trim()
        );
        ensure!(
            native == meshed,
            "{script}: natively {native:?}, in the mesh {meshed:?}"
        );
        Ok(meshed)
    }

    fn run(&self, shop: &Shop, script: &str) -> Result<String> {
        let client = shop.pod_of("client")?;
        // Scripts wait for conditions: if one never becomes true, that is reported and not waited for.
        let command = ["timeout", "120", "sh", "-c", script];
        self.lab.cluster.exec(shop.namespace(), &client.name, &command)
    }

    /// Runs kubectl for both namespaces.
    fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        [&self.native, &self.meshed].into_iter().try_for_each(|shop| {
            let all = [arguments, &["--namespace", shop.namespace()]].concat();
            self.lab.cluster.run_kubectl(&all).map(drop)
        })
    }
}
