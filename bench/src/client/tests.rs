//! Client and server together, over loopback.

use std::io::Read;
use std::net::TcpListener;
use std::thread;

use super::*;
use crate::server::Server;

fn options(work: Work, target: SocketAddr) -> Options {
    Options {
        work,
        target: target.to_string(),
        seconds: 0.2,
        warmup: 0.05,
        connections: 2,
        rate: None,
    }
}

fn server() -> Server {
    let server = Server::bind_any().unwrap();
    server.start().unwrap();
    server
}

#[test]
fn throughput_counts_received_bytes() {
    let report = run(&options(Work::Throughput, server().address("sink"))).unwrap();
    assert!(report.total > 0 && report.per_second > 0.0, "{report:?}");
    assert!((report.per_second * report.seconds - report.total as f64).abs() < 1.0);
    assert!(report.latency.is_none() && report.errors == 0);
}

#[test]
fn requests_are_measured_without_warm_up() {
    let report = run(&options(Work::Request, server().address("reply"))).unwrap();
    let measured = (report.per_second * report.seconds).round() as u64;
    assert!(0 < measured && measured < report.total, "{report:?}");
    let latency = report.latency.unwrap();
    assert!(
        latency.p50_us <= latency.p99_us && latency.p99_us <= latency.max_us,
        "{latency:?}"
    );
    assert_eq!((report.errors, report.lag_p99_us), (0, None));
}

#[test]
fn schedule_reaches_its_last_request() {
    let mut options = options(Work::Request, server().address("reply"));
    options.rate = Some(1000.0);
    let report = run(&options).unwrap();
    // 0.25 s at 1000/s: whatever the machine does meanwhile, each is sent.
    assert_eq!((report.total, report.errors), (250, 0), "{report:?}");
    assert!(report.lag_p99_us.is_some());
}

#[test]
fn every_connection_is_new() {
    let report = run(&options(Work::Connect, server().address("connect"))).unwrap();
    assert!(report.total > 0 && report.errors == 0, "{report:?}");
}

#[test]
fn both_ends_of_a_direct_path_see_the_same_address() {
    let seen = seen(&server().address("peer").to_string()).unwrap();
    assert_eq!(seen.local, seen.remote);
}

#[test]
fn closed_connection_counts_as_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A request's first byte, then the end.
            let _ = stream.unwrap().read(&mut [0]);
        }
    });
    let report = run(&options(Work::Request, target)).unwrap();
    assert_eq!(report.total, 0);
    assert!(report.errors > 0 && report.first_error.is_some(), "{report:?}");
    let error = format!("{:#}", run(&options(Work::Connect, target)).unwrap_err());
    assert!(
        error.contains(&target.to_string()) && error.contains("0 bytes"),
        "{error}"
    );
}

#[test]
fn unreachable_target_is_named() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = format!("{:#}", run(&options(Work::Request, unused)).unwrap_err());
    assert!(
        error.contains(&unused.to_string()) && error.contains("refused"),
        "{error}"
    );
}

#[test]
fn invalid_options_are_refused() {
    let target = server().address("reply");
    let with = |change: fn(&mut Options)| {
        let mut options = options(Work::Request, target);
        change(&mut options);
        run(&options).map(drop).unwrap_err().to_string()
    };
    assert!(with(|options| options.seconds = -1.0).contains("--seconds"));
    assert!(with(|options| options.seconds = 0.0).contains("--seconds"));
    assert!(with(|options| options.connections = 0).contains("--connections"));
    assert!(with(|options| options.target = "nowhere".into()).contains("HOST:PORT"));
    let error = with(|options| (options.work, options.rate) = (Work::Connect, Some(1.0)));
    assert!(error.contains("--rate"), "{error}");
}
