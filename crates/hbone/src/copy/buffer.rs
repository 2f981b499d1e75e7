//! A read buffer that follows the traffic: small for messages, large for bulk, none when idle.

use bytes::{Bytes, BytesMut};

const SMALLEST: usize = 2 << 10;
const LARGEST: usize = 256 << 10;
/// Larger buffers are given back when the connection pauses.
const KEPT: usize = 16 << 10;

pub(super) struct GrowingBuffer {
    buffer: BytesMut,
    size: usize,
}

impl GrowingBuffer {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            size: SMALLEST,
        }
    }

    /// Where to read into; never without room.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        debug_assert!(self.buffer.is_empty());
        // Some leftover room is used up before there is a new allocation.
        if self.buffer.capacity() < self.size / 4 {
            // In place if all that was read has been sent; reserve() would grow it without bound.
            if !self.buffer.try_reclaim(self.size) {
                self.buffer = BytesMut::with_capacity(self.size);
            }
        }
        &mut self.buffer
    }

    /// What a read of `n` bytes left in the buffer. Full reads make the next one larger.
    pub(super) fn take(&mut self, n: usize) -> Bytes {
        let full = n == self.buffer.capacity() && n >= self.size / 2;
        if full {
            self.size = (self.size * 4).min(LARGEST);
        } else if n < self.size / 16 {
            self.size = (self.size / 2).max(SMALLEST);
        }
        self.buffer.split().freeze()
    }

    /// Nothing is to be read now.
    pub(super) fn idle(&mut self) {
        if self.buffer.capacity() > KEPT {
            self.buffer = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffer: &mut GrowingBuffer, n: usize) -> usize {
        let space = buffer.space();
        let n = n.min(space.capacity());
        space.extend_from_slice(&vec![7; n]);
        let taken = buffer.take(n);
        assert_eq!(taken.len(), n);
        n
    }

    #[test]
    fn bulk_makes_it_large_and_messages_small_again() {
        let mut buffer = GrowingBuffer::new();
        let largest = (0..8).map(|_| read(&mut buffer, usize::MAX)).max();
        assert_eq!(largest, Some(LARGEST));
        for _ in 0..64 {
            assert_eq!(read(&mut buffer, 10), 10);
        }
        assert_eq!(buffer.size, SMALLEST);
    }

    #[test]
    fn an_idle_connection_keeps_no_large_buffer() {
        let mut buffer = GrowingBuffer::new();
        for _ in 0..8 {
            read(&mut buffer, usize::MAX);
        }
        buffer.space();
        buffer.idle();
        assert!(buffer.buffer.capacity() <= KEPT);
    }
}
