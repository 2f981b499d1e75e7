//! How many connections wait to be accepted.

use super::NetnsError;
use ambit_wire::names::{PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND};

const STATE_SYN_RECEIVED: u8 = 3;
const STATE_LISTEN: u8 = 10;

/// Connections to the listeners in the calling thread's namespace that are in their handshake or wait to be accepted.
///
/// # Errors
/// `/proc` cannot be read.
pub fn waiting_connections() -> Result<u64, NetnsError> {
    let mut waiting = 0;
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/thread-self/net/{table}");
        match std::fs::read_to_string(&path) {
            Ok(text) => waiting += text.lines().skip(1).filter_map(waiting_in).sum::<u64>(),
            // A kernel without IPv6 has no such table.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(NetnsError::Socket {
                    action: format!("read {path}"),
                    source,
                });
            }
        }
    }
    Ok(waiting)
}

/// One line: `sl local_address rem_address st tx_queue:rx_queue …`, numbers in hexadecimal. A listener's receive queue is its
/// accept queue.
fn waiting_in(line: &str) -> Option<u64> {
    let mut fields = line.split_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    if ![PORT_OUTBOUND, PORT_INBOUND, PORT_HBONE].contains(&port) {
        return None;
    }
    match state {
        STATE_SYN_RECEIVED => Some(1),
        STATE_LISTEN => u64::from_str_radix(fields.next()?.rsplit_once(':')?.1, 16).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::waiting_in;

    #[test]
    fn only_our_listeners_queues_count() {
        let listener =
            "   0: 00000000:3A99 00000000:0000 0A 00000000:00000005 00:00000000 00000000     0        0 1";
        let handshake =
            "   1: 0100007F:3A9E 0100007F:9C40 03 00000000:00000000 00:00000000 00000000     0        0 1";
        let established =
            "   2: 0100007F:3A99 0100007F:9C40 01 00000000:00000009 00:00000000 00000000     0        0 1";
        let other =
            "   3: 00000000:1F90 00000000:0000 0A 00000000:00000007 00:00000000 00000000     0        0 1";
        let counts = [listener, handshake, established, other].map(waiting_in);
        assert_eq!(counts, [Some(5), Some(1), None, None]);
    }
}
