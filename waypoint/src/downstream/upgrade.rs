//! What a connection becomes once its client has the answer.

use bytes::Bytes;

use super::asked::Asked;
use crate::observe::RequestRecord;
use crate::state::Endpoint;
use crate::upstream::UpstreamIo;

/// An endpoint's side of an upgraded connection, which waits for the client's side.
pub(super) struct Upgrade {
    pub(super) io: UpstreamIo,
    /// What the endpoint said already.
    pub(super) first: Bytes,
    pub(super) record: Option<RequestRecord>,
    /// The request for it.
    pub(super) asked: Box<Asked>,
    /// Counts it as in flight there.
    pub(super) from: Endpoint,
}
