use super::*;
use crate::bench::load::LOADS;

fn report(load: &Load, per_second: f64, p50_us: f64) -> Report {
    let latency = Latency {
        p50_us,
        p90_us: p50_us * 2.0,
        p99_us: p50_us * 10.0,
        p999_us: p50_us * 20.0,
        max_us: p50_us * 30.0,
    };
    Report {
        work: load.work,
        connections: load.connections,
        rate: load.rate.map(f64::from),
        seconds: 5.0,
        per_second,
        total: (per_second * 5.0) as u64,
        latency: (load.work != Work::Throughput).then_some(latency),
        lag_p99_us: None,
        errors: 0,
        first_error: None,
    }
}

/// How many a second, and their median latency.
type Path = (f64, f64);

/// Rounds, each of the direct path and the mesh.
fn row(name: &str, rounds: &[(Path, Path)]) -> Row {
    let load = LOADS.iter().find(|load| load.name == name).unwrap();
    let mut row = Row::new(load, false);
    for (direct, mesh) in rounds {
        row.samples.push(Sample {
            direct: report(load, direct.0, direct.1),
            mesh: report(load, mesh.0, mesh.1),
            cpu: [1.0, 0.5],
        });
    }
    row
}

fn table(rows: Vec<Row>) -> Table {
    let memory = |now, peak| Memory { now, peak };
    Table {
        machine: "2 cores".into(),
        rounds: 3,
        seconds: 5.0,
        rows,
        memory: vec![Footprint {
            node: "n1".into(),
            before: memory(16.4, 17.0),
            after: memory(20.0, 59.0),
        }],
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
fn throughput_is_in_gigabits_with_the_worst_of_the_mesh_and_the_ratio_of_each_round() {
    let gigabit = 1e9 / 8.0;
    let rounds = [(20.0, 5.0), (10.0, 4.0), (16.0, 6.0)]
        .map(|(direct, mesh)| ((direct * gigabit, 0.0), (mesh * gigabit, 0.0)));
    let table = table(vec![row("throughput, 1 stream", &rounds)]);
    // 1 core·s and 0.5 in 5 s at the median of 5 Gb/s, which is 25 Gbit.
    assert_eq!(
        line(&table, "| throughput"),
        "| throughput, 1 stream | 16.00 Gb/s | 4.00 Gb/s / 5.00 Gb/s | 0.38 (0.25–0.40) | 0.040 core·s/Gbit | 0.020 core·s/Gbit |"
    );
    assert_eq!(line(&table, "| n1"), "| n1 | 16 MiB | 20 MiB | 59 MiB |");
}

#[test]
fn requests_have_latencies_and_a_cost_each() {
    let rounds = [((20_000.0, 80.0), (10_000.0, 150.0)); 2];
    let table = table(vec![row("request/response, 1 connection", &rounds)]);
    assert_eq!(
        line(&table, "| request"),
        "| request/response, 1 connection | 20.0k/s; p50 80 µs, p99 800 µs | 10.0k/s / 10.0k/s; p50 150 µs, p99 1.50 ms \
         | 0.50 (0.50–0.50) | 20 µs/request | 10 µs/request |"
    );
}

#[test]
fn on_a_schedule_the_latency_is_what_is_compared() {
    let rounds = [
        ((1000.0, 100.0), (1000.0, 300.0)),
        ((1000.0, 100.0), (1000.0, 200.0)),
    ];
    let table = table(vec![row("request/response, 16 connections at 1000/s", &rounds)]);
    let line = line(&table, "| request");
    assert!(
        line.contains("| p50 100 µs, p99 1.00 ms | p50 300 µs, p99 3.00 ms / p50 250 µs, p99 2.50 ms |"),
        "{line}"
    );
    assert!(
        line.contains("| p50 × 2.50 (2.00–3.00), p99 × 2.50 (2.00–3.00) |"),
        "{line}"
    );
}

#[test]
fn failures_have_round_and_path() {
    let mut row = row("new connections, 1 thread", &[((100.0, 1.0), (50.0, 2.0)); 2]);
    assert_eq!(table(vec![]).failures(), 0);
    row.samples[1].mesh.errors = 3;
    row.samples[1].mesh.first_error = Some("reset".into());
    let table = table(vec![row]);
    assert_eq!(table.failures(), 3);
    assert_eq!(
        line(&table, "- new"),
        "- new connections, 1 thread, mesh, round 2: 3 times; the first: reset"
    );
}

#[test]
fn on_one_node_one_proxy_is_both() {
    let mut row = row("new connections, 1 thread", &[((100.0, 1.0), (50.0, 2.0))]);
    row.same_node = true;
    let line = line(&table(vec![row]), "| new connections, 1 thread, same node |");
    assert!(line.ends_with("| 4000 µs/connection | the same |"), "{line}");
}

#[test]
fn flood_shows_the_slowdown_of_neighbours() {
    let steady = "request/response, 16 connections at 1000/s";
    let flooded = format!("{steady}, beside another pod's flood");
    let alone = [((1000.0, 100.0), (1000.0, 300.0)); 2];
    let beside = [
        ((1000.0, 150.0), (1000.0, 600.0)),
        ((1000.0, 250.0), (1000.0, 450.0)),
    ];
    let table = table(vec![row(steady, &alone), row(&flooded, &beside)]);
    assert_eq!(
        line(&table, &flooded),
        format!(
            "{flooded}: p99 × 1.75 (1.50–2.00), mesh; × 2.00 (1.50–2.50), direct (beside the flood / alone)."
        )
    );
}
