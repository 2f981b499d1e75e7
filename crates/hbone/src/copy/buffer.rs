//! A read buffer that follows the traffic: small for messages, large for bulk, none when idle.

use bytes::{Bytes, BytesMut};

use crate::memory::{Borrower, Loan};

const SMALLEST: usize = 2 << 10;
const LARGEST: usize = 256 << 10;
/// Larger buffers are given back when the connection pauses.
const KEPT: usize = 16 << 10;

pub(super) struct GrowingBuffer {
    buffer: BytesMut,
    size: usize,
    /// Who borrows memory while it is large, where what was read stays until the other side takes it.
    memory: Option<Borrower>,
    loan: Option<Loan>,
}

impl GrowingBuffer {
    /// For bytes that are counted elsewhere once they are read.
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            size: SMALLEST,
            memory: None,
            loan: None,
        }
    }

    /// One that is large only while memory is lent for it.
    pub(super) fn of(memory: Borrower) -> Self {
        Self {
            memory: Some(memory),
            ..Self::new()
        }
    }

    /// How much the next read may yield.
    pub(super) fn wanted(&self) -> usize {
        self.size
    }

    /// Where to read into; never without room.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        debug_assert!(self.buffer.is_empty());
        if self.size > KEPT
            && self.loan.is_none()
            && let Some(memory) = &self.memory
        {
            self.loan = memory.borrow(LARGEST + LARGEST / 4);
            if self.loan.is_none() {
                self.size = KEPT;
            }
        }
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
        if n < self.buffer.capacity() / 4 && self.buffer.capacity() > KEPT {
            // What is small does not hold on to what is large.
            let taken = Bytes::copy_from_slice(&self.buffer);
            self.buffer.clear();
            return taken;
        }
        self.buffer.split().freeze()
    }

    /// Nothing is to be read now, and nothing that was read waits.
    pub(super) fn idle(&mut self) {
        self.loan = None;
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
