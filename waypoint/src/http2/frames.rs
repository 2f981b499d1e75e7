//! The bytes of a connection on their way into h2.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one turn of a connection reads, at most; then its streams have theirs.
pub(super) const TURN: usize = 64 << 10;

const READ: usize = 16 << 10;
const HEADER: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;

/// An HTTP/2 connection's bytes. Takes out empty DATA frames that end nothing: servers that flush send them, and h2 ends a connection
/// with the hundred-and-first of its life. Lets a turn of the connection end after [`TURN`] bytes.
pub(crate) struct FrameIo<IO> {
    io: IO,
    /// Read since the turn began.
    read: usize,
    frames: Frames,
    /// Passed on already, with no room for it yet.
    spare: BytesMut,
    /// All that was written is on its way.
    flushed: Arc<AtomicBool>,
}

impl<IO> FrameIo<IO> {
    /// Of a connection on which the next byte begins a frame, after the `preface` of so many bytes.
    pub(crate) fn new(io: IO, preface: usize) -> Self {
        let frames = Frames {
            header: [0; HEADER],
            have: 0,
            payload: preface,
        };
        Self {
            io,
            read: 0,
            frames,
            spare: BytesMut::new(),
            flushed: Arc::default(),
        }
    }

    /// Whether all that h2 had to write is on its way.
    pub(crate) fn flushed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flushed)
    }
}

/// Where frames begin.
struct Frames {
    /// The header of a frame that has begun, and how much of it has come: that is held back.
    header: [u8; HEADER],
    have: usize,
    /// What is left of the frame before.
    payload: usize,
}

impl Frames {
    /// Passes `from` on, but for what it takes out or holds back.
    fn filter(&mut self, mut from: &[u8], mut pass: impl FnMut(&[u8])) {
        while !from.is_empty() {
            if self.payload > 0 {
                let (payload, rest) = from.split_at(self.payload.min(from.len()));
                pass(payload);
                self.payload -= payload.len();
                from = rest;
                continue;
            }
            let (header, rest) = from.split_at((HEADER - self.have).min(from.len()));
            self.header[self.have..self.have + header.len()].copy_from_slice(header);
            self.have += header.len();
            from = rest;
            if self.have < HEADER {
                return;
            }
            self.have = 0;
            let [a, b, c, kind, flags, ..] = self.header;
            self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if self.payload > 0 || kind != DATA || flags & END_STREAM != 0 {
                pass(&self.header);
            }
        }
    }
}

fn drain(spare: &mut BytesMut, buf: &mut ReadBuf<'_>) {
    let fits = spare.len().min(buf.remaining());
    buf.put_slice(&spare[..fits]);
    spare.advance(fits);
}

impl<IO: AsyncRead + Unpin> AsyncRead for FrameIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut part = [MaybeUninit::uninit(); READ];
        while this.spare.is_empty() {
            if this.read >= TURN {
                this.read = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let room = buf.remaining().min(READ);
            let mut part = ReadBuf::uninit(&mut part[..room]);
            let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, &mut part) else {
                this.read = 0;
                return Poll::Pending;
            };
            result?;
            let read = part.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.read += read.len();
            let (spare, before) = (&mut this.spare, buf.filled().len());
            this.frames.filter(read, |bytes| {
                let fits = match spare.is_empty() {
                    true => bytes.len().min(buf.remaining()),
                    false => 0,
                };
                buf.put_slice(&bytes[..fits]);
                spare.extend_from_slice(&bytes[fits..]);
            });
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
        drain(&mut this.spare, buf);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FrameIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.flushed.store(false, Ordering::Release);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.flushed.store(flushed.is_ready(), Ordering::Release);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn empty_data_frames_are_taken_out_however_they_are_cut() {
        let (headers, empty) = ([0, 0, 2, 1, 4, 0, 0, 0, 1, 7, 7], [0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let (data, settings) = ([0, 0, 1, 0, 0, 0, 0, 0, 1, 9], [0, 0, 0, 4, 1, 0, 0, 0, 0]);
        let last = [0, 0, 0, 0, END_STREAM, 0, 0, 0, 1];
        let sent = [
            b"PRI",
            &headers[..],
            &empty,
            &data,
            &empty,
            &empty,
            &settings,
            &last,
        ]
        .concat();
        let expected = [b"PRI", &headers[..], &data, &settings, &last].concat();
        for size in [1, 2, 5, 8, 9, 10, 64] {
            let mut io = tokio_test_io(&sent, size);
            let mut received = Vec::new();
            let mut part = vec![0; size];
            loop {
                let n = io.read(&mut part).await.unwrap();
                if n == 0 {
                    break;
                }
                received.extend_from_slice(&part[..n]);
            }
            assert_eq!(received, expected, "{size}");
        }
    }

    fn tokio_test_io(sent: &[u8], size: usize) -> FrameIo<impl AsyncRead + Unpin> {
        let (near, mut far) = tokio::io::duplex(size);
        let sent = sent.to_vec();
        tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut far, &sent)
                .await
                .unwrap();
        });
        FrameIo::new(near, 3)
    }
}
