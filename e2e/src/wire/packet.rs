//! TCP packets of a recording in the pcap format.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, bail};

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const ETHERNET: usize = 14;
/// What a record of TLS begins with: handshake, application data and so on, then the major version.
const TLS_TYPES: std::ops::RangeInclusive<u8> = 20..=24;

/// A TCP packet over IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where it came from.
    pub source: SocketAddrV4,
    /// Where it went.
    pub destination: SocketAddrV4,
    /// Whether it opens a connection: SYN without ACK.
    pub opens: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Whether it has to do with this address.
    pub fn concerns(&self, address: Ipv4Addr) -> bool {
        *self.source.ip() == address || *self.destination.ip() == address
    }

    /// Whether either side is this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.source.port() == port || self.destination.port() == port
    }

    /// Whether `text` is in what it carries.
    pub fn carries(&self, text: &str) -> bool {
        contains(&self.payload, text)
    }

    /// Whether what it carries begins like a record of TLS.
    pub fn begins_tls_record(&self) -> bool {
        matches!(self.payload[..], [kind, 3, ..] if TLS_TYPES.contains(&kind))
    }
}

/// One line for a person: both ends, and what is readable of the load.
impl fmt::Display for Packet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 152;
        write!(out, "{} > {}: ", self.source, self.destination)?;
        for byte in self.payload.iter().take(SHOWN) {
            let shown = char::from(*byte);
            write!(
                out,
                "{}",
                if shown == ' ' || shown.is_ascii_graphic() {
                    shown
                } else {
                    '.'
                }
            )?;
        }
        if self.payload.len() > SHOWN {
            write!(out, "… ({} bytes)", self.payload.len())?;
        }
        Ok(())
    }
}

/// Whether `text` is in `bytes`.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The TCP packets of a file; what else it holds is left out, and so is a last packet that was not written whole.
pub(super) fn parse(file: &[u8]) -> Result<Vec<Packet>> {
    let magic = file.get(..4).context("it is empty")?;
    if magic != 0xa1b2_c3d4_u32.to_le_bytes() && magic != 0xa1b2_3c4d_u32.to_le_bytes() {
        bail!("it is no recording of this machine's byte order");
    }
    let mut packets = Vec::new();
    let mut rest = file.get(FILE_HEADER..).context("it ends in its header")?;
    while let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) {
        let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let Some((frame, after)) = after.split_at_checked(length) else {
            break;
        };
        packets.extend(tcp(frame));
        rest = after;
    }
    Ok(packets)
}

fn tcp(frame: &[u8]) -> Option<Packet> {
    let (ethernet, ip) = frame.split_at_checked(ETHERNET)?;
    if ethernet[12..] != [8, 0] || ip.first()? >> 4 != 4 || *ip.get(9)? != 6 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let tcp = ip.get(usize::from(ip[0] & 15) * 4..total.min(ip.len()))?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    Some(Packet {
        source: SocketAddrV4::new(address(12)?, port(0)?),
        destination: SocketAddrV4::new(address(16)?, port(2)?),
        opens: tcp.get(13)? & 0x12 == 0x02,
        payload: tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A recording of one packet from 10.0.0.1:1000 to 10.0.0.2:15008, padded as Ethernet does.
    fn recording(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut ip = vec![
            0x45,
            0,
            0,
            40 + u8::try_from(payload.len()).unwrap(),
            0,
            0,
            0,
            0,
            64,
            6,
            0,
            0,
        ];
        ip.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        ip.extend([0x03, 0xe8, 0x3a, 0xa0]);
        ip.extend([0; 8]);
        ip.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        ip.extend(payload);
        ip.extend([0; 6]);
        let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        file.extend([0; 20]);
        file.extend([0; 8]);
        let length = u32::try_from(ETHERNET + ip.len()).unwrap().to_le_bytes();
        file.extend(length);
        file.extend(length);
        file.extend([0; 12]);
        file.extend([8, 0]);
        file.extend(ip);
        file
    }

    #[test]
    fn packets_are_read_back() {
        let packets = parse(&recording(0x18, &[23, 3, 3, 0, 1, b'x'])).unwrap();
        let packet = &packets[0];
        assert_eq!(packet.source, "10.0.0.1:1000".parse().unwrap());
        assert_eq!(packet.destination, "10.0.0.2:15008".parse().unwrap());
        assert_eq!(
            packet.payload,
            [23, 3, 3, 0, 1, b'x'],
            "without Ethernet's padding"
        );
        assert!(packet.begins_tls_record() && !packet.opens && packet.has_port(15008));
        assert!(packet.concerns(Ipv4Addr::new(10, 0, 0, 2)) && !packet.concerns(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(packet.to_string(), "10.0.0.1:1000 > 10.0.0.2:15008: .....x");
    }

    #[test]
    fn syn_and_plaintext_are_recognized() {
        assert!(parse(&recording(0x02, b"")).unwrap()[0].opens);
        assert!(!parse(&recording(0x12, b"")).unwrap()[0].opens);
        let plain = &parse(&recording(0x18, b"GET / HTTP/1.1")).unwrap()[0];
        assert!(!plain.begins_tls_record() && plain.carries("/ HTTP") && !plain.carries("POST"));
    }

    #[test]
    fn truncated_end_is_ignored_and_other_file_refused() {
        let whole = recording(0x18, b"x");
        assert_eq!(parse(&whole[..whole.len() - 1]).unwrap(), []);
        assert!(parse(b"").is_err());
        assert!(parse(b"not a recording at all").is_err());
    }
}
