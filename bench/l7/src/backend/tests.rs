//! Backend, load and probe together, over loopback.

use std::net::Ipv4Addr;
use std::path::Path;

use ambit_bench::l7::{CLIENT, Verdict, WAYPOINT, spiffe_id};

use super::*;
use crate::{load, probe, way};

struct Running {
    dir: tempfile::TempDir,
    http: SocketAddr,
    hbone: SocketAddr,
}

impl Running {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Authority::create(dir.path()).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = Options {
            dir: dir.path().into(),
            http: any,
            hbone: any,
        };
        let backend = Backend::bind(&options).await.unwrap();
        let (http, hbone) = (
            backend.http.local_addr().unwrap(),
            backend.hbone.local_addr().unwrap(),
        );
        // Ends with the test's runtime.
        tokio::spawn(async move { backend.serve().await });
        Self { dir, http, hbone }
    }

    fn hbone(&self, peer: &str) -> way::Options {
        way::Options {
            address: self.hbone,
            hbone: Some(Path::to_path_buf(self.dir.path())),
            authority: Some(self.http),
            peer: Some(peer.into()),
        }
    }

    fn plain(&self) -> way::Options {
        way::Options {
            address: self.http,
            hbone: None,
            authority: None,
            peer: None,
        }
    }
}

fn work(way: way::Options, rate: Option<f64>) -> load::Options {
    load::Options {
        way,
        streams: 4,
        shape: load::Shape::Get,
        seconds: 0.2,
        warmup: 0.05,
        rate,
    }
}

#[tokio::test]
async fn requests_over_tcp_and_hbone_are_measured_without_warm_up() {
    let backend = Running::start().await;
    for way in [backend.hbone(SERVER), backend.plain()] {
        let report = load::run(&work(way, None)).await.unwrap();
        let measured = (report.per_second * report.seconds).round() as u64;
        assert!(
            0 < measured && measured < report.total && report.errors == 0,
            "{report:?}"
        );
        assert!(report.lag_p99_us.is_none(), "{report:?}");
    }
}

#[tokio::test]
async fn posts_and_calls_are_answered() {
    let backend = Running::start().await;
    for shape in [load::Shape::Post, load::Shape::Grpc] {
        for way in [backend.hbone(SERVER), backend.plain()] {
            let options = load::Options {
                shape,
                ..work(way, Some(200.0))
            };
            let report = load::run(&options).await.unwrap();
            assert_eq!((report.total, report.errors), (50, 0), "{report:?}");
        }
    }
}

#[tokio::test]
async fn schedule_reaches_its_last_request() {
    let backend = Running::start().await;
    let report = load::run(&work(backend.hbone(SERVER), Some(1000.0)))
        .await
        .unwrap();
    // 0.25 s at 1000/s: whatever the machine does meanwhile, each is sent.
    assert_eq!((report.total, report.errors), (250, 0), "{report:?}");
    assert!(report.lag_p99_us.is_some());
}

#[tokio::test]
async fn backend_reports_its_peer() {
    let backend = Running::start().await;
    let expected = |peer: &str| Verdict {
        get: 200,
        delete: 200,
        peer: peer.into(),
    };
    let found = probe::run(&backend.hbone(SERVER)).await.unwrap();
    assert_eq!(found, expected(&spiffe_id(CLIENT)));
    assert_eq!(probe::run(&backend.plain()).await.unwrap(), expected(""));
}

#[tokio::test]
async fn unexpected_identity_is_refused() {
    let backend = Running::start().await;
    let error = load::run(&work(backend.hbone(WAYPOINT), None)).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains(&spiffe_id(SERVER)) && error.contains(&spiffe_id(WAYPOINT)),
        "{error}"
    );
}
