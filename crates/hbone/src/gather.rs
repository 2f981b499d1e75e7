//! One write for all that a connection has to say in a turn of its task.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};

/// Frames are gathered up to this size before they become TLS records.
const BUFFER: usize = 32 << 10;

/// What is read in one turn: then those whose streams it came on have theirs, before h2 holds too many small frames for them.
const TURN: usize = 256 << 10;

/// What h2 reads from and writes to. h2 flushes after every DATA frame of some size, each of which would become a TLS record and a
/// system call of its own; here a flush does nothing, and [`Outgoing::flush`] is the one that counts.
pub(super) struct Gathered<IO>(Shared<IO>);

/// Sends what was gathered.
pub(super) struct Outgoing<IO>(Shared<IO>);

/// Both are used by the connection's task alone, so that the lock is never waited for.
type Shared<IO> = Arc<Mutex<Transport<IO>>>;

struct Transport<IO> {
    io: BufWriter<IO>,
    /// Bytes read in this turn.
    read: usize,
    /// Why what was gathered could not be sent; h2 reads it.
    failure: Option<io::Error>,
}

/// Wraps the transport of one connection.
pub(super) fn gather<IO: AsyncWrite>(io: IO) -> (Gathered<IO>, Outgoing<IO>) {
    let transport = Transport {
        io: BufWriter::with_capacity(BUFFER, io),
        read: 0,
        failure: None,
    };
    let shared = Arc::new(Mutex::new(transport));
    (Gathered(Arc::clone(&shared)), Outgoing(shared))
}

impl<IO: AsyncWrite + Unpin> Outgoing<IO> {
    /// To be called when the connection was polled and has nothing more to do, which ends its turn. Wakes the task when the transport
    /// takes more, and when it failed: the connection hears of it when it is polled again.
    pub(super) fn flush(&self, cx: &mut Context<'_>) {
        let Transport { io, read, failure } = &mut *self.0.lock();
        *read = 0;
        if let Poll::Ready(Err(error)) = Pin::new(io).poll_flush(cx)
            && failure.is_none()
        {
            *failure = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl<IO> Gathered<IO> {
    fn with<T>(
        &self,
        poll: impl FnOnce(Pin<&mut BufWriter<IO>>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        IO: AsyncWrite + Unpin,
    {
        let Transport { io, failure, .. } = &mut *self.0.lock();
        match failure.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => poll(Pin::new(io)),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.lock().read >= TURN {
            // To the end of the scheduler's queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let result = self.with(|io| io.poll_read(cx, buffer));
        self.0.lock().read += buffer.filled().len() - before;
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gathered<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Takes note of every write; fails instead once it is broken.
    #[derive(Clone, Default)]
    struct Wire {
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        broken: Arc<Mutex<bool>>,
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            if *self.broken.lock() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.writes.lock().push(data.to_vec());
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_flushed_piece_by_piece_goes_out_in_one_write() {
        let wire = Wire::default();
        let (mut gathered, outgoing) = gather(wire.clone());
        for piece in [&b"one "[..], b"two ", b"three"] {
            gathered.write_all(piece).await.unwrap();
            gathered.flush().await.unwrap();
        }
        assert!(wire.writes.lock().is_empty());
        outgoing.flush(&mut Context::from_waker(Waker::noop()));
        assert_eq!(*wire.writes.lock(), [b"one two three"]);
    }

    #[tokio::test]
    async fn more_than_the_buffer_holds_does_not_wait() {
        let wire = Wire::default();
        let (mut gathered, _outgoing) = gather(wire.clone());
        gathered.write_all(&vec![7; 2 * BUFFER]).await.unwrap();
        assert_eq!(wire.writes.lock().concat().len(), 2 * BUFFER);
    }

    #[test]
    fn much_that_is_there_is_read_in_several_turns() {
        let (mut gathered, outgoing) = gather(io::Cursor::new(vec![7; 2 * TURN + 1]));
        let mut cx = Context::from_waker(Waker::noop());
        let mut turns = Vec::new();
        for _ in 0..3 {
            let (mut space, mut read) = (vec![0; 1 << 16], 0);
            loop {
                let mut buffer = ReadBuf::new(&mut space);
                match Pin::new(&mut gathered).poll_read(&mut cx, &mut buffer) {
                    Poll::Ready(result) if result.is_ok() && !buffer.filled().is_empty() => {
                        read += buffer.filled().len();
                    }
                    _ => break,
                }
            }
            turns.push(read);
            outgoing.flush(&mut cx);
        }
        assert_eq!(turns, [TURN, TURN, 1]);
    }

    #[tokio::test]
    async fn nothing_is_left_behind_at_the_end() {
        let wire = Wire::default();
        let (mut gathered, _outgoing) = gather(wire.clone());
        gathered.write_all(b"farewell").await.unwrap();
        gathered.shutdown().await.unwrap();
        assert_eq!(*wire.writes.lock(), [b"farewell"]);
    }

    #[tokio::test]
    async fn a_connection_hears_that_what_it_said_could_not_be_sent() {
        let wire = Wire::default();
        let (mut gathered, outgoing) = gather(wire.clone());
        gathered.write_all(b"lost").await.unwrap();
        *wire.broken.lock() = true;
        outgoing.flush(&mut Context::from_waker(Waker::noop()));
        let error = gathered.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
