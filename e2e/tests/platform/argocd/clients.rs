//! The clients of both applications, and what they count in a step.

use ambit_e2e::sample::{LoadStats, Plan, Stats};

use super::*;

/// Clients of the shop: every request on a connection of its own.
const SHOPPERS: [&str; 2] = ["client-a", "client-b"];

/// A client with one connection from before the namespace is in the mesh.
pub(super) const EARLY: &str = "stream-early";

/// A client with one connection through the mesh.
pub(super) const INSIDE: &str = "stream-inside";

/// What the clients had counted when a step began.
pub(super) struct Begin {
    load: [LoadStats; 2],
    shop: [Stats; 2],
}

impl Story<'_> {
    /// Has the load generators make eighty requests a second, and returns what all clients have counted by then.
    pub(super) fn begin(&self) -> Result<Begin> {
        self.web.load_all(&Plan::get(4, "/load").every(100))?;
        self.answered()?;
        let ([a, b], [c, d]) = (
            CLIENTS.map(|client| self.web.load_stats(client)),
            SHOPPERS.map(|client| self.shop.stats(client)),
        );
        Ok(Begin {
            load: [a?, b?],
            shop: [c?, d?],
        })
    }

    /// Waits for more responses to every client, ends the load, and fails if a request of the step has failed. Returns what was
    /// counted, in words.
    pub(super) fn end(&self, begin: &Begin) -> Result<String> {
        self.answered()?;
        self.web.load_all(&Plan::get(0, "/"))?;
        let (mut requests, mut again) = (0, 0);
        for (client, before) in CLIENTS.iter().zip(&begin.load) {
            let now = self.web.load_stats(client)?;
            let failed = now.failed - before.failed;
            let failures = now.failures.iter().rev();
            let failures: Vec<_> = failures.take(usize::try_from(failed.min(20))?).collect();
            ensure!(failed == 0, "{client}: {failed} requests failed: {failures:#?}");
            requests += now.ok - before.ok;
            again += now.retried - before.retried;
        }
        for (client, before) in SHOPPERS.iter().zip(&begin.shop) {
            let now = self.shop.stats(client)?;
            let failed = now.total_failed() - before.total_failed();
            ensure!(failed == 0, "{client}: {failed} failed: {:?}", now.failures);
            requests += now.total_ok() - before.total_ok();
        }
        Ok(format!(
            "{requests} requests, 0 failed, {again} made once more on another connection"
        ))
    }

    /// More responses to every client.
    fn answered(&self) -> Result<()> {
        for client in CLIENTS {
            self.web.wait_more(client, 50)?;
        }
        for client in SHOPPERS {
            self.shop.wait_more(client, 5)?;
        }
        Ok(())
    }

    /// Starts a client that keeps one connection, and waits until it is answered.
    pub(super) fn connect(&self, client: &str) -> Result<()> {
        let arguments = ["client", "--stream=server:9090", "--interval=50"];
        self.shop.run_pod(client, client, &arguments)?;
        eventually(&format!("an answer to {client}"), LIMIT, || {
            let stats = self.shop.stats(client)?;
            ensure!(stats.total_ok() > 0, "{stats:?}");
            Ok(())
        })
    }

    /// Fails unless the connection from before the mesh is still the one that it began with.
    pub(super) fn early_connection_lives(&self) -> Result<()> {
        let stats = self.shop.wait_more(EARLY, 5)?;
        let whole = stats.total_failed() == 0 && stats.flows["stream"].connections == 1;
        ensure!(whole, "the connection of {EARLY} was cut: {stats:?}");
        Ok(())
    }
}
