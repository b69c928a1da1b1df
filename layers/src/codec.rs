//! Creates the codec and the session of each connection.
//!
//! - *ready*: as the inner service.
//! - *call*: clones the codec, creates the [`Session`](getty_core::Session), and wraps the
//!   transport in [`SessionIo`]. It does no I/O.
//! - *drop, close*: nothing.
//!
//! Scope: session; each connection has a separate clone of the codec. Place it inside layers
//! that replace the transport (TLS, WebSocket) and outside layers that need the session and
//! `SessionLayer`.
//!
//! ```
//! use getty_core::{Connection, SessionIo, HasSession};
//! use getty_layers::CodecLayer;
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .service_fn(|connection: Connection<SessionIo<&'static str, LinesCodec, String>>| async move {
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

use getty_core::{
    Connection, SessionIo,
    driver::{self, CodecId},
    hooks::Contained,
};
use tokio_util::codec::Decoder;
use tower_layer::Layer;
use tower_service::Service;

/// Default maximum of undecoded bytes of a session: 64 KiB; see [`CodecLayer::with_max_frame`].
pub const DEFAULT_MAX_FRAME: usize = 64 * 1024;

/// Creates the codec and the session of each connection; see the [module](self).
///
/// `Out` is the type of sent messages. It is inferred from the handler.
pub struct CodecLayer<C, Out> {
    codec: Contained<C>,
    max_frame: usize,
    id: Option<CodecId>,
    weigh: Option<fn(&Out) -> usize>,
    out: PhantomData<fn(Out)>,
}

impl<C, Out> CodecLayer<C, Out> {
    /// Creates a new layer that clones `codec` for each connection. The codec must also encode the
    /// replies of the handler.
    pub fn new(codec: C) -> Self
    where
        C: Decoder + Clone,
    {
        Self {
            codec: Contained::new(codec),
            max_frame: DEFAULT_MAX_FRAME,
            // Sessions whose codec has the same id share encoded broadcasts (design.md: Why is a
            // broadcast not encoded where it is sent?).
            id: Some(CodecId::unique()),
            weigh: None,
            out: PhantomData,
        }
    }

    /// Sets the maximum of undecoded bytes of a session, at least 1. The default is 64 KiB.
    ///
    /// It limits memory where a decoder does not. If the read buffer contains this many bytes and
    /// the decoder returns no message, the session closes with `CloseReason::Decode`. A decoder
    /// that knows the length of the current frame may reserve room for it in its buffer, and the
    /// reserved room is allowed. tokio-util's length-delimited codec and all codecs of getty do
    /// this, so only other decoders with large frames need a higher maximum.
    ///
    /// The session loop reads ahead up to this maximum while messages wait for their handlers. If
    /// the maximum is at least 64 KiB and a peer sends without a pause, a single read may be up to
    /// 260 KiB, as long as no message has to wait.
    pub const fn with_max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = if bytes == 0 { 1 } else { bytes };
        self
    }

    /// Sets a function that returns the bytes that a message holds beyond its own size such as the
    /// capacity of a `String`. The default is none.
    ///
    /// Sessions with a [`MemoryBudget`](getty_core::MemoryBudget) use it, and the
    /// [room](crate::group#room) of groups. It must return the same for the same message each time,
    /// and must not use the session.
    pub const fn with_weight(mut self, weigh: fn(&Out) -> usize) -> Self {
        self.weigh = Some(weigh);
        self
    }

    /// Sets whether a broadcast is encoded once for all sessions of this layer and its clones. The
    /// default is `true`.
    ///
    /// Set it to `false` for a codec whose bytes depend on earlier messages of its session such as
    /// a codec that numbers messages or compresses them with a shared window. Scope: session.
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

/// Service of [`CodecLayer`].
pub struct Codec<S, C, Out> {
    inner: S,
    layer: CodecLayer<C, Out>,
}

impl<S, C, Out> Codec<S, C, Out> {
    getty_core::inner_service_accessors!();
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
    S: Service<Connection<SessionIo<T, C, Out>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Polls the inner service. A drop will give back its reservation.
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
        // Cloned here, because the closure below has the transport already.
        let codec = C::clone(codec);
        self.inner.call(connection.map_transport(|transport| {
            let framed = SessionIo::new(transport, codec, driver, *max_frame);
            match id {
                Some(id) => framed.with_codec_id(*id),
                None => framed,
            }
        }))
    }
}
