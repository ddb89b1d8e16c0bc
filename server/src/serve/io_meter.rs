//! The bytes of a connection, counted on their way and gathered into few writes.
//!
//! To a socket that takes several pieces at a time, h2 writes every message of 256 bytes and more by
//! itself: a system call for each event of a watch and each value read. To one that says it does not,
//! it copies messages of up to 1 KiB one behind the other and writes 16 KiB at a time, which costs a
//! tenth. So that is said here. What h2 still writes in pieces, the head of a larger message and then
//! its content, is put together again: a short piece waits for what follows it, or for the flush.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::metrics::Metrics;
use crate::tls::MaybeTls;

/// A piece that short waits for the next.
const HELD_BYTES_MAX: usize = 256;

/// A connected socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Waits for the first byte without taking it. Only TCP has such a look; behind a Unix socket
    /// nobody asks.
    pub(super) async fn first_byte(&self) -> io::Result<u8> {
        let Self::Tcp(stream) = self else { return Ok(0) };
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(first[0])
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection whose bytes are counted, as HTTP sees them.
pub(super) struct Metered {
    transport: MaybeTls<Socket>,
    received: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    /// Taken, and not written yet.
    held: BytesMut,
}

impl Metered {
    pub(super) fn new(
        transport: MaybeTls<Socket>,
        received: Arc<AtomicU64>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { transport, received, metrics, held: BytesMut::new() }
    }

    fn sent(&self, written: usize) {
        self.metrics.client_sent_bytes.inc_by(written as u64);
    }

    /// Writes what is held, and `rest` behind it as far as it goes in the same write: how much of it
    /// did.
    fn poll_release(&mut self, cx: &mut Context<'_>, rest: &[u8]) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            let pieces = [IoSlice::new(&self.held), IoSlice::new(rest)];
            let pieces = if rest.is_empty() { &pieces[..1] } else { &pieces[..] };
            let written = ready!(Pin::new(&mut self.transport).poll_write_vectored(cx, pieces))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent(written);
            let of_held = written.min(self.held.len());
            self.held.advance(of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.transport).poll_read(cx, buf))?;
        let read = (buf.filled().len() - before) as u64;
        self.received.fetch_add(read, Ordering::Relaxed);
        self.metrics.client_received_bytes.inc_by(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() + buf.len() <= HELD_BYTES_MAX {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(self.poll_release(cx, buf))?;
        if written > 0 {
            return Poll::Ready(Ok(written));
        }
        let written = ready!(Pin::new(&mut self.transport).poll_write(cx, buf))?;
        self.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx, &[]))?;
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx, &[]))?;
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn pair() -> (Metered, UnixStream, Arc<Metrics>) {
        let (near, far) = UnixStream::pair().expect("sockets");
        let metrics = Arc::new(Metrics::new());
        let transport = MaybeTls::Plain(Socket::Unix(near));
        (Metered::new(transport, Arc::default(), Arc::clone(&metrics)), far, metrics)
    }

    async fn write(to: &mut Metered, bytes: &[u8]) -> usize {
        poll_fn(|cx| Pin::new(&mut *to).poll_write(cx, bytes)).await.expect("written")
    }

    async fn flush(to: &mut Metered) {
        poll_fn(|cx| Pin::new(&mut *to).poll_flush(cx)).await.expect("flushed");
    }

    #[tokio::test]
    async fn short_pieces_leave_with_the_flush_and_in_order() {
        let (mut near, mut far, metrics) = pair();
        assert_eq!(write(&mut near, b"one ").await, 4);
        assert_eq!(write(&mut near, b"two").await, 3);
        let nothing = far.try_read(&mut [0; 16]).expect_err("held back");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(metrics.client_sent_bytes.get(), 0);
        flush(&mut near).await;
        let mut read = [0; 7];
        far.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"one two");
        assert_eq!(metrics.client_sent_bytes.get(), 7);
    }

    #[tokio::test]
    async fn a_long_piece_takes_the_head_before_it_along() {
        let (mut near, mut far, metrics) = pair();
        let long = vec![7; 3 * HELD_BYTES_MAX];
        write(&mut near, b"head").await;
        assert_eq!(write(&mut near, &long).await, long.len());
        let mut read = vec![0; 4 + long.len()];
        far.read_exact(&mut read).await.expect("read");
        assert_eq!((&read[..4], &read[4..]), (&b"head"[..], &long[..]));
        assert_eq!(metrics.client_sent_bytes.get(), read.len() as u64);
    }

    #[tokio::test]
    async fn what_is_held_is_written_before_the_end() {
        let (mut near, mut far, _) = pair();
        write(&mut near, b"last").await;
        poll_fn(|cx| Pin::new(&mut near).poll_shutdown(cx)).await.expect("shut down");
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.expect("read");
        assert_eq!(read, b"last");
    }

    #[tokio::test]
    async fn a_reader_that_pauses_gets_every_byte_once() {
        let (mut near, mut far, _) = pair();
        let mut sent = Vec::new();
        let writer = async {
            for round in 0..400_usize {
                let piece = vec![round as u8; [9, 5000, 300, 20_000][round % 4]];
                let mut rest = &piece[..];
                while !rest.is_empty() {
                    let written = write(&mut near, rest).await;
                    rest = &rest[written..];
                }
                sent.extend_from_slice(&piece);
            }
            flush(&mut near).await;
            drop(near);
        };
        let mut read = Vec::new();
        let (_, length) = tokio::join!(writer, far.read_to_end(&mut read));
        assert_eq!(length.expect("read"), sent.len());
        assert!(read == sent, "other bytes than were sent");
    }
}
