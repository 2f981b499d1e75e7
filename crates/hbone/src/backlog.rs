//! What came on a stream whose reader is slow.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Frames of this size are kept as they are: the buffer that they were read with is not much larger.
const LARGE: usize = 8 << 10;
/// Smaller ones are joined, up to this size.
const CHUNK: usize = 32 << 10;

/// Bytes in the order in which they came, in hardly more memory than they are: HTTP/2's flow control counts bytes only, but each
/// frame that waits costs some 270 bytes more in h2, and may hold on to the whole of the buffer that it was read with.
#[derive(Debug, Default)]
pub struct Backlog {
    /// The first frame, as it came: most often the reader takes it before the next one arrives.
    first: Option<Bytes>,
    chunks: VecDeque<Bytes>,
    last: BytesMut,
}

impl Backlog {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.chunks.is_empty() && self.last.is_empty()
    }

    /// Adds what came.
    pub fn push(&mut self, data: Bytes) {
        if self.is_empty() {
            self.first = Some(data);
        } else if data.len() >= LARGE {
            self.seal();
            self.chunks.push_back(data);
        } else {
            if self.last.len() + data.len() > CHUNK {
                self.seal();
            }
            self.last.extend_from_slice(&data);
        }
    }

    /// The next bytes.
    pub fn pop(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
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
    fn order_is_kept_and_small_frames_are_joined() {
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
        assert!(chunks.len() <= 9, "{}", chunks.len());
        assert!(backlog.is_empty());
    }
}
