//! The works of the L4 benchmark, and the commands that do them.

use ambit_bench::{CONNECT_PORT, REPLY_PORT, SINK_PORT, Work};

/// One work: a row of the table.
#[derive(Debug, PartialEq)]
pub(super) struct Load {
    /// What the table calls it.
    pub(super) name: &'static str,
    pub(super) work: Work,
    /// At a time.
    pub(super) connections: usize,
    /// Requests a second; none: as many as there are answers.
    pub(super) rate: Option<u32>,
    /// Whether another pod of the client's node floods the proxies meanwhile.
    pub(super) flooded: bool,
}

const fn load(name: &'static str, work: Work, connections: usize, rate: Option<u32>) -> Load {
    Load {
        name,
        work,
        connections,
        rate,
        flooded: false,
    }
}

/// What is measured alone and beside the flood.
const STEADY: Load = load(
    "request/response, 16 connections at 1000/s",
    Work::Request,
    16,
    Some(1000),
);

/// The flood of another pod: as many connections as its quarter of a core makes.
pub(super) const FLOOD: Load = load("new connections, 16 threads", Work::Connect, 16, None);

/// All of them, in the table's order.
pub(super) const LOADS: &[Load] = &[
    load("throughput, 1 stream", Work::Throughput, 1, None),
    load("throughput, 4 streams", Work::Throughput, 4, None),
    load("request/response, 1 connection", Work::Request, 1, None),
    load("request/response, 16 connections", Work::Request, 16, None),
    STEADY,
    Load {
        name: "request/response, 16 connections at 1000/s, beside another pod's flood",
        flooded: true,
        ..STEADY
    },
    load("new connections, 1 thread", Work::Connect, 1, None),
    FLOOD,
];

impl Load {
    /// The client's command, against a server at this IP.
    pub(super) fn command(&self, ip: &str, seconds: f64, warmup: f64) -> Vec<String> {
        let (work, port) = match self.work {
            Work::Throughput => ("throughput", SINK_PORT),
            Work::Request => ("request", REPLY_PORT),
            Work::Connect => ("connect", CONNECT_PORT),
        };
        let mut command = vec!["/ambit-bench".to_owned(), "client".to_owned(), work.to_owned()];
        command.push(format!("--target={ip}:{port}"));
        command.push(format!("--seconds={seconds}"));
        command.push(format!("--warmup={warmup}"));
        command.push(format!("--connections={}", self.connections));
        if let Some(rate) = self.rate {
            command.push(format!("--rate={rate}"));
        }
        command
    }
}
