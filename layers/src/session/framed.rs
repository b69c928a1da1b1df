//! A transport with a codec and a session: what layers between `CodecLayer` and `SessionLayer` see.

use std::fmt;

use super::{Session, driver::Driver};

/// What `CodecLayer` makes of a transport `T`: the transport, the codec `C`, and a session that sends `Out`.
///
/// Layers between `CodecLayer` and `SessionLayer` reach the session through [`HasSession`], see or take decoded
/// messages with [`map_codec`](Self::map_codec), and pass it on.
pub struct Framed<T, C, Out> {
    // in this order: the transport goes before the senders learn it
    transport: T,
    codec: C,
    driver: Driver<Out>,
    max_frame: usize,
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
}

impl<T, C, Out> Framed<T, C, Out> {
    /// Puts a transport, a codec and a session's driver half together.
    pub const fn new(transport: T, codec: C, driver: Driver<Out>, max_frame: usize) -> Self {
        Self {
            transport,
            codec,
            driver,
            max_frame,
        }
    }

    /// Puts the parts together again.
    pub fn from_parts(parts: FramedParts<T, C, Out>) -> Self {
        let FramedParts {
            transport,
            codec,
            driver,
            max_frame,
        } = parts;
        Self {
            transport,
            codec,
            driver,
            max_frame,
        }
    }

    /// Takes it apart.
    pub fn into_parts(self) -> FramedParts<T, C, Out> {
        let Self {
            transport,
            codec,
            driver,
            max_frame,
        } = self;
        FramedParts {
            transport,
            codec,
            driver,
            max_frame,
        }
    }

    /// The same with another codec made of this one: how an adapter sees or takes decoded messages before readiness.
    pub fn map_codec<D>(self, f: impl FnOnce(C) -> D) -> Framed<T, D, Out> {
        let Self {
            transport,
            codec,
            driver,
            max_frame,
        } = self;
        Framed {
            transport,
            codec: f(codec),
            driver,
            max_frame,
        }
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
