use std::io;

use parking_lot::Mutex;

use super::*;
use crate::proxy::testing::{APPLICATION, proxy};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Of this thread, until the guard goes.
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || log.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock())).unwrap()
    }
}

fn record(access_log: bool) -> Record {
    let peer = |address| Peer {
        address,
        identity: None,
        workload: None,
        pod: None,
    };
    let traffic = Traffic {
        reporter: Reporter::Destination,
        source: peer(SocketAddr::from(([10, 9, 0, 2], 40_000))),
        destination: peer(APPLICATION),
        hbone: None,
        service: None,
    };
    Record::open(&proxy(access_log).metrics, access_log, traffic)
}

#[tokio::test]
async fn without_the_access_log_only_denials_and_failures_are_logged() {
    let log = Log::default();
    let _guard = log.start();

    record(false).end(None);
    assert_eq!(log.take(), "");

    record(false).deny(&ambit_policy::Decision {
        verdict: ambit_policy::Verdict::Deny,
        reason: ambit_policy::Reason::DeniedBy("test/no-foe".into()),
        denied_by: None,
        audited: Vec::new(),
    });
    let denial = log.take();
    assert!(denial.contains("WARN access: "), "{denial}");
    assert!(
        denial.contains("denied by test/no-foe") && denial.contains("src.addr=10.9.0.2:40000"),
        "{denial}"
    );

    record(false).fail("connect", &"nobody listens");
    let failure = log.take();
    assert!(failure.contains("nobody listens"), "{failure}");

    record(false).end(Some(&"reset by peer"));
    assert_eq!(log.take(), "");
}

#[tokio::test]
async fn the_access_log_has_every_connection() {
    let log = Log::default();
    let _guard = log.start();
    record(true).end(None);
    let line = log.take();
    assert!(line.contains("INFO access: connection complete"), "{line}");
    record(true).end(Some(&"reset by peer"));
    let reset = log.take();
    assert!(
        reset.contains("INFO access: connection complete") && reset.contains("reset by peer"),
        "{reset}"
    );
}

#[tokio::test]
async fn series_are_bounded_with_unknown_peers() {
    let proxy = proxy(false);
    let open = |n: usize| {
        let peer = |address, account: &str| Peer {
            address,
            identity: Some(SpiffeId::new("cluster.local", "shop", account).unwrap()),
            workload: None,
            pod: None,
        };
        let traffic = Traffic {
            reporter: Reporter::Destination,
            source: peer(SocketAddr::from(([10, 9, 0, 2], 40_000)), &format!("caller-{n}")),
            destination: peer(APPLICATION, "server"),
            hbone: Some(APPLICATION),
            service: None,
        };
        Record::open(&proxy.metrics, false, traffic)
    };
    for n in 0..10_200 {
        let record = open(n);
        record.forward(1);
        record.end(None);
    }
    let text = proxy.metrics.render(crate::observe::Gauges::default()).unwrap();
    let lines = |metric: &str| -> Vec<&str> {
        let start = format!("{metric}{{");
        text.lines().filter(|line| line.starts_with(&start)).collect()
    };
    for metric in [
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_received_bytes_total",
    ] {
        let all = lines(metric);
        assert_eq!(all.len(), 10_001, "{metric}");
        let unknown = |line: &&&str| line.contains(r#"source_principal="unknown""#);
        let unknown: Vec<_> = all.iter().filter(unknown).collect();
        assert_eq!(unknown.len(), 1, "{metric}");
        assert!(unknown[0].contains(r#"reporter="destination""#), "{unknown:?}");
        assert!(
            unknown[0].contains(r#"destination_principal="unknown""#),
            "{unknown:?}"
        );
        assert!(unknown[0].ends_with(" 200"), "{unknown:?}");
    }
    let overflow = r#"ambit_metrics_overflow_total{metric="istio_tcp_connections_opened_total"} 200"#;
    assert!(lines("ambit_metrics_overflow_total").contains(&overflow));
}
