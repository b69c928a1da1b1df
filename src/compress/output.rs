//! Outgoing direction: compresses messages and keeps what the transport has not taken.

use std::io::{self, IoSlice};

use bytes::{Buf, BytesMut};

use super::{
    contexts::{Claim, Context, PooledContext, Taken},
    settings::{Format, Settings},
    snappy,
    zlib::{self, Configuration, Deflater},
};
use crate::buffer_pool;

/// Compressed bytes that may wait. Above it no messages are taken.
pub(super) const MAX_OUTPUT: usize = 64 * 1024;
/// Maximum plain bytes that are compressed in one call.
const MAX_TAKEN: usize = 64 * 1024;
/// Maximum plain bytes that are compressed between two checks of the output.
const STEP: usize = 16 * 1024;

/// State of the outgoing direction. At rest it has no buffer.
pub(super) struct Output {
    /// Compressed bytes that the transport has not taken.
    pub(super) buf: BytesMut,
    claim: Option<Claim>,
    /// Checksum of a zlib stream.
    checksum: u32,
    /// The stream has its header. For zstd: it has a frame, which is not ended.
    begun: bool,
    /// The stream is ended, and nothing more can be written.
    ended: bool,
}

impl Output {
    pub(super) const fn new(buf: BytesMut) -> Self {
        Self {
            buf,
            claim: None,
            checksum: zlib::ADLER_START,
            begun: false,
            ended: false,
        }
    }

    /// Returns `true` if no more bytes may be added until the transport takes some.
    pub(super) fn is_full(&self) -> bool {
        self.buf.len() >= MAX_OUTPUT
    }

    /// Removes bytes that the transport has taken.
    pub(super) fn advance(&mut self, taken: usize) {
        if taken == self.buf.len() {
            self.buf.clear(); // unlike `advance`, this makes the whole block available again
        } else {
            self.buf.advance(taken);
        }
    }

    /// Compresses a part of `bufs` and returns its length. The peer can inflate the whole part from
    /// the buffer, so that the session holds no context between two writes.
    pub(super) fn write(&mut self, settings: &Settings, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.buf.capacity() == 0 {
            buffer_pool::take_into(&mut self.buf);
        }
        if settings.format == Format::Snappy {
            return Ok(self.write_chunk(bufs));
        }
        let mut pooled = self.take_context(settings)?;
        let written = self.compress(&mut pooled.context, settings.format, bufs);
        self.claim = settings.contexts.put(pooled);
        written
    }

    /// Writes a chunk of snappy, which has no context.
    fn write_chunk(&mut self, bufs: &[IoSlice<'_>]) -> usize {
        if !self.begun {
            self.begun = true;
            self.buf.extend_from_slice(&snappy::STREAM_IDENTIFIER);
        }
        if let [buf] = bufs {
            let plain = &buf[..buf.len().min(snappy::MAX_PLAIN)];
            snappy::write_chunk(plain, &mut self.buf);
            return plain.len();
        }
        let mut plain = buffer_pool::take();
        for buf in bufs {
            let room = snappy::MAX_PLAIN - plain.len();
            plain.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        let taken = plain.len();
        snappy::write_chunk(&plain, &mut self.buf);
        buffer_pool::put(plain);
        taken
    }

    fn compress(
        &mut self,
        context: &mut Context,
        format: Format,
        bufs: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut taken = 0;
        for piece in bufs.iter().flat_map(|buf| buf.chunks(STEP)) {
            if taken >= MAX_TAKEN || self.is_full() {
                break;
            }
            taken += piece.len();
            if matches!(format, Format::Zlib(_)) {
                self.checksum = zlib::checksum(self.checksum, piece);
            }
            match context {
                // One call for a write that is not in pieces.
                Context::Deflate(deflater) if matches!(bufs, [buf] if buf.len() <= STEP) => {
                    deflater.write_and_flush(piece, &mut self.buf);
                    return Ok(taken);
                }
                Context::Deflate(deflater) => deflater.write(piece, &mut self.buf),
                #[cfg(feature = "zstd")]
                Context::Zstd(compressor) => compressor.write(piece, &mut self.buf)?,
            }
        }
        match context {
            Context::Deflate(deflater) => deflater.write_and_flush(&[], &mut self.buf),
            #[cfg(feature = "zstd")]
            Context::Zstd(compressor) => compressor.flush(&mut self.buf)?,
        }
        Ok(taken)
    }

    /// Takes this session's context, or another one with an empty window.
    fn take_context(&mut self, settings: &Settings) -> io::Result<PooledContext> {
        Ok(match settings.contexts.take(self.claim.take()) {
            Taken::Own(pooled) => pooled,
            Taken::Other(mut pooled) => {
                reset(&mut pooled.context, settings.format)?;
                self.begin(settings.format);
                pooled
            }
            Taken::None(slot) => {
                let pooled = slot.fill(create(settings.format)?);
                self.begin(settings.format);
                pooled
            }
        })
    }

    /// Begins the stream, or continues it with an empty window.
    fn begin(&mut self, format: Format) {
        match format {
            Format::Zlib(level) if !self.begun => {
                self.buf.extend_from_slice(&zlib::zlib_header(level));
            }
            // A frame's window cannot be emptied, so a new frame begins.
            #[cfg(feature = "zstd")]
            Format::Zstd(_) if self.begun => {
                self.buf.extend_from_slice(&super::zstd::LAST_BLOCK);
            }
            _ => {}
        }
        self.begun = true;
    }

    /// Ends the stream. Does nothing the second time.
    pub(super) fn end(&mut self, settings: &Settings) {
        if !self.ended && self.begun {
            match settings.format {
                Format::Zlib(_) => {
                    self.buf.extend_from_slice(&zlib::FINAL_BLOCK);
                    self.buf.extend_from_slice(&self.checksum.to_be_bytes());
                }
                #[cfg(feature = "zstd")]
                Format::Zstd(_) => self.buf.extend_from_slice(&super::zstd::LAST_BLOCK),
                Format::Deflate(_) | Format::Snappy => {}
            }
        }
        self.ended = true;
        self.release(settings);
    }

    /// Gives up the context, because nothing more is written.
    pub(super) fn release(&mut self, settings: &Settings) {
        if let Some(claim) = self.claim.take() {
            settings.contexts.release(claim);
        }
    }
}

fn create(format: Format) -> io::Result<Context> {
    Ok(match format {
        #[cfg(feature = "zstd")]
        Format::Zstd(level) => Context::Zstd(super::zstd::Compressor::new(level)?),
        Format::Deflate(level) | Format::Zlib(level) => {
            Context::Deflate(Deflater::new(Configuration::for_stream(level)))
        }
        Format::Snappy => {
            Context::Deflate(Deflater::new(Configuration::for_stream(super::Level::NONE)))
        }
    })
}

/// Empties the window of a context. A pool may be shared by layers of different settings.
fn reset(context: &mut Context, format: Format) -> io::Result<()> {
    match (&mut *context, format) {
        (Context::Deflate(deflater), Format::Deflate(level) | Format::Zlib(level))
            if deflater.configuration() == Configuration::for_stream(level) =>
        {
            deflater.reset();
        }
        #[cfg(feature = "zstd")]
        (Context::Zstd(compressor), Format::Zstd(level)) if compressor.level() == level => {
            compressor.reset()?;
        }
        _ => *context = create(format)?,
    }
    Ok(())
}
