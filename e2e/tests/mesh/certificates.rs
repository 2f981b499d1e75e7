//! Certificates end, and nobody notices.

use std::time::{SystemTime, UNIX_EPOCH};

use ambit_e2e::eventually;
use ambit_e2e::mesh::{self, Pod};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ambit_e2e::lab::{LIMIT, Lab};

fn set_lifetime(lab: &Lab, lifetime: &str) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"identity":{{"leafTTL":"{lifetime}"}}}}}}"#);
    lab.cluster
        .run_kubectl(&["patch", "mesh", "default", "--type=merge", "--patch", &patch])?;
    mesh::wait_ready(&lab.cluster)
}

/// The certificate of an identity that a ztunnel holds.
fn held(lab: &Lab, ztunnel: &Pod, identity: &str) -> Result<Value> {
    let dump = mesh::config_dump(&lab.cluster, ztunnel)?;
    let all = dump["certificates"]
        .as_array()
        .context("the dump lists no certificates")?;
    let found = all.iter().find(|certificate| certificate["identity"] == identity);
    found
        .cloned()
        .with_context(|| format!("{} holds none of {identity}", ztunnel.name))
}

#[test]
fn certificates_are_renewed_at_half_of_their_life() -> Result<()> {
    let lab = Lab::enter()?;
    set_lifetime(&lab, "1m")?;
    let result = lab.with_shop("renewal", |shop| {
        shop.enroll()?;
        let client = shop.pod_of("client-a")?;
        let ztunnel = lab.ztunnel_of(&client)?;
        let identity = "spiffe://cluster.local/ns/renewal/sa/client-a";
        let (first, end) = eventually("a certificate", LIMIT, || {
            let first = held(&lab, &ztunnel, identity)?;
            let end = first["expirationTime"].as_u64().context("it has no end")?;
            Ok((first, end))
        })?;
        eventually(
            "the certificate to be renewed and the first one to end",
            LIMIT + LIMIT,
            || {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
                let next = held(&lab, &ztunnel, identity)?;
                ensure!(next["state"] == "Available", "{next}");
                ensure!(
                    next["serialNumber"] != first["serialNumber"],
                    "it is the first one still"
                );
                ensure!(now > end, "the first one lasts for another {} s", end - now);
                Ok(())
            },
        )?;
        for client in ["client-a", "client-b"] {
            shop.wait_more(client, 10)?;
            let stats = shop.stats(client)?;
            ensure!(stats.total_failed() == 0, "{client}: {:?}", stats.failures);
        }
        Ok(())
    });
    set_lifetime(&lab, "24h")?;
    result
}
