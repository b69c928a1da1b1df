//! Byte stream in memory. The test can split, stall, reset and count its reads and writes.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// The session's end.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Shared>);

/// The peer's end. It also controls how the session's end behaves.
#[derive(Clone, Debug)]
pub(crate) struct Peer(Arc<Shared>);

/// Number of polls of the session's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) reads: usize,
    pub(crate) writes: usize,
    pub(crate) flushes: usize,
    pub(crate) shutdowns: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    incoming: VecDeque<Bytes>,
    endless: Option<Bytes>,
    end: Option<io::Result<()>>,
    /// Number of bytes that our end may still write.
    room: usize,
    /// Maximum bytes of one write.
    write_limit: usize,
    write_error: Option<io::ErrorKind>,
    holds_flush: bool,
    holds_shutdown: bool,
    /// The other end does not end its direction when ours has ended.
    stays_open: bool,
    /// Output of our end is discarded.
    forgets: bool,
    output: Vec<u8>,
    /// Number of flushed bytes of the output.
    flushed: usize,
    /// Number of bytes of the output that the other end has taken.
    seen: usize,
    shut: bool,
    gone: bool,
    counts: Counts,
    wakers: Vec<Waker>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            incoming: VecDeque::new(),
            endless: None,
            end: None,
            room: usize::MAX,
            write_limit: usize::MAX,
            write_error: None,
            holds_flush: false,
            holds_shutdown: false,
            stays_open: false,
            forgets: false,
            output: Vec::new(),
            flushed: 0,
            seen: 0,
            shut: false,
            gone: false,
            counts: Counts::default(),
            wakers: Vec::new(),
        }
    }
}

pub(crate) fn pair() -> (Stream, Peer) {
    let shared = Arc::new(Shared::default());
    (Stream(Arc::clone(&shared)), Peer(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics in here")
    }
}

impl Peer {
    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        f(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    async fn until<R>(&self, mut f: impl FnMut(&mut State) -> Option<R>) -> R {
        loop {
            let changed = self.0.changed.notified();
            if let Some(value) = f(&mut self.0.lock()) {
                return value;
            }
            changed.await;
        }
    }

    // Input of the session.

    /// Sends `bytes`. They arrive in one read if it has room.
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.change(|state| state.incoming.push_back(bytes));
    }

    /// Sends `bytes` in pieces of `size`. Each must arrive in a separate read.
    pub(crate) fn send_in_pieces(&self, bytes: impl AsRef<[u8]>, size: usize) {
        for piece in bytes.as_ref().chunks(size) {
            self.send(piece);
        }
    }

    /// Makes every later read return `bytes` without waiting.
    pub(crate) fn send_endlessly(&self, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.change(|state| state.endless = Some(bytes));
    }

    /// Ends the other end's direction after what was sent.
    pub(crate) fn finish(&self) {
        self.change(|state| {
            state.endless = None;
            state.end = Some(Ok(()));
        });
    }

    /// Keeps the peer's direction open after the session has ended its own. An ordinary peer would
    /// end it.
    pub(crate) fn stay_open(&self) {
        self.change(|state| state.stays_open = true);
    }

    /// Makes reads fail after the bytes that were sent. Writes fail at once.
    pub(crate) fn reset(&self) {
        self.change(|state| {
            state.end = Some(Err(io::ErrorKind::ConnectionReset.into()));
            state.write_error = Some(io::ErrorKind::ConnectionReset);
        });
    }

    /// Returns how many sent bytes our end has not read.
    pub(crate) fn unread(&self) -> usize {
        self.0.lock().incoming.iter().map(Bytes::len).sum()
    }

    // Output of the session.

    /// Takes no more bytes.
    pub(crate) fn stall(&self) {
        self.change(|state| state.room = 0);
    }

    /// Takes `bytes` more bytes.
    pub(crate) fn take(&self, bytes: usize) {
        self.change(|state| state.room = state.room.saturating_add(bytes));
    }

    /// Takes any number of bytes again.
    pub(crate) fn take_all(&self) {
        self.take(usize::MAX);
    }

    /// Takes at most `bytes` in one write.
    pub(crate) fn limit_writes(&self, bytes: usize) {
        self.change(|state| state.write_limit = bytes);
    }

    pub(crate) fn fail_writes(&self, kind: io::ErrorKind) {
        self.change(|state| state.write_error = Some(kind));
    }

    /// Discards the output. Tests with much output should call it.
    pub(crate) fn forget_output(&self) {
        self.change(|state| state.forgets = true);
    }

    /// Lets flushes wait until [`release_flush`](Self::release_flush).
    pub(crate) fn hold_flush(&self) {
        self.change(|state| state.holds_flush = true);
    }

    pub(crate) fn release_flush(&self) {
        self.change(|state| state.holds_flush = false);
    }

    /// Lets the shutdown stay pending.
    pub(crate) fn hold_shutdown(&self) {
        self.change(|state| state.holds_shutdown = true);
    }

    /// Returns the session's whole output. It may not be flushed yet.
    pub(crate) fn output(&self) -> String {
        String::from_utf8(self.0.lock().output.clone()).expect("the output is text")
    }

    /// Returns the session's whole output, which need not be text.
    #[allow(dead_code, reason = "only tests of compression use it")]
    pub(crate) fn output_bytes(&self) -> Vec<u8> {
        self.0.lock().output.clone()
    }

    /// Returns how many bytes our end has written.
    pub(crate) fn written(&self) -> usize {
        self.0.lock().output.len()
    }

    /// Returns the next line that was flushed.
    pub(crate) async fn line(&self) -> String {
        self.until(|state| {
            let unseen = &state.output[state.seen..state.flushed];
            let end = unseen.iter().position(|byte| *byte == b'\n')?;
            let line = String::from_utf8(unseen[..end].to_vec()).expect("lines are text");
            state.seen += end + 1;
            Some(line)
        })
        .await
    }

    pub(crate) async fn lines(&self, n: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < n {
            lines.push(self.line().await);
        }
        lines
    }

    /// Returns the next `n` bytes that were flushed.
    pub(crate) async fn bytes(&self, n: usize) -> Vec<u8> {
        self.until(|state| {
            let unseen = &state.output[state.seen..state.flushed];
            let bytes = unseen.get(..n)?.to_vec();
            state.seen += n;
            Some(bytes)
        })
        .await
    }

    /// Waits until the session's end is shut down, as after the last flush.
    pub(crate) fn is_shut(&self) -> bool {
        self.0.lock().shut
    }

    /// Waits until our end is dropped.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.lock().gone
    }

    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().counts
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        state.counts.reads += 1;
        if state.incoming.is_empty() {
            let endless = state.endless.clone();
            state.incoming.extend(endless);
        }
        if let Some(piece) = state.incoming.front_mut() {
            let n = piece.len().min(buf.remaining());
            buf.put_slice(&piece[..n]);
            piece.advance(n);
            if piece.is_empty() {
                state.incoming.pop_front();
            }
            return Poll::Ready(Ok(()));
        }
        match &state.end {
            Some(Ok(())) => Poll::Ready(Ok(())),
            Some(Err(error)) => Poll::Ready(Err(error.kind().into())),
            None => {
                state.wakers.push(cx.waker().clone());
                Poll::Pending
            }
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
        let buf: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        let mut state = self.0.lock();
        state.counts.writes += 1;
        if let Some(kind) = state.write_error {
            return Poll::Ready(Err(kind.into()));
        }
        assert!(!state.shut, "written to after the shutdown");
        let n = buf.len().min(state.room).min(state.write_limit);
        if n == 0 {
            // A full buffer counts as flushed: the peer can read its content.
            if !state.holds_flush {
                state.flushed = state.output.len();
                self.0.changed.notify_waiters();
            }
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        if state.room < usize::MAX {
            state.room -= n;
        }
        if !state.forgets {
            state.output.extend_from_slice(&buf[..n]);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        state.counts.flushes += 1;
        if state.holds_flush {
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        state.flushed = state.output.len();
        drop(state);
        self.0.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        state.counts.shutdowns += 1;
        if state.holds_shutdown {
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        state.shut = true;
        if !state.stays_open && state.endless.is_none() && state.end.is_none() {
            state.end = Some(Ok(()));
        }
        drop(state);
        self.0.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.lock().gone = true;
        self.0.changed.notify_waiters();
    }
}
