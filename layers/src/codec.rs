//! Gives a connection its codec and its session.
//!
//! - *ready*: the inner service's.
//! - *call*: clones the codec, makes the [`Session`](getty_core::Session), wraps the transport in [`Framed`]; no I/O.
//! - *drop, close*: nothing of its own.
//!
//! Scope: session; each connection has its own clone of the codec. In a stack it stands inside whatever changes the
//! transport (TLS, WebSocket), outside whatever needs the session, and outside `SessionLayer`.
//!
//! ```
//! use getty_core::{Connection, Framed, HasSession};
//! use getty_layers::CodecLayer;
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .service_fn(|connection: Connection<Framed<&'static str, LinesCodec, String>>| async move {
//!         Ok::<_, BoxError>(connection.transport().session().id())
//!     });
//! assert!(stack.oneshot(Connection::new("any transport")).await? > 0);
//! # Ok(())
//! # }
//! ```

use std::{
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
};

use tokio_util::codec::Decoder;
use tower_layer::Layer;
use tower_service::Service;

use getty_core::{
    Connection, Framed,
    driver::{self, CodecId},
    internal::Contained,
};

/// How many undecoded bytes a session keeps at most, unless [`CodecLayer::with_max_frame`] says otherwise or the codec
/// itself reserves more for a frame.
pub const DEFAULT_MAX_FRAME: usize = 64 * 1024;

/// Gives a connection its codec and its session; see the [module](self).
///
/// `Out` is the type of the messages that the session sends. It follows from the handler and is seldom written.
pub struct CodecLayer<C, Out> {
    codec: Contained<C>,
    max_frame: usize,
    id: Option<CodecId>,
    weigh: Option<fn(&Out) -> usize>,
    out: PhantomData<fn(Out)>,
}

impl<C, Out> CodecLayer<C, Out> {
    /// Each connection gets a clone of `codec`, which must also encode what the handler answers with.
    pub fn new(codec: C) -> Self
    where
        C: Decoder + Clone,
    {
        Self {
            codec: Contained::new(codec),
            max_frame: DEFAULT_MAX_FRAME,
            id: Some(CodecId::unique()),
            weigh: None,
            out: PhantomData,
        }
    }

    /// How many undecoded bytes a session keeps at most. 64 KiB by default, at least 1. Scope: session.
    ///
    /// It bounds memory where a decoder does not: when so many bytes lie in the read buffer and the decoder yields
    /// nothing, the session closes with `CloseReason::Decode`. A decoder that knows the length of the frame at hand and
    /// reserves room for it in the buffer it is given, as tokio-util's length-delimited codec and all of ours do, may
    /// have what it reserved; so this is to be raised only for other decoders with large frames.
    ///
    /// As much is read ahead while messages wait for their handlers. Where this is 64 KiB or more, and a peer sends without a
    /// pause and nothing of it has to wait, up to 260 KiB are read at once.
    pub const fn with_max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = if bytes == 0 { 1 } else { bytes };
        self
    }

    /// How many bytes a message holds beyond its own size, such as the capacity of a `String`, for
    /// sessions that have a [`MemoryBudget`](getty_core::MemoryBudget), and for the
    /// [room](crate::group#room) of groups. The default is none. It must return the same for the
    /// same message each time, and must not use the session.
    pub const fn with_weight(mut self, weigh: fn(&Out) -> usize) -> Self {
        self.weigh = Some(weigh);
        self
    }

    /// Whether a message for many sessions of this layer and of its clones is encoded by one of them for all. `true` by
    /// default. To be `false` for a codec whose bytes depend on what its session sent before: one that numbers messages,
    /// or compresses them with a window that goes on. Scope: session.
    pub fn with_shared_encodings(mut self, shared: bool) -> Self {
        self.id = match (shared, self.id) {
            (true, None) => Some(CodecId::unique()),
            (true, id) => id,
            (false, _) => None,
        };
        self
    }
}

impl<C: Clone, Out> Clone for CodecLayer<C, Out> {
    fn clone(&self) -> Self {
        Self {
            codec: self.codec.clone(),
            ..*self
        }
    }
}

impl<C: fmt::Debug, Out> fmt::Debug for CodecLayer<C, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodecLayer")
            .field("codec", &self.codec)
            .field("max_frame", &self.max_frame)
            .field("shared_encodings", &self.id.is_some())
            .finish_non_exhaustive()
    }
}

impl<S, C: Clone, Out> Layer<S> for CodecLayer<C, Out> {
    type Service = Codec<S, C, Out>;

    fn layer(&self, inner: S) -> Self::Service {
        Codec {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`CodecLayer`] makes.
pub struct Codec<S, C, Out> {
    inner: S,
    layer: CodecLayer<C, Out>,
}

impl<S, C, Out> Codec<S, C, Out> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, C: Clone, Out> Clone for Codec<S, C, Out> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, C: fmt::Debug, Out> fmt::Debug for Codec<S, C, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, C: Clone, Out, T> Service<Connection<T>> for Codec<S, C, Out>
where
    S: Service<Connection<Framed<T, C, Out>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        let CodecLayer {
            codec,
            max_frame,
            id,
            weigh,
            ..
        } = &self.layer;
        let (_, mut driver) = driver::pair(connection.handle().clone());
        weigh.iter().for_each(|weigh| driver.set_weight(*weigh));
        // outside of the closure, which has the transport
        let codec = C::clone(codec);
        self.inner.call(connection.map_transport(|transport| {
            let framed = Framed::new(transport, codec, driver, *max_frame);
            match id {
                Some(id) => framed.with_codec_id(*id),
                None => framed,
            }
        }))
    }
}
