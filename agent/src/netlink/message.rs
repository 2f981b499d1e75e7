//! Encoding of netlink messages and attributes (`linux/netlink.h`), and of batches of them.

/// The message wants an acknowledgement.
pub(super) const ACK: u16 = 0x4;
/// Create what is not there.
pub(super) const CREATE: u16 = 0x400;
/// Fail if it is there already.
pub(super) const EXCL: u16 = 0x200;
/// Replace what is there.
pub(super) const REPLACE: u16 = 0x100;
/// Append (rules).
pub(super) const APPEND: u16 = 0x800;
/// Answer with every matching object.
pub(super) const DUMP: u16 = 0x300;
const REQUEST: u16 = 0x1;
const NESTED: u16 = 0x8000;

/// Length of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
const ALIGN: usize = 4;

/// Attributes of a message: type, length and value, each aligned to four bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// A string with its closing zero.
    pub(super) fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// nf_tables has its numbers in network byte order.
    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// rtnetlink has them in the host's.
    pub(super) fn ne32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(super) fn nested(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        // Callers keep attributes far below 64 KiB (set elements come in chunks), so the length always fits.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGN), 0);
    }
}

/// One netlink message with what it is for, so that a refusal can be named.
#[derive(Debug, Clone)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    /// The family's fixed header: `nfgenmsg`, `rtmsg`, ….
    fixed: Vec<u8>,
    attributes: Attributes,
    /// What it does, as the object of "kernel refused to …".
    pub(super) step: String,
}

impl Message {
    pub(super) fn new(
        kind: u16,
        flags: u16,
        fixed: &[u8],
        attributes: Attributes,
        step: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            flags,
            fixed: fixed.to_vec(),
            attributes,
            step: step.into(),
        }
    }

    /// With [`ACK`] asked for.
    pub(super) fn acknowledged(mut self) -> Self {
        self.flags |= ACK;
        self
    }

    pub(super) fn encode(&self, sequence: u32, out: &mut Vec<u8>) {
        let length = HEADER + self.fixed.len().next_multiple_of(ALIGN) + self.attributes.0.len();
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | REQUEST).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.fixed);
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        out.extend_from_slice(&self.attributes.0);
    }
}

/// The attributes in `bytes`, each with its type (without flags) and value; ends at the first that is cut short.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A message from the kernel: type, sequence number, payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// Splits one datagram into its messages; ends at the first that is cut short.
pub(super) fn split(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(0..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(datagram.get(8..12)?.try_into().ok()?);
        let payload = datagram.get(HEADER..length)?;
        datagram = datagram.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(Received {
            kind,
            sequence,
            payload,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_their_length_is_not() {
        let encoded = Attributes::new().string(1, "ambit").be32(2, 1).0;
        assert_eq!(
            encoded,
            [
                10, 0, 1, 0, b'a', b'm', b'b', b'i', b't', 0, 0, 0, 8, 0, 2, 0, 0, 0, 0, 1
            ]
        );
    }

    #[test]
    fn a_message_is_read_back_as_written() {
        let mut out = Vec::new();
        Message::new(7, 0, &[2, 0, 0, 0], Attributes::new().be32(1, 5), "test").encode(9, &mut out);
        let mut messages = split(&out);
        let first = messages.next().expect("one message");
        assert_eq!((first.kind, first.sequence, first.payload.len()), (7, 9, 12));
        assert_eq!(messages.next(), None);
    }

    #[test]
    fn a_short_datagram_ends_the_messages() {
        let mut out = Vec::new();
        Message::new(7, 0, &[2, 0, 0, 0], Attributes::new(), "test").encode(9, &mut out);
        out.truncate(18);
        assert_eq!(split(&out).next(), None);
    }
}
