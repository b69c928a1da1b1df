//! Byte stream in memory.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use getty::transport::Framing;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    Peer,
    wire::{Incoming, State, Wire},
};

/// The session's end of a byte stream in memory. Its [`Peer`] controls the faults.
#[derive(Debug)]
pub struct Stream {
    wire: Arc<Wire>,
    delay: Delay,
}

/// Creates a byte stream and its peer.
///
/// ```
/// use tokio::io::AsyncReadExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let (mut stream, peer) = getty_test::stream();
/// peer.send("hel");
/// peer.reset();
///
/// let mut read = [0; 5];
/// assert_eq!(stream.read(&mut read).await?, 3);
/// assert!(stream.read(&mut read).await.is_err());
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn stream() -> (Stream, Peer) {
    let wire = Wire::new(Framing::Stream);
    let stream = Stream {
        wire: Arc::clone(&wire),
        delay: Delay::default(),
    };
    (stream, Peer::new(wire))
}

/// Timer of input that has not arrived yet.
#[derive(Debug, Default)]
pub(crate) struct Delay(Option<Pin<Box<Sleep>>>);

impl Delay {
    /// Returns ready once the first part of the input has arrived.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, state: &State) -> Poll<()> {
        let Some((Some(arrives), _)) = state.incoming.front() else {
            return Poll::Ready(());
        };
        if *arrives <= Instant::now() {
            return Poll::Ready(());
        }
        let sleep = self.0.insert(Box::pin(sleep_until(*arrives)));
        sleep.as_mut().poll(cx)
    }
}

/// Moves input to `buf` and returns the number of bytes.
fn read(state: &mut State, buf: &mut ReadBuf<'_>) -> usize {
    let most = buf.remaining().min(state.read_limit);
    let most = most.min(state.reads_until_reset.unwrap_or(usize::MAX));
    let most = state.random_part(most);
    let merges = state.merges_reads || state.random.is_some();
    let mut total = 0;
    while total < most {
        match state.incoming.front_mut() {
            Some((arrives, Incoming::Data(data)))
                if total == 0 || arrives.is_none_or(|at| at <= Instant::now()) =>
            {
                let n = data.len().min(most - total);
                buf.put_slice(&data[..n]);
                data.advance(n);
                total += n;
                if data.is_empty() {
                    state.incoming.pop_front();
                    state.is_paused = true;
                }
            }
            _ => break,
        }
        if !merges {
            break;
        }
    }
    if let Some(left) = &mut state.reads_until_reset {
        *left -= total;
    }
    total
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let state = &mut *this.wire.lock();
        state.counts.reads += 1;
        if state.hesitates(cx) {
            return Poll::Pending;
        }
        if state.reads_until_reset == Some(0) {
            state.incoming.clear();
            state.reset();
        }
        if state.incoming.is_empty() {
            let endless = state.endless.clone();
            state
                .incoming
                .extend(endless.map(|data| (None, Incoming::Data(data))));
        }
        if !state.incoming.is_empty() {
            if this.delay.poll(cx, state).is_pending() {
                return state.wait(cx);
            }
            if state.pauses(cx) {
                return Poll::Pending;
            }
            if buf.remaining() > 0 {
                read(state, buf);
            }
            return Poll::Ready(Ok(()));
        }
        match &state.end {
            Some(Ok(())) => Poll::Ready(Ok(())),
            Some(Err(error)) => Poll::Ready(Err(error.kind().into())),
            None => state.wait(cx),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        let state = &mut *self.wire.lock();
        ready!(state.poll_write(cx))?;
        assert!(!state.shut, "written to after the shutdown");
        if all == 0 {
            return Poll::Ready(Ok(0));
        }
        let most = all.min(state.room).min(state.write_limit);
        let most = most.min(state.writes_until_reset.unwrap_or(usize::MAX));
        if most == 0 {
            // A full buffer counts as flushed: the peer can read its content.
            if !state.holds_flush {
                state.flushed = state.output.len();
                self.wire.changed.notify_waiters();
            }
            return state.wait(cx);
        }
        let n = state.random_part(most);
        if state.room < usize::MAX {
            state.room -= n;
        }
        if let Some(left) = &mut state.writes_until_reset {
            *left -= n;
        }
        if !state.forgets {
            let mut left = n;
            for buf in bufs {
                let part = left.min(buf.len());
                state.output.extend_from_slice(&buf[..part]);
                left -= part;
            }
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.wire.lock();
        ready!(state.poll_flush(cx));
        state.flushed = state.output.len();
        self.wire.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.wire.lock();
        ready!(state.poll_shutdown(cx));
        let answers = !state.stays_open && !state.half_open;
        if answers && state.endless.is_none() && state.end.is_none() {
            state.end = Some(Ok(()));
        }
        self.wire.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.wire.leave();
    }
}
