//! What this process used, as /proc has it.

use std::fs;
use std::time::Instant;

use ambit_bench::control::Phase;
use anyhow::{Context, Result};

/// `/proc/PID/stat` counts in hundredths of a second (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The start of a phase.
pub(crate) struct Start {
    at: Instant,
    cpu: f64,
}

impl Start {
    pub(crate) fn now() -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            cpu: cpu()?,
        })
    }

    /// What was used since then.
    pub(crate) fn end(&self) -> Result<Phase> {
        Ok(Phase {
            seconds: self.at.elapsed().as_secs_f64(),
            cpu: cpu()? - self.cpu,
        })
    }
}

/// User and kernel time of all threads, in seconds.
fn cpu() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Field 2, a name in parentheses, may hold anything; 14 and 15 are the times.
    let (_, rest) = stat.rsplit_once(')').context("/proc/self/stat has no name")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut field = || -> Result<f64> { Ok(fields.next().context("/proc/self/stat is too short")?.parse()?) };
    Ok((field()? + field()?) / TICKS_PER_SECOND)
}

/// Resident memory in MiB: now, and at most.
pub(crate) fn memory() -> Result<(f64, f64)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Result<f64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let value = value.with_context(|| format!("/proc/self/status has no {name}"))?;
        Ok(value.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
