//! The listener of a connection.

/// Which of a pod's three listeners a connection arrived at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Outbound,
    InboundPlaintext,
    Inbound,
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::InboundPlaintext => "inbound_plaintext",
            Self::Inbound => "inbound",
        }
    }
}
