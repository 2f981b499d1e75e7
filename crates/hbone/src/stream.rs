//! One CONNECT stream.

use http::StatusCode;

use super::outgoing::Sender;
use super::places::StreamPermit;
use super::receiver::Receiver;
use super::turns::Turns;

/// An open CONNECT stream, either side.
pub struct HboneStream {
    pub(super) send: Sender,
    pub(super) recv: Receiver,
    /// Of the connection's task.
    pub(super) turns: Turns,
    /// What the server answered, or answers.
    pub(super) status: StatusCode,
    /// The client's place on its connection.
    pub(super) permit: Option<StreamPermit>,
}

impl HboneStream {
    /// Which success the server answered with.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl std::fmt::Debug for HboneStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HboneStream")
            .field("id", &self.recv.id())
            .finish()
    }
}
