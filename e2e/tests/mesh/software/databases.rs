//! MariaDB, which speaks first, and PostgreSQL, which clients reach by the name of its pod.

use anyhow::{Result, anyhow, ensure};

use super::with_software;
use ambit_e2e::lab::Lab;

const MARIADB: &str = include_str!("../../../manifests/software/mariadb.yaml");
const POSTGRES: &str = include_str!("../../../manifests/software/postgres.yaml");

/// A query, and whether it got a response.
const QUERY: &str =
    "mariadb --no-defaults --host=db --user=app --batch --skip-column-names --execute 'select 41 + 1'";

/// MariaDB greets, refuses and closes before the client has said a word: what it says has to arrive.
#[test]
fn mariadb_sends_first_and_its_errors_arrive() -> Result<()> {
    let lab = Lab::enter()?;
    with_software(&lab, "mariadb", MARIADB, |software| {
        software.meshed.make_strict()?;
        ensure!(software.alike(QUERY)?.trim() == "42");
        // Ten connections are all it takes: they stay until the file is there.
        let hold = "rm -f /tmp/go; for i in $(seq 10); do (while [ ! -e /tmp/go ]; do sleep 0.1; done | \
                    mariadb --no-defaults --host=db --user=app) >/dev/null 2>&1 & done; \
                    until [ \"$(mariadb --no-defaults --host=db --port=3307 --user=watch --batch --skip-column-names --execute \
                    \"select count(*) from information_schema.processlist where user = 'app'\")\" = 10 ]; do sleep 0.2; done; echo held";
        software.alike(hold)?;
        let refused = format!("for i in $(seq 100); do {QUERY} 2>&1; done | grep -c 'Too many connections'");
        ensure!(software.alike(&refused)?.trim() == "100");
        let again = format!("touch /tmp/go; until {QUERY} 2>/dev/null; do sleep 0.2; done");
        ensure!(software.alike(&again)?.trim() == "42");
        Ok(())
    })
}

/// Transactions go on while their namespace leaves the mesh and joins it again, and when the server is replaced they
/// fail no more than natively.
#[test]
fn postgres_continues_while_namespace_leaves_and_joins() -> Result<()> {
    let lab = Lab::enter()?;
    with_software(&lab, "postgres", POSTGRES, |software| {
        software.alike("pgbench --quiet --initialize --host=pg-0.pg --username=postgres postgres >/dev/null 2>&1 && echo ready")?;
        let meshed = software.meshed.clone();
        let bench = "pgbench --host=pg-0.pg --username=postgres --client=4 --connect --no-vacuum --time=20 postgres 2>&1";
        let (released, benched) = std::thread::scope(|scope| {
            let moving = scope.spawn(|| {
                (0..2).try_for_each(|_| {
                    meshed.release()?;
                    meshed.enroll()
                })
            });
            let benched = software.both(bench);
            (moving.join(), benched)
        });
        released.map_err(|_| anyhow!("the thread panicked"))??;
        let (native, meshed) = benched?;
        println!("natively:\n{native}\nin the mesh:\n{meshed}");
        for said in [&native, &meshed] {
            ensure!(
                said.contains("number of failed transactions: 0 (0.000%)") && !said.contains("error"),
                "{said}"
            );
        }
        Ok(())
    })
}
