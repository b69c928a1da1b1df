//! Creates the codec and the session of each connection.
//!
//! - *ready*: as the inner service.
//! - *call*: clones or creates the codec, creates the [`Session`](getty_core::Session), and
//!   wraps the transport in [`SessionIo`]. It does no I/O.
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
//!
//! # Settings that change
//!
//! A codec belongs to one session and is used by its task alone. A handler changes the settings
//! of its codec in one of three ways.
//!
//! **The maximum frame** of an open session is set with
//! [`set_max_frame`](getty_core::ConnectionHandle::set_max_frame). The layer must have
//! [`with_settable_max_frame`](CodecLayer::with_settable_max_frame) for a codec of getty, or
//! [`with_frame_limit`](CodecLayer::with_frame_limit) for another codec.
//!
//! **A shared setting** is for other limits and switches that may be read at any time. The
//! function of [`CodecLayer::per_connection`] puts it into an [attribute] of the connection.
//! The codec reads it in `decode` or `encode`:
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicUsize, Ordering::Relaxed}};
//!
//! use bytes::BytesMut;
//! use getty_core::Session;
//! use getty_layers::CodecLayer;
//! use tokio_util::codec::{Decoder, Encoder};
//!
//! /// Maximum length of a message. A guest may send little until it has logged in.
//! #[derive(Clone)]
//! struct MaxLength(Arc<AtomicUsize>);
//!
//! struct Texts { max: MaxLength }
//!
//! impl Decoder for Texts {
//!     type Item = String;
//!     type Error = std::io::Error;
//!
//!     fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<String>, Self::Error> {
//!         if buf.len() > self.max.0.load(Relaxed) {
//!             return Err(std::io::ErrorKind::InvalidData.into());
//!         }
//! #       Ok(None)
//!         // ..
//!     }
//! }
//! # impl Encoder<String> for Texts {
//! #     type Error = std::io::Error;
//! #     fn encode(&mut self, _: String, _: &mut BytesMut) -> Result<(), Self::Error> { Ok(()) }
//! # }
//!
//! # fn layer() -> CodecLayer<getty_layers::codec::PerConnection<impl Fn(&getty_core::ConnectionHandle) -> Texts + Clone>, String> {
//! CodecLayer::per_connection(|handle| {
//!     let max = MaxLength(Arc::new(AtomicUsize::new(256)));
//!     handle.insert(max.clone());
//!     Texts { max }
//! })
//! # }
//!
//! /// Called by the handler of the login.
//! fn allow_long_messages(session: &Session<String>) {
//!     if let Some(MaxLength(max)) = session.get() {
//!         max.store(64 * 1024, Relaxed);
//!     }
//! }
//! # let _ = (layer, allow_long_messages);
//! ```
//!
//! The session loop decodes ahead of the handler. A message that the peer sent before it had
//! the handler's reply may thus be decoded with the old setting. Every message that the peer
//! sends after it has received the reply is decoded with the new one.
//!
//! **A message to the codec** is for changes that take effect at one position of the output,
//! such as "compress all that follows". `Out` is an enum with a variant for it, and `encode`
//! changes the codec instead of writing bytes. Messages are encoded in the order in which they
//! are sent, so no lock and no atomic is needed:
//!
//! ```
//! # use bytes::BytesMut;
//! # use tokio_util::codec::Encoder;
//! enum Out {
//!     Text(String),
//!     /// From here on, everything is compressed.
//!     Compress,
//! }
//!
//! struct Texts { compresses: bool }
//!
//! impl Encoder<Out> for Texts {
//!     type Error = std::io::Error;
//!
//!     fn encode(&mut self, message: Out, buf: &mut BytesMut) -> Result<(), Self::Error> {
//!         match message {
//!             Out::Compress => self.compresses = true,
//!             Out::Text(text) if self.compresses => { /* .. */ }
//!             Out::Text(text) => buf.extend_from_slice(text.as_bytes()),
//!         }
//!         Ok(())
//!     }
//! }
//! // the handler's reply: Reply::many(vec![Out::Text("OK".to_owned()), Out::Compress])
//! ```
//!
//! A change at one position of the *input* can only be made by `decode` itself, on the message
//! that announces it: the bytes behind that message may already have arrived.
//!
//! In each way, sessions encode differently from one another. See
//! [`with_shared_encodings`](CodecLayer::with_shared_encodings).
//!
//! [attribute]: getty_core::ConnectionHandle::insert

mod frame_limit;

use std::{
    any::type_name,
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
};

use getty_core::{
    Connection, ConnectionHandle, SessionIo,
    driver::{self, CodecId},
    hooks::Contained,
};
use tokio_util::codec::Decoder;
use tower_layer::Layer;
use tower_service::Service;

pub use self::frame_limit::{FrameLimit, FrameLimited, WithFrameLimit};

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
    #[must_use]
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
    #[must_use]
    pub const fn with_weight(mut self, weigh: fn(&Out) -> usize) -> Self {
        self.weigh = Some(weigh);
        self
    }

    /// Sets whether a broadcast is encoded once for all sessions of this layer and its clones. The
    /// default is `true`, and `false` after [`per_connection`](Self::per_connection).
    ///
    /// Set it to `false` for a codec whose bytes depend on earlier messages of its session such as
    /// a codec that numbers messages or compresses them with a shared window. Scope: session.
    #[must_use]
    pub fn with_shared_encodings(mut self, shared: bool) -> Self {
        self.id = match (shared, self.id) {
            (true, None) => Some(CodecId::unique()),
            (true, id) => id,
            (false, _) => None,
        };
        self
    }
}

impl<C: CodecSource, Out> CodecLayer<C, Out> {
    /// Lets [`set_max_frame`](getty_core::ConnectionHandle::set_max_frame) change the maximum frame
    /// of an open session. The session loop then calls `set` with the codec and the maximum in
    /// bytes. By default the maximum is fixed.
    ///
    /// `set` must change the setting of the codec and keep its state, because it is called between
    /// frames of one stream. It runs in the session's task, so it must not block. The codec of the
    /// session is a [`FrameLimited`]. An adapter around it, for
    /// [`map_decoder`](SessionIo::map_decoder), must pass `decode_eof` on, as
    /// [`FilterMap`](crate::filter_map::FilterMap) does; otherwise the maximum does not change, and
    /// a warning is logged.
    ///
    /// A broadcast is encoded once for all sessions, by the maximum of one of them. See
    /// [`with_shared_encodings`](Self::with_shared_encodings). Scope: session.
    ///
    /// ```
    /// use getty_layers::CodecLayer;
    /// use tokio_util::codec::LengthDelimitedCodec;
    ///
    /// # fn layer() -> CodecLayer<impl getty_layers::codec::CodecSource, bytes::Bytes> {
    /// let mut frames = LengthDelimitedCodec::new();
    /// frames.set_max_frame_length(256);
    /// CodecLayer::new(frames).with_frame_limit(LengthDelimitedCodec::set_max_frame_length)
    /// # }
    /// # let _ = layer();
    /// ```
    pub fn with_frame_limit<F>(self, set: F) -> CodecLayer<WithFrameLimit<C, F>, Out>
    where
        F: Fn(&mut C::Codec, usize) + Clone,
    {
        CodecLayer {
            codec: Contained::new(WithFrameLimit {
                source: self.codec.into_inner(),
                set,
            }),
            max_frame: self.max_frame,
            id: self.id,
            weigh: self.weigh,
            out: PhantomData,
        }
    }

    /// Lets [`set_max_frame`](getty_core::ConnectionHandle::set_max_frame) change the maximum frame
    /// of an open session: [`with_frame_limit`](Self::with_frame_limit) for codecs that implement
    /// [`FrameLimit`], as all codecs of getty do. By default the maximum is fixed.
    #[expect(clippy::type_complexity, reason = "an alias cannot contain `impl`")]
    pub fn with_settable_max_frame(
        self,
    ) -> CodecLayer<WithFrameLimit<C, impl Fn(&mut C::Codec, usize) + Clone>, Out>
    where
        C::Codec: FrameLimit,
    {
        self.with_frame_limit(FrameLimit::set_max_frame)
    }
}

impl<F, Out> CodecLayer<PerConnection<F>, Out> {
    /// Creates a new layer that calls `create` with the handle of each connection for its codec:
    /// for codecs with settings of the connection, such as its address, its agreed subprotocol or
    /// an attribute. See [settings that change](self#settings-that-change).
    ///
    /// `create` runs in the task that accepts connections, so it must not block. Broadcasts are
    /// encoded for each session, because codecs may differ. If they all encode alike, set
    /// [`with_shared_encodings`](Self::with_shared_encodings).
    ///
    /// ```
    /// use getty_core::{Address, ConnectionHandle};
    /// use getty_layers::CodecLayer;
    /// use tokio_util::codec::LinesCodec;
    ///
    /// # fn layer() -> CodecLayer<getty_layers::codec::PerConnection<impl Fn(&ConnectionHandle) -> LinesCodec + Clone>, String> {
    /// CodecLayer::per_connection(|handle| match handle.peer_addr() {
    ///     // the operator's console, over a Unix socket
    ///     Address::Unix(_) => LinesCodec::new(),
    ///     _ => LinesCodec::new_with_max_length(1024),
    /// })
    /// # }
    /// # let _ = layer();
    /// ```
    pub fn per_connection<C>(create: F) -> Self
    where
        F: Fn(&ConnectionHandle) -> C + Clone,
        C: Decoder,
    {
        Self {
            codec: Contained::new(PerConnection(create)),
            max_frame: DEFAULT_MAX_FRAME,
            id: None,
            weigh: None,
            out: PhantomData,
        }
    }
}

/// Source of the codecs of a [`CodecLayer`]: a codec that is cloned, or [`PerConnection`].
pub trait CodecSource: Clone {
    /// Type of the codecs.
    type Codec;

    /// Creates the codec of a connection.
    fn codec(&self, handle: &ConnectionHandle) -> Self::Codec;
}

impl<C: Decoder + Clone> CodecSource for C {
    type Codec = C;

    #[inline]
    fn codec(&self, _: &ConnectionHandle) -> C {
        self.clone()
    }
}

/// Function of [`CodecLayer::per_connection`].
#[derive(Clone)]
pub struct PerConnection<F>(F);

impl<F, C> CodecSource for PerConnection<F>
where
    F: Fn(&ConnectionHandle) -> C + Clone,
{
    type Codec = C;

    fn codec(&self, handle: &ConnectionHandle) -> C {
        (self.0)(handle)
    }
}

impl<F> fmt::Debug for PerConnection<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PerConnection")
            .field(&type_name::<F>())
            .finish()
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

impl<S, C: CodecSource, Out, T> Service<Connection<T>> for Codec<S, C, Out>
where
    S: Service<Connection<SessionIo<T, C::Codec, Out>>>,
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
        // Created here, because the closure below has the transport already.
        let codec = codec.codec(connection.handle());
        let (_, mut driver) = driver::pair(connection.handle().clone());
        weigh.iter().for_each(|weigh| driver.set_weight(*weigh));
        self.inner.call(connection.map_transport(|transport| {
            let framed = SessionIo::new(transport, codec, driver, *max_frame);
            match id {
                Some(id) => framed.with_codec_id(*id),
                None => framed,
            }
        }))
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_test::assert_layer_contract;
    use tokio_util::codec::LinesCodec;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        let layer = CodecLayer::<_, String>::new(LinesCodec::new());
        assert_layer_contract(&layer, || Connection::new(())).await;
        let layer =
            CodecLayer::<_, String>::per_connection(|_: &ConnectionHandle| LinesCodec::new());
        assert_layer_contract(&layer, || Connection::new(())).await;
    }
}
