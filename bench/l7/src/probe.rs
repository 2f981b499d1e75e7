//! When a proxy begins to answer, and what it lets through.

use std::time::{Duration, Instant};

use ambit_bench::l7::{ANSWERED, PATH, PEER_PATH, Verdict};
use anyhow::{Result, bail, ensure};

use crate::http1::{Connection, request};
use crate::way::{Options, Way};

/// A proxy that answers nothing for so long never will.
const LIMIT: Duration = Duration::from_secs(30);
/// An attempt that takes longer is given up: what accepted it was not ready.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Between two attempts.
const STEP: Duration = Duration::from_millis(1);

/// Says that it waits, tries until a GET gets a response with 200, says that too, and looks further.
pub(crate) async fn run(options: &Options) -> Result<Verdict> {
    let way = Way::new(options).await?;
    crate::waiting();
    let begun = Instant::now();
    let mut connection = loop {
        let attempt = tokio::time::timeout(ATTEMPT, first(&way)).await;
        let reason = match attempt {
            Ok(Ok(connection)) => break connection,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("nothing within {} s", ATTEMPT.as_secs()),
        };
        if begun.elapsed() > LIMIT {
            bail!(
                "{} did not respond within {} s; the last attempt: {reason}",
                options.address,
                LIMIT.as_secs()
            );
        }
        tokio::time::sleep(STEP).await;
    };
    println!("{ANSWERED}");
    let answer = connection.exchange(&request("GET", PEER_PATH)).await?;
    let peer = String::from_utf8_lossy(connection.body(&answer)).into_owned();
    let delete = connection.exchange(&request("DELETE", PATH)).await?;
    Ok(Verdict {
        get: answer.status,
        delete: delete.status,
        peer,
    })
}

async fn first(way: &Way) -> Result<Connection> {
    let mut connection = way.open().await?;
    let answer = connection.exchange(&request("GET", PATH)).await?;
    ensure!(answer.status == 200, "a GET was answered {}", answer.status);
    Ok(connection)
}
