//! The other end of an in-memory transport.

use std::{io, panic::Location, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use getty::{
    CloseReason,
    codec::{Decoder, Encoder},
    transport::Framing,
};

use crate::wire::{Counts, Incoming, Random, Wire};

/// The peer of a session: sends to the session, receives from it, and controls the faults of
/// the transport.
///
/// Clones are handles of the same peer. A drop does not end the connection: call
/// [`finish`](Self::finish) or [`reset`](Self::reset). Faults take effect at once and may be
/// changed at any time. Bytes that the session has written are received when they are flushed.
///
/// Methods that wait fail the test if the session ends first, or after 24 hours of tokio's
/// clock. With a paused clock that takes no time.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Wire>);

/// Input of the session.
impl Peer {
    pub(crate) const fn new(wire: Arc<Wire>) -> Self {
        Self(wire)
    }

    /// Sends bytes in one piece. A read of the session returns no more than one piece, unless
    /// [`merge_reads`](Self::merge_reads) changes that. On a message transport it is one message.
    pub fn send(&self, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.0.change(|state| {
            // a stream has no empty pieces: a read without bytes is its end
            if !bytes.is_empty() || state.framing != Framing::Stream {
                state.push(Incoming::Data(bytes));
            }
        });
    }

    /// Sends bytes in pieces of `size` bytes. Each needs a separate read.
    ///
    /// # Panics
    ///
    /// Panics if `size` is 0.
    pub fn send_in_pieces(&self, bytes: impl AsRef<[u8]>, size: usize) {
        for piece in bytes.as_ref().chunks(size) {
            self.send(piece);
        }
    }

    /// Sends a message that `codec` encodes.
    ///
    /// # Panics
    ///
    /// Panics if the codec cannot encode the message.
    #[track_caller]
    pub fn send_with<C, M>(&self, codec: &mut C, message: M)
    where
        C: Encoder<M, Error: std::fmt::Debug>,
    {
        let mut bytes = BytesMut::new();
        if let Err(error) = codec.encode(message, &mut bytes) {
            panic!("the codec cannot encode the message: {error:?}");
        }
        self.send(bytes);
    }

    /// Returns these bytes to every later read, without an end.
    pub fn send_endlessly(&self, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        self.0.change(|state| state.endless = Some(bytes));
    }

    /// Sends a control frame of a message transport, such as a pong, with a length in bytes.
    pub fn send_control(&self, bytes: usize) {
        self.0.change(|state| state.push(Incoming::Control(bytes)));
    }

    /// Loses messages of a message transport on the way to the session. They count as skipped.
    pub fn lose(&self, messages: u32) {
        self.0.change(|state| state.push(Incoming::Lost(messages)));
    }

    /// Ends the peer's direction after the bytes that were sent: a half-close. The peer still
    /// receives.
    pub fn finish(&self) {
        self.0.change(|state| {
            state.endless = None;
            state.end = Some(Ok(()));
        });
    }

    /// Resets the connection. Reads fail after the bytes that were sent. Writes fail at once.
    pub fn reset(&self) {
        self.0.change(super::wire::State::reset);
    }

    /// Resets the connection once the session has read this many more bytes. The rest of the input
    /// is lost.
    pub fn reset_after_reads(&self, bytes: usize) {
        self.0.change(|state| state.reads_until_reset = Some(bytes));
    }

    /// Leaves the connection half-open, as a host that loses its power does: later input of the
    /// session is lost and has no end, and its output is taken up to `room` bytes, as by the
    /// buffers of the kernel.
    pub fn half_open(&self, room: usize) {
        self.0.change(|state| {
            state.half_open = true;
            state.endless = None;
            state.room = room;
        });
    }

    /// Keeps the peer's direction open after the session has ended its own. The default is to end
    /// it, as an ordinary peer does.
    pub fn stay_open(&self) {
        self.0.change(|state| state.stays_open = true);
    }

    /// Delays all input that is sent later. It arrives after this time of tokio's clock.
    pub fn delay(&self, time: Duration) {
        self.0.change(|state| state.delay = Some(time));
    }

    /// Splits the input: a read returns at most this many bytes. Has no effect on messages.
    pub fn split_reads(&self, bytes: usize) {
        self.0.change(|state| state.read_limit = bytes.max(1));
    }

    /// Merges the input: a read returns as many of the pieces as have arrived and fit. Has no
    /// effect on messages.
    pub fn merge_reads(&self) {
        self.0.change(|state| state.merges_reads = true);
    }

    /// Lets other tasks run between two pieces or messages: one read is pending after each.
    /// So a session handles a piece before it reads the next one.
    pub fn pause_reads(&self) {
        self.0.change(|state| state.pauses_reads = true);
    }

    /// Splits and merges reads, shortens writes and lets polls be pending, at random. The same seed
    /// gives the same faults. A correct session has the same output with and without them.
    pub fn randomize(&self, seed: u64) {
        self.0
            .change(|state| state.random = Some(Random::new(seed)));
    }

    /// Lets a message transport claim that more input has arrived, from now on.
    pub fn promise_more(&self) {
        self.0.change(|state| state.promises_more = true);
    }

    /// Returns how many bytes of the input the session has not read.
    #[must_use]
    pub fn unread(&self) -> usize {
        let unread = |(_, incoming): &(_, Incoming)| match incoming {
            Incoming::Data(data) => data.len(),
            Incoming::Control(_) | Incoming::Lost(_) => 0,
        };
        self.0.lock().incoming.iter().map(unread).sum()
    }
}

/// Output of the session.
impl Peer {
    /// Takes no more bytes, as a peer that does not read.
    pub fn stall(&self) {
        self.0.change(|state| state.room = 0);
    }

    /// Takes this many more bytes. A message is taken whole while there is any room.
    pub fn take(&self, bytes: usize) {
        self.0
            .change(|state| state.room = state.room.saturating_add(bytes));
    }

    /// Takes any number of bytes again, which is the default.
    pub fn take_all(&self) {
        self.take(usize::MAX);
    }

    /// Shortens writes: one write takes at most this many bytes. Has no effect on messages.
    pub fn limit_writes(&self, bytes: usize) {
        self.0.change(|state| state.write_limit = bytes);
    }

    /// Fails later writes with this error.
    pub fn fail_writes(&self, kind: io::ErrorKind) {
        self.0.change(|state| state.write_error = Some(kind));
    }

    /// Resets the connection once the session has written this many more bytes.
    pub fn reset_after_writes(&self, bytes: usize) {
        self.0
            .change(|state| state.writes_until_reset = Some(bytes));
    }

    /// Lets flushes wait until [`release_flush`](Self::release_flush).
    pub fn hold_flush(&self) {
        self.0.change(|state| state.holds_flush = true);
    }

    /// Lets flushes complete again.
    pub fn release_flush(&self) {
        self.0.change(|state| state.holds_flush = false);
    }

    /// Lets the close of the transport stay pending.
    pub fn hold_close(&self) {
        self.0.change(|state| state.holds_close = true);
    }

    /// Discards the output. A test with much output should call it.
    pub fn forget_output(&self) {
        self.0.change(|state| state.forgets = true);
    }

    /// Returns the next message. On a stream it returns all bytes that were flushed and not
    /// received, and waits for at least one.
    #[track_caller]
    pub fn recv(&self) -> impl Future<Output = Bytes> + '_ {
        self.recv_from(Location::caller())
    }

    pub(crate) async fn recv_from(&self, caller: &'static Location<'static>) -> Bytes {
        self.0.until("message", caller, next).await
    }

    /// Returns the next message, or the next bytes, if there are any.
    #[must_use]
    pub fn try_recv(&self) -> Option<Bytes> {
        next(&mut self.0.lock())
    }

    /// Returns the next message as text, like [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// Panics if it is not UTF-8.
    #[track_caller]
    pub fn text(&self) -> impl Future<Output = String> + '_ {
        let message = self.recv();
        async move { String::from_utf8(message.await.into()).expect("the message is text") }
    }

    /// Returns the next line of a stream without its end, `\n` or `\r\n`.
    ///
    /// # Panics
    ///
    /// Panics if it is not UTF-8.
    #[track_caller]
    pub fn line(&self) -> impl Future<Output = String> + '_ {
        self.line_from(Location::caller())
    }

    /// Returns the next `n` lines of a stream.
    #[track_caller]
    pub fn lines(&self, n: usize) -> impl Future<Output = Vec<String>> + '_ {
        let caller = Location::caller();
        async move {
            let mut lines = Vec::new();
            while lines.len() < n {
                lines.push(self.line_from(caller).await);
            }
            lines
        }
    }

    async fn line_from(&self, caller: &'static Location<'static>) -> String {
        let line = self.0.until("line", caller, |state| {
            let unseen = &state.output[state.seen..state.flushed];
            let end = unseen.iter().position(|byte| *byte == b'\n')?;
            let line = unseen[..end].strip_suffix(b"\r").unwrap_or(&unseen[..end]);
            let line = line.to_vec();
            state.seen += end + 1;
            Some(line)
        });
        String::from_utf8(line.await).expect("lines are text")
    }

    /// Returns the next `n` bytes of a stream.
    #[track_caller]
    pub fn bytes(&self, n: usize) -> impl Future<Output = Vec<u8>> + '_ {
        let caller = Location::caller();
        async move {
            let what = format!("{n} bytes");
            let bytes = self.0.until(&what, caller, |state| {
                let unseen = &state.output[state.seen..state.flushed];
                let bytes = unseen.get(..n)?.to_vec();
                state.seen += n;
                Some(bytes)
            });
            bytes.await
        }
    }

    /// Returns the next message that `codec` decodes from the output.
    ///
    /// # Panics
    ///
    /// Panics if the codec cannot decode the output.
    #[track_caller]
    pub fn recv_with<'a, C>(&'a self, codec: &'a mut C) -> impl Future<Output = C::Item> + 'a
    where
        C: Decoder<Error: std::fmt::Debug>,
    {
        let caller = Location::caller();
        async move {
            self.0
                .until("message", caller, |state| {
                    let stream = state.framing == Framing::Stream;
                    let mut bytes = if stream {
                        BytesMut::from(&state.output[state.seen..state.flushed])
                    } else {
                        BytesMut::from(&state.messages.front()?[..])
                    };
                    let unseen = bytes.len();
                    // as a session decodes a message with boundaries
                    let decoded = if stream {
                        codec.decode(&mut bytes)
                    } else {
                        codec.decode_eof(&mut bytes)
                    };
                    let message = match decoded {
                        Ok(message) => message,
                        Err(error) => {
                            panic!("{caller}: the codec cannot decode the output: {error:?}")
                        }
                    };
                    if stream {
                        state.seen += unseen - bytes.len();
                    } else {
                        let is_whole = message.is_some() && bytes.is_empty();
                        assert!(
                            is_whole,
                            "{caller}: the output is not one message of the codec"
                        );
                        state.messages.pop_front();
                    }
                    message
                })
                .await
        }
    }

    /// Waits until the session has ended its direction. Earlier output is not received.
    #[track_caller]
    pub fn ended(&self) -> impl Future<Output = ()> + '_ {
        let caller = Location::caller();
        let end = async {
            loop {
                let changed = self.0.changed.notified();
                if self.0.lock().is_over() {
                    return;
                }
                changed.await;
            }
        };
        crate::wire::within("end of the session", caller, end)
    }

    /// Returns the session's whole output as text. It may not be flushed yet.
    ///
    /// # Panics
    ///
    /// Panics if it is not UTF-8.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8(self.output_bytes()).expect("the output is text")
    }

    /// Returns the session's whole output. It may not be flushed yet.
    #[must_use]
    pub fn output_bytes(&self) -> Vec<u8> {
        self.0.lock().output.clone()
    }

    /// Returns how many bytes the session has written, without those that are
    /// [forgotten](Self::forget_output).
    #[must_use]
    pub fn written(&self) -> usize {
        self.0.lock().output.len()
    }

    /// Returns how many messages were flushed and not received.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().messages.len()
    }

    /// Returns how many pings the session has sent on a message transport.
    #[must_use]
    pub fn pings(&self) -> usize {
        self.0.lock().pings
    }

    /// Returns `true` once the session has ended its direction of the transport.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.0.lock().shut
    }

    /// Returns `true` once the session has dropped the transport.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.lock().gone
    }

    /// Returns the reason with which the session has closed a message transport.
    #[must_use]
    pub fn closed_with(&self) -> Option<CloseReason> {
        self.0.lock().closed_with.clone()
    }

    /// Returns the number of polls of the session's end.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.lock().counts
    }
}

fn next(state: &mut crate::wire::State) -> Option<Bytes> {
    if state.framing != Framing::Stream {
        return state.messages.pop_front();
    }
    let unseen = Bytes::copy_from_slice(&state.output[state.seen..state.flushed]);
    state.seen = state.flushed;
    (!unseen.is_empty()).then_some(unseen)
}
