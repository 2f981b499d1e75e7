//! The `baggage` header with the client's workload, from a ztunnel to a waypoint: of foreign text only names are
//! accepted; of our own ztunnel's header each field arrives unchanged or, if it is not a name, not at all.
//!
//! There is no PROXY protocol to fuzz: neither proxy reads it.
//!
//! Input: either a `baggage`, or a workload as the control plane sends it.
#![no_main]

use ambit_waypoint::testing::baggage;
use ambit_wire::workload::Workload;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    text.len() <= 253 && text.bytes().all(is_plain)
}

fuzz_target!(|data: &[u8]| {
    let taken = baggage(data);
    assert!(taken.iter().all(|value| is_name(value)), "{taken:?}");
    for value in taken.iter().filter(|value| !value.is_empty()) {
        let is_there = data.windows(value.len()).any(|part| part == value.as_bytes());
        assert!(is_there, "{value:?} did not come");
    }

    let Ok(workload) = Workload::decode(data) else {
        return;
    };
    let Ok(fields) = ambit_ztunnel::testing::connect_fields(workload.clone()) else {
        return;
    };
    let written = fields
        .get("baggage")
        .map(|value| value.as_bytes())
        .unwrap_or_default();
    let [cluster, name, _, version, node] = baggage(written);
    let told = [
        (workload.cluster_id, cluster),
        (workload.workload_name, name),
        (workload.canonical_revision, version),
        (workload.node, node),
    ];
    for (field, taken) in told {
        let expected = if is_name(&field) { &field[..] } else { "" };
        assert_eq!(taken, expected, "of {:?}", written.escape_ascii().to_string());
    }
});
