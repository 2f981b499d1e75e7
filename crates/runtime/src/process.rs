//! What the process takes of the machine, under the names that Prometheus' client libraries have for it.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Times are in hundredths of a second: what user space sees on x86 and Arm, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields of `/proc/self/stat` behind the command, which is in parentheses.
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const THREADS: usize = 17;
const START_TIME: usize = 19;

/// A metric, its help text, its kind and its value.
pub(crate) type Sample = (&'static str, &'static str, &'static str, f64);

/// All that can be read.
pub(crate) fn process_metrics() -> Vec<Sample> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let mut samples = samples(
        &read("/proc/self/stat"),
        &read("/proc/self/status"),
        &read("/proc/stat"),
    );
    // The directory's own descriptor is one of them.
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let open = open.count().saturating_sub(1) as f64;
        samples.push(("process_open_fds", "Open file descriptors", "gauge", open));
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        let help = "File descriptors, at most";
        samples.push(("process_max_fds", help, "gauge", most as f64));
    }
    samples
}

/// From the text of `/proc/self/stat`, `/proc/self/status` and `/proc/stat`.
fn samples(stat: &str, status: &str, machine: &str) -> Vec<Sample> {
    let behind_command = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let fields: Vec<f64> = behind_command
        .split_ascii_whitespace()
        // The first is a letter.
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    let field = |index: usize| fields.get(index).copied();
    let kibibytes = |name: &str| Some(after(status, name)? * 1024.0);
    let seconds = |ticks: Option<f64>| Some(ticks? / TICKS_PER_SECOND);
    let busy = field(USER_TIME).zip(field(SYSTEM_TIME));
    let busy = seconds(busy.map(|(user, system)| user + system));
    let started = seconds(field(START_TIME))
        .zip(after(machine, "btime"))
        .map(|(since_boot, boot)| boot + since_boot);
    [
        (
            "process_cpu_seconds_total",
            "CPU time of user and system, in seconds",
            "counter",
            busy,
        ),
        (
            "process_start_time_seconds",
            "Start of the process, in seconds since 1970",
            "gauge",
            started,
        ),
        ("process_threads", "Threads", "gauge", field(THREADS)),
        (
            "process_virtual_memory_bytes",
            "Virtual memory",
            "gauge",
            kibibytes("VmSize:"),
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory",
            "gauge",
            kibibytes("VmRSS:"),
        ),
    ]
    .into_iter()
    .filter_map(|(name, help, kind, value)| Some((name, help, kind, value?)))
    .collect()
}

/// The number that follows `name` at the beginning of a line.
fn after(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 9 0 12345 1 2 3\n";
        let status = "Name:\ta\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let values: Vec<_> = samples(stat, status, "cpu 1 2\nbtime 1700000000\n")
            .into_iter()
            .map(|(name, _, _, value)| (name, value))
            .collect();
        assert_eq!(
            values,
            [
                ("process_cpu_seconds_total", 4.0),
                ("process_start_time_seconds", 1_700_000_123.45),
                ("process_threads", 9.0),
                ("process_virtual_memory_bytes", 2_097_152.0),
                ("process_resident_memory_bytes", 1_048_576.0),
            ]
        );
    }

    #[test]
    fn of_files_that_cannot_be_read_there_is_nothing() {
        assert_eq!(samples("", "", ""), []);
    }
}
