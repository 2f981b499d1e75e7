//! What is counted of bodies: bytes, and messages of gRPC.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Request;
use http::header::CONTENT_TYPE;

/// Of a request's body, which is read elsewhere than where the request is reported.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) bytes: AtomicU64,
    pub(super) messages: AtomicU64,
}

/// Counts what is read of a request's body.
#[derive(Debug, Default)]
pub(crate) struct BodyMeter {
    counts: Arc<Counts>,
    messages: Option<Messages>,
}

impl BodyMeter {
    pub(super) fn new(counts: &Arc<Counts>, messages: Option<Messages>) -> Self {
        Self {
            counts: Arc::clone(counts),
            messages,
        }
    }

    /// This has been read.
    pub(crate) fn read(&mut self, data: &[u8]) {
        self.read_bytes(data.len() as u64);
        if let Some(messages) = &mut self.messages {
            let ended = messages.end_in(data);
            self.counts.messages.fetch_add(ended, Ordering::Relaxed);
        }
    }

    /// So much of something that has no messages has been read.
    pub(crate) fn read_bytes(&self, bytes: u64) {
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Bytes before a message: flags, and its length.
const HEAD: u8 = 5;

/// Finds the messages of gRPC in a body.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Messages {
    /// Bytes of the head that have been read.
    head: u8,
    /// Bytes of the message that are left, as far as the head has been read.
    left: u32,
}

impl Messages {
    /// Where the bodies of a request and of its response have such messages. (gRPC-Web may have them as text.)
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        let content_type = request.headers().get(CONTENT_TYPE)?.as_bytes();
        let format = content_type.strip_prefix(b"application/grpc")?;
        matches!(format.first(), None | Some(b'+' | b';')).then(Self::default)
    }

    /// How many messages end in `data`, which follows what was read before.
    pub(super) fn end_in(&mut self, mut data: &[u8]) -> u64 {
        let mut ended = 0;
        while let Some((&byte, rest)) = data.split_first() {
            if self.head < HEAD {
                // The flags are shifted out by the four bytes of the length.
                self.left = self.left << 8 | u32::from(byte);
                self.head += 1;
                data = rest;
            } else {
                let of_message = data.len().min(self.left as usize);
                self.left -= of_message as u32;
                data = &data[of_message..];
            }
            if self.head == HEAD && self.left == 0 {
                *self = Self::default();
                ended += 1;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of these lengths.
    fn body(lengths: &[u32]) -> Vec<u8> {
        let message = |length: &u32| {
            let head = [&[1][..], &length.to_be_bytes()].concat();
            [head, vec![7; *length as usize]].concat()
        };
        lengths.iter().flat_map(message).collect()
    }

    #[test]
    fn messages_are_found_however_the_body_is_cut() {
        let body = body(&[0, 3, 300, 0, 70_000, 1]);
        for size in [1, 2, 4, 5, 6, 7, 1000, body.len()] {
            let mut messages = Messages::default();
            let ended: u64 = body.chunks(size).map(|chunk| messages.end_in(chunk)).sum();
            assert_eq!((ended, messages), (6, Messages::default()), "cut to {size}");
        }
    }

    #[test]
    fn a_message_that_breaks_off_is_none() {
        let body = body(&[3, 10]);
        let mut messages = Messages::default();
        assert_eq!(messages.end_in(&body[..body.len() - 1]), 1);
        assert_eq!(messages.end_in(&[]), 0);
    }

    #[test]
    fn only_grpc_has_messages() {
        for (content_type, has) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/grpc-web-text+proto", false),
            ("application/json", false),
        ] {
            let request = Request::post("/").header(CONTENT_TYPE, content_type);
            let found = Messages::of(&request.body(()).unwrap());
            assert_eq!(found.is_some(), has, "{content_type}");
        }
        assert_eq!(Messages::of(&Request::get("/").body(()).unwrap()), None);
    }
}
