//! One CONNECT stream.

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::client::StreamPermit;

/// An open CONNECT stream, either side.
pub struct HboneStream {
    pub(super) send: SendStream<Bytes>,
    pub(super) recv: RecvStream,
    /// The client's place on its connection.
    pub(super) permit: Option<StreamPermit>,
}

impl std::fmt::Debug for HboneStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HboneStream")
            .field("id", &self.recv.stream_id())
            .finish()
    }
}
