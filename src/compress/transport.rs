//! Transport that compresses a byte stream.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, BytesMut};
use getty_core::CloseReason;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::coop,
};
use tokio_util::io::poll_read_buf;
use tower::BoxError;

use super::{
    input::{Inflated, Input},
    output::Output,
    settings::{Format, Settings},
    stats::CompressionStats,
    zlib::{BYTES_PER_UNIT, inflate_work},
};
use crate::{
    buffer_pool,
    transport::{CloseCause, Framing, Received, Transport},
};

/// Maximum compressed bytes that are consumed in one call without output.
const MAX_SILENT: usize = 64 * 1024;

/// Transport that [`CompressionLayer`](super::CompressionLayer) and
/// [`CompressionConnectLayer`](super::CompressionConnectLayer) create.
///
/// It is a byte stream for a session and no `AsyncRead`: TLS or WebSocket over it does not
/// compile, because both belong below the compression.
pub struct Compressed<T> {
    io: T,
    settings: Arc<Settings>,
    stats: CompressionStats,
    output: Output,
    /// `None` until the first byte arrives.
    input: Option<Box<Input>>,
    state: InputState,
    /// Plain bytes since the last unit of the cooperative budget.
    work: usize,
}

enum InputState {
    Open,
    /// The input is invalid, which was not reported yet.
    Failed(Box<BoxError>),
    /// The same, and it was reported.
    Reported(Box<BoxError>),
    /// Input is not inflated any more.
    Discarded,
}

impl<T> Compressed<T> {
    pub(super) fn new(io: T, settings: Arc<Settings>, stats: CompressionStats) -> Self {
        Self {
            io,
            settings,
            stats,
            output: Output::new(BytesMut::new()),
            input: None,
            state: InputState::Open,
            work: 0,
        }
    }

    /// Returns a reference to the underlying stream.
    #[must_use]
    pub const fn get_ref(&self) -> &T {
        &self.io
    }

    /// Returns the counters of compressed bytes.
    #[must_use]
    pub const fn stats(&self) -> &CompressionStats {
        &self.stats
    }

    /// Takes the units of the cooperative budget that are due. The compression takes them here,
    /// because the session loop counts messages and knows nothing of their cost.
    fn poll_budget(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.work >= BYTES_PER_UNIT {
            ready!(coop::poll_proceed(cx)).made_progress();
            self.work -= BYTES_PER_UNIT;
        }
        Poll::Ready(())
    }

    /// Records invalid input. Bytes that were inflated before are received first.
    #[cold]
    fn fail(&mut self, error: BoxError, appended: usize) -> Received {
        self.input = None;
        if appended > 0 {
            self.state = InputState::Failed(Box::new(error));
            return Received::Data(appended);
        }
        self.state = InputState::Reported(Box::new(error));
        Received::Invalid
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Compressed<T> {
    /// Writes compressed bytes until `done`.
    fn poll_write_until(
        &mut self,
        cx: &mut Context<'_>,
        done: impl Fn(&Output) -> bool,
    ) -> Poll<io::Result<()>> {
        while !done(&self.output) {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output.buf))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.stats.record_out(written);
            self.output.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all compressed bytes and flushes them. The buffer returns to the pool.
    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_until(cx, |output| output.buf.is_empty()))?;
        if self.output.buf.capacity() > 0 {
            buffer_pool::put_back(&mut self.output.buf);
        }
        AsyncWrite::poll_flush(Pin::new(&mut self.io), cx)
    }

    /// Ends the compressed stream and then our direction.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.end(&self.settings);
        ready!(self.poll_write_all(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Waits for room before messages are compressed.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_budget(cx));
        self.poll_write_until(cx, |output| !output.is_full())
    }

    /// Inflates what has arrived, and reads more if that is not enough for a byte.
    fn poll_inflate(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        let (start, mut silent) = (buf.len(), 0);
        loop {
            while let Some(input) = &mut self.input {
                let appended = buf.len() - start;
                let is_enough = appended == limit || self.work >= BYTES_PER_UNIT;
                if is_enough && appended > 0 {
                    return Poll::Ready(Ok(Received::Data(appended)));
                }
                if silent >= MAX_SILENT || (is_enough && silent > 0) {
                    return Poll::Ready(Ok(Received::Control(0)));
                }
                match input.step(&self.settings, buf, limit - appended) {
                    Ok(Inflated::Progress(consumed, produced)) => {
                        self.work += match self.settings.format {
                            Format::Snappy => consumed.max(produced),
                            _ => inflate_work(consumed, produced),
                        };
                        silent += consumed;
                    }
                    Ok(Inflated::Nothing) => break,
                    Err(error) => return Poll::Ready(Ok(self.fail(error, appended))),
                }
            }
            let appended = buf.len() - start;
            if appended > 0 {
                return Poll::Ready(Ok(Received::Data(appended)));
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    let format = self.settings.format;
                    if self
                        .input
                        .as_ref()
                        .is_none_or(|input| input.may_end(format))
                    {
                        return Poll::Ready(Ok(Received::End));
                    }
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if let Some(input) = &mut self.input {
                        input.shrink();
                    }
                    if silent > 0 {
                        // The peer is alive, although its bytes make no message.
                        return Poll::Ready(Ok(Received::Control(0)));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Reads compressed bytes. Returns how many.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(&mut self.io);
        let read = match &mut self.input {
            Some(input) => {
                let room = input.make_room();
                ready!(poll_read_buf(io, cx, &mut (&mut input.buf).limit(room)))?
            }
            None => {
                // The decompressor is created with the first byte.
                let mut first = buffer_pool::take();
                let room = first.capacity().min(buffer_pool::BUFFER);
                let read = match poll_read_buf(io, cx, &mut (&mut first).limit(room)) {
                    Poll::Ready(Ok(read)) if read > 0 => read,
                    other => {
                        buffer_pool::put(first);
                        return other;
                    }
                };
                let mut input = Box::new(Input::new(self.settings.format)?);
                input.buf = first;
                self.input = Some(input);
                read
            }
        };
        self.stats.record_in(read);
        Poll::Ready(Ok(read))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for Compressed<T> {
    fn framing(&self) -> Framing {
        Framing::Stream
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<Received>> {
        match std::mem::replace(&mut self.state, InputState::Discarded) {
            InputState::Open => {
                self.state = InputState::Open;
                ready!(self.poll_budget(cx));
                self.poll_inflate(cx, buf, limit)
            }
            InputState::Failed(error) => {
                self.state = InputState::Reported(error);
                Poll::Ready(Ok(Received::Invalid))
            }
            discarded @ (InputState::Reported(_) | InputState::Discarded) => {
                self.state = discarded;
                Transport::poll_recv(&mut self.io, cx, buf, limit)
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        let taken = self.output.write(&self.settings, bufs)?;
        self.work += taken;
        Poll::Ready(Ok(taken))
    }

    fn bytes_flushed(&self) -> u64 {
        self.stats.wire_bytes_out()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Each write was flushed by the compressor.
        self.poll_write_all(cx)
    }

    fn is_incomplete(&self) -> bool {
        self.input
            .as_ref()
            .is_some_and(|input| input.is_incomplete())
    }

    fn take_close_reason(&mut self) -> Option<CloseCause> {
        match std::mem::replace(&mut self.state, InputState::Discarded) {
            InputState::Failed(source) | InputState::Reported(source) => Some(CloseCause {
                reason: CloseReason::Decode,
                source: *source,
            }),
            state => {
                self.state = state;
                None
            }
        }
    }

    fn can_finish(&self) -> bool {
        true
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &CloseReason) -> Poll<io::Result<()>> {
        self.state = InputState::Discarded;
        self.input = None;
        self.poll_end(cx)
    }
}

impl<T> Drop for Compressed<T> {
    fn drop(&mut self) {
        self.output.release(&self.settings);
        if self.output.buf.capacity() > 0 {
            buffer_pool::put_back(&mut self.output.buf);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Compressed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressed")
            .field("io", &self.io)
            .field("format", &self.settings.format)
            .finish_non_exhaustive()
    }
}
