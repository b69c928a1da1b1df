//! A transport with a codec and a session: the connection's transport between `CodecLayer` and
//! `SessionLayer`.

use std::{fmt, mem::needs_drop};

use bytes::BytesMut;
use tokio_util::codec::Decoder;

use super::{Session, driver::Driver, payload::CodecId};
use crate::{hooks::HandleExt, panic::catch_and_log};

/// Minimum bound on undecoded bytes after a change of the maximum frame, unless it was lower.
const MIN_BOUND: usize = 64 * 1024;

/// Room for a frame's header or line end in the bound on undecoded bytes.
const HEADER_ROOM: usize = 1024;

/// A transport `T` with a codec `C` and a session that sends `Out`. `CodecLayer` creates it.
///
/// Layers between `CodecLayer` and `SessionLayer` access the session through [`HasSession`].
/// They can observe or consume decoded messages with [`map_decoder`](Self::map_decoder).
pub struct SessionIo<T, C, Out> {
    // in this order: the transport is dropped before the senders are notified (design.md: Why are
    // fields declared in a particular order?)
    transport: T,
    codec: C,
    driver: Driver<Out>,
    max_frame: usize,
    codec_id: Option<CodecId>,
}

/// Parts of a [`SessionIo`]. Returned by [`SessionIo::into_parts`] and accepted by
/// [`SessionIo::from_parts`].
#[derive(Debug)]
#[non_exhaustive]
pub struct SessionIoParts<T, C, Out> {
    /// The transport.
    pub transport: T,
    /// The codec.
    pub codec: C,
    /// The driver half of the session.
    pub driver: Driver<Out>,
    /// Maximum number of undecoded bytes unless the codec reserves more for a frame.
    pub max_frame: usize,
    /// Identifies sessions that encode alike: see [`SessionIo::codec_id`]. Must be `None` after
    /// the codec was replaced by one that encodes differently.
    pub codec_id: Option<CodecId>,
}

impl<T, C, Out> SessionIo<T, C, Out> {
    /// Creates a new `SessionIo` from a transport, a codec and the driver half of a session.
    pub const fn new(transport: T, codec: C, driver: Driver<Out>, max_frame: usize) -> Self {
        Self {
            transport,
            codec,
            driver,
            max_frame,
            codec_id: None,
        }
    }

    /// Sets the codec id. The default is none.
    ///
    /// All sessions with the same id must encode a message to the same bytes: one may send the
    /// bytes that another has encoded. Without an id, the session encodes each message itself.
    #[must_use]
    pub const fn with_codec_id(mut self, id: CodecId) -> Self {
        self.codec_id = Some(id);
        self
    }

    /// Creates a `SessionIo` from its parts.
    pub fn from_parts(parts: SessionIoParts<T, C, Out>) -> Self {
        let SessionIoParts {
            transport,
            codec,
            driver,
            max_frame,
            codec_id,
        } = parts;
        Self {
            transport,
            codec,
            driver,
            max_frame,
            codec_id,
        }
    }

    /// Splits this value into its parts.
    pub fn into_parts(self) -> SessionIoParts<T, C, Out> {
        let Self {
            transport,
            codec,
            driver,
            max_frame,
            codec_id,
        } = self;
        SessionIoParts {
            transport,
            codec,
            driver,
            max_frame,
            codec_id,
        }
    }

    /// Replaces the codec by the result of `f`, which may encode differently.
    ///
    /// The codec id is removed: the session encodes each message itself. An adapter that only
    /// decodes differently should use [`map_decoder`](Self::map_decoder).
    pub fn map_codec<D>(self, f: impl FnOnce(C) -> D) -> SessionIo<T, D, Out> {
        SessionIo {
            codec_id: None,
            ..self.map_decoder(f)
        }
    }

    /// Replaces the codec by the result of `f`, which must encode in the same way.
    ///
    /// An adapter uses it to observe or consume decoded messages before readiness is polled. It
    /// must encode each message to exactly the bytes of the inner codec because other sessions may
    /// send them.
    pub fn map_decoder<D>(self, f: impl FnOnce(C) -> D) -> SessionIo<T, D, Out> {
        let Self {
            transport,
            codec,
            driver,
            max_frame,
            codec_id,
        } = self;
        SessionIo {
            transport,
            codec: f(codec),
            driver,
            max_frame,
            codec_id,
        }
    }

    /// Drops the transport, the codec and the driver half, in this order. A destructor that panics
    /// is logged and the others still run.
    #[inline(always)]
    pub fn discard(self) {
        let Self {
            transport,
            codec,
            driver,
            ..
        } = self;
        // before the driver half, whose destructor notifies the senders of the end
        catch_and_log("dropping a transport", || drop(transport));
        if const { needs_drop::<C>() } {
            catch_and_log("dropping a codec", || drop(codec));
        }
        drop(driver);
    }

    /// Returns the codec id, or `None` if the session encodes each message itself.
    ///
    /// Sessions with the same id encode alike.
    #[inline]
    pub const fn codec_id(&self) -> Option<CodecId> {
        self.codec_id
    }

    /// Returns a reference to the transport.
    #[inline]
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// Returns a reference to the codec.
    pub const fn codec(&self) -> &C {
        &self.codec
    }

    /// Returns the maximum number of undecoded bytes unless the codec reserves more for a frame.
    pub const fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// Returns mutable references to the transport, the codec and the driver, for the session
    /// loop.
    #[inline]
    pub const fn split_mut(&mut self) -> (&mut T, &mut C, &mut Driver<Out>) {
        (&mut self.transport, &mut self.codec, &mut self.driver)
    }
}

impl<T, C: Decoder, Out> SessionIo<T, C, Out> {
    /// Passes the maximum frame that was [set](crate::ConnectionHandle::set_max_frame) to the
    /// codec. The bound on undecoded bytes follows.
    ///
    /// The codec of `CodecLayer::with_frame_limit` takes the maximum when it is called for the end
    /// of an empty input, which no stream has before its end. So adapters around it pass the call
    /// on, and no message costs a check (design.md: How does a setting change while a session is
    /// open?).
    #[cold]
    #[doc(hidden)]
    pub fn apply_max_frame(&mut self) {
        let Some(bytes) = self.driver.handle().begin_max_frame() else {
            return;
        };
        _ = self.codec.decode_eof(&mut BytesMut::new());
        if self.driver.handle().take_max_frame().is_some() {
            let connection = self.driver.handle();
            tracing::warn!(
                %connection,
                "a codec adapter does not pass on `decode_eof`, so the maximum frame is not set",
            );
            return;
        }
        let frame = bytes.saturating_add(HEADER_ROOM);
        self.max_frame = frame.max(self.max_frame.min(MIN_BOUND));
    }
}

impl<T: fmt::Debug, C: fmt::Debug, Out> fmt::Debug for SessionIo<T, C, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionIo")
            .field("transport", &self.transport)
            .field("codec", &self.codec)
            .field("session", self.driver.session())
            .finish_non_exhaustive()
    }
}

/// A transport with a typed session: [`SessionIo`], and transports that wrap it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no session yet",
    label = "this layer needs a session: put a `CodecLayer` outside (before) it"
)]
pub trait HasSession {
    /// Type of the messages that the session sends.
    type Out;

    /// Returns the session.
    fn session(&self) -> &Session<Self::Out>;
}

impl<T, C, Out> HasSession for SessionIo<T, C, Out> {
    type Out = Out;

    #[inline]
    fn session(&self) -> &Session<Out> {
        self.driver.session()
    }
}
