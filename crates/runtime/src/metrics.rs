//! Metrics as text.

use std::fmt::Write;

use prometheus::{Registry, TextEncoder};

use crate::log::{dropped_lines, suppressed_lines};

/// All metrics of a program in Prometheus' text format: those of the registry, and what the log has dropped.
///
/// # Errors
/// When the registry's metrics cannot be written as text.
pub fn render_metrics(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut text = TextEncoder::new().encode_to_string(&registry.gather())?;
    for (name, help, value) in [
        (
            "ambit_log_dropped_total",
            "Log lines that were dropped because nobody read the log fast enough",
            dropped_lines(),
        ),
        (
            "ambit_log_suppressed_total",
            "Log lines about refused peers that were suppressed because one peer caused many",
            suppressed_lines(),
        ),
    ] {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}"
        );
    }
    Ok(text)
}
