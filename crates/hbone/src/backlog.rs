//! What came on a stream whose reader is slow.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// From this size on a frame is kept as it is: what else it may hold on to is not much more.
const LARGE: usize = 16 << 10;
/// Smaller ones are put together up to this size.
const CHUNK: usize = 64 << 10;

/// Bytes in the order in which they came, in hardly more memory than they are: HTTP/2's flow control counts bytes only, but each
/// frame that waits costs some 270 bytes more in h2, and may hold on to the whole of the buffer that it was read with.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    chunks: VecDeque<Bytes>,
    last: BytesMut,
}

impl Backlog {
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() >= LARGE {
            self.seal();
            self.chunks.push_back(data);
            return;
        }
        if self.last.len() + data.len() > CHUNK {
            self.seal();
        }
        self.last.extend_from_slice(&data);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.seal();
        }
        self.chunks.pop_front()
    }

    fn seal(&mut self) {
        if !self.last.is_empty() {
            self.chunks.push_back(std::mem::take(&mut self.last).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_come_out_in_their_order_and_small_ones_together() {
        let mut backlog = Backlog::default();
        let mut expected = Vec::new();
        for size in [1, 97, LARGE - 1, LARGE, 3, 200_000, 5, 6, 7] {
            let data = vec![size as u8; size];
            expected.extend_from_slice(&data);
            backlog.push(data.into());
        }
        for _ in 0..CHUNK {
            expected.extend_from_slice(b"xy");
            backlog.push(Bytes::from_static(b"xy"));
        }
        let chunks: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
        assert!(chunks.concat() == expected);
        assert!(chunks.len() <= 8, "{}", chunks.len());
        assert!(backlog.pop().is_none());
    }
}
