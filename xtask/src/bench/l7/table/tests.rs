use ambit_bench::Work;

use super::*;

/// A load that took `seconds` of the proxy's time for 10,000 requests at this rate.
fn measured(per_second: f64, p50: f64, seconds: Option<f64>) -> Option<Measured> {
    let latency = Latency {
        p50_us: p50,
        p90_us: p50,
        p99_us: p50 * 2.0,
        p999_us: p50,
        max_us: p50,
    };
    let used = |seconds| Usage {
        user: seconds * 0.4,
        kernel: seconds * 0.6,
        waits: 5000.0,
    };
    Some(Measured {
        report: Report {
            work: Work::Request,
            connections: 16,
            rate: None,
            seconds: 5.0,
            per_second,
            total: 10_000,
            latency: Some(latency),
            lag_p99_us: None,
            errors: 0,
            first_error: None,
        },
        used: seconds.map(used),
    })
}

fn sample(per_second: f64, cpu: Option<f64>) -> Sample {
    Sample {
        start_ms: cpu.map(|_| 20.0),
        fresh_mib: cpu.map(|_| 10.0),
        peak_mib: cpu.map(|_| 30.0),
        works: vec![
            measured(per_second, 500.0, cpu),
            measured(per_second * 2.0, 500.0, cpu),
            measured(1000.0, 300.0, cpu),
            measured(per_second, 500.0, cpu),
            None,
        ],
    }
}

fn row(contestant: Contestant, samples: Vec<Sample>) -> Row {
    Row { contestant, samples }
}

fn table(rows: Vec<Row>) -> Table {
    Table {
        machine: "2 cores".into(),
        versions: vec!["Envoy 1".into()],
        rounds: 3,
        seconds: 5.0,
        rows,
    }
}

fn line(table: &Table, start: &str) -> String {
    let text = table.to_string();
    text.lines()
        .find(|line| line.starts_with(start))
        .unwrap()
        .to_owned()
}

#[test]
fn a_row_has_medians_and_the_share_of_the_core() {
    let samples = [10_000.0, 30_000.0, 20_000.0].map(|rate| sample(rate, Some(0.25)));
    let table = table(vec![row(Contestant::Ambit, samples.into())]);
    // 0.25 s for 10,000 requests are 25 µs each; at 20,000 a second half a core.
    assert_eq!(
        line(&table, "| Ambit"),
        "| Ambit | 20.0k | 40.0k | 25.0 µs (50%) | 25.0 µs (100%) | 25.0 µs (2%) | 300 / 600 µs | 20 ms | 10 / 30 MiB |"
    );
    // The second table.
    let text = table.to_string();
    let more = text.lines().filter(|line| line.starts_with("| Ambit")).nth(1);
    let expected = "| Ambit | 15.0 µs | 15.0 µs | 0.50 | 0.50 | 20.0k | 25.0 µs |  |  |";
    assert_eq!(more, Some(expected));
}

#[test]
fn ours_is_compared_with_envoy_of_the_same_kind_round_by_round() {
    let ours = vec![sample(20_000.0, Some(0.1)), sample(30_000.0, Some(0.1))];
    let theirs = vec![sample(10_000.0, Some(0.4)), sample(10_000.0, Some(0.5))];
    let table = table(vec![
        row(Contestant::Ambit, ours),
        row(Contestant::AmbitLog, vec![sample(1.0, Some(0.1))]),
        row(Contestant::Envoy, theirs),
    ]);
    let line = line(&table, "| Ambit / Envoy |");
    assert!(
        line.contains("| 2.50 (2.00–3.00) | 2.50 (2.00–3.00) | 0.23 (0.20–0.25) |"),
        "{line}"
    );
    assert!(!table.to_string().contains("Ambit, access log / "));
}

#[test]
fn the_way_without_a_proxy_has_no_cost_and_groups_have_tables_of_their_own() {
    let table = table(vec![
        row(Contestant::DirectHbone, vec![sample(50_000.0, None)]),
        row(Contestant::Nginx, vec![sample(50_000.0, Some(0.1))]),
    ]);
    assert_eq!(
        line(&table, "| none"),
        "| none | 50.0k | 100.0k |  |  |  | 300 / 600 µs |  |  |"
    );
    let text = table.to_string();
    assert!(text.find("| HBONE in").unwrap() < text.find("| HTTP/1.1 in").unwrap());
    assert!(!text.contains("Ratio"));
}

#[test]
fn failures_have_round_and_load() {
    let mut rows = vec![row(
        Contestant::Envoy,
        vec![sample(1.0, Some(0.1)), sample(1.0, Some(0.1))],
    )];
    let rated = rows[0].samples[1].works[2].as_mut().unwrap();
    rated.report.errors = 3;
    rated.report.first_error = Some("the answer was 503".into());
    let table = table(rows);
    assert_eq!(table.failures(), 3);
    assert_eq!(
        line(&table, "- Envoy"),
        "- Envoy, 1000/s, round 2: 3 times; the first: the answer was 503"
    );
}

#[test]
fn rate_is_an_argument_of_the_load() {
    assert_eq!(
        LOADS[0].arguments(5.0, 1.0),
        ["--streams=16", "--seconds=5", "--warmup=1"]
    );
    assert_eq!(LOADS[RATED].arguments(0.5, 1.0)[3], "--rate=1000");
    assert_eq!(LOADS[GRPC].arguments(0.5, 1.0)[3], "--shape=grpc");
}
