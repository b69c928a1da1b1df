//! A transport with a codec and a session: what layers between `CodecLayer` and `SessionLayer` see.

use std::{fmt, mem::needs_drop};

use super::{Session, driver::Driver, shared::CodecId};
use crate::connection::contain;

/// What `CodecLayer` makes of a transport `T`: the transport, the codec `C`, and a session that sends `Out`.
///
/// Layers between `CodecLayer` and `SessionLayer` reach the session through [`HasSession`], see or take decoded
/// messages with [`map_decoder`](Self::map_decoder), and pass it on.
pub struct Framed<T, C, Out> {
    // in this order: the transport goes before the senders learn it
    transport: T,
    codec: C,
    driver: Driver<Out>,
    max_frame: usize,
    codec_id: Option<CodecId>,
}

/// What [`Framed::into_parts`] gives and [`Framed::from_parts`] takes.
#[derive(Debug)]
#[non_exhaustive]
pub struct FramedParts<T, C, Out> {
    /// The transport.
    pub transport: T,
    /// The codec.
    pub codec: C,
    /// The session's driver half.
    pub driver: Driver<Out>,
    /// How many undecoded bytes are kept at most, unless the codec itself reserves more for a frame.
    pub max_frame: usize,
    /// Which sessions encode alike: see [`Framed::codec_id`]. `None` is right for a codec that encodes in another way than
    /// the one that was here.
    pub codec_id: Option<CodecId>,
}

impl<T, C, Out> Framed<T, C, Out> {
    /// Puts a transport, a codec and a session's driver half together.
    pub const fn new(transport: T, codec: C, driver: Driver<Out>, max_frame: usize) -> Self {
        Self {
            transport,
            codec,
            driver,
            max_frame,
            codec_id: None,
        }
    }

    /// Says that all sessions with the same `id` make the same bytes of the same message, so that one may send what
    /// another has encoded. Without it, each session encodes for itself.
    #[must_use]
    pub const fn with_codec_id(mut self, id: CodecId) -> Self {
        self.codec_id = Some(id);
        self
    }

    /// Puts the parts together again.
    pub fn from_parts(parts: FramedParts<T, C, Out>) -> Self {
        let FramedParts {
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

    /// Takes it apart.
    pub fn into_parts(self) -> FramedParts<T, C, Out> {
        let Self {
            transport,
            codec,
            driver,
            max_frame,
            codec_id,
        } = self;
        FramedParts {
            transport,
            codec,
            driver,
            max_frame,
            codec_id,
        }
    }

    /// The same with another codec made of this one, which may encode in another way: so each session encodes for
    /// itself from here on. An adapter that only decodes differently goes through [`map_decoder`](Self::map_decoder).
    pub fn map_codec<D>(self, f: impl FnOnce(C) -> D) -> Framed<T, D, Out> {
        Framed {
            codec_id: None,
            ..self.map_decoder(f)
        }
    }

    /// The same with another codec made of this one that encodes in the same way: how an adapter sees or takes decoded
    /// messages before readiness. Whatever it encodes must be to the byte what the codec inside makes of it, for other
    /// sessions may send it too.
    pub fn map_decoder<D>(self, f: impl FnOnce(C) -> D) -> Framed<T, D, Out> {
        let Self {
            transport,
            codec,
            driver,
            max_frame,
            codec_id,
        } = self;
        Framed {
            transport,
            codec: f(codec),
            driver,
            max_frame,
            codec_id,
        }
    }

    /// Drops the transport, the codec and the driver half, in this order. A destructor that panics
    /// is logged, and the others still run.
    #[inline(always)]
    pub fn discard(self) {
        let Self {
            transport,
            codec,
            driver,
            ..
        } = self;
        // before the driver half, whose drop reports the end to the senders
        contain("dropping a transport", || drop(transport));
        if const { needs_drop::<C>() } {
            contain("dropping a codec", || drop(codec));
        }
        drop(driver);
    }

    /// Which sessions encode alike. `None` when that is not known of this one, which then encodes for itself.
    #[inline]
    pub const fn codec_id(&self) -> Option<CodecId> {
        self.codec_id
    }

    /// The transport.
    #[inline]
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// The codec.
    pub const fn codec(&self) -> &C {
        &self.codec
    }

    /// How many undecoded bytes are kept at most, unless the codec itself reserves more for a frame.
    pub const fn max_frame(&self) -> usize {
        self.max_frame
    }

    /// All three at once, for the session loop.
    #[inline]
    pub const fn split_mut(&mut self) -> (&mut T, &mut C, &mut Driver<Out>) {
        (&mut self.transport, &mut self.codec, &mut self.driver)
    }
}

impl<T: fmt::Debug, C: fmt::Debug, Out> fmt::Debug for Framed<T, C, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framed")
            .field("transport", &self.transport)
            .field("codec", &self.codec)
            .field("session", self.driver.session())
            .finish_non_exhaustive()
    }
}

/// A transport that has a typed session: [`Framed`], and whatever wraps it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no session yet",
    label = "this layer needs a session: put a `CodecLayer` outside (before) it"
)]
pub trait HasSession {
    /// What the session sends.
    type Out;

    /// The session.
    fn session(&self) -> &Session<Self::Out>;
}

impl<T, C, Out> HasSession for Framed<T, C, Out> {
    type Out = Out;

    #[inline]
    fn session(&self) -> &Session<Out> {
        self.driver.session()
    }
}
