//! Settings of the compression.

use std::{fmt, sync::Arc};

use getty_core::driver::CodecId;
use http::{HeaderMap, HeaderValue, header};

use super::negotiation::{self, WsDeflate};
use crate::compress::{Contexts, Level};

/// Default minimum length of a message that is compressed, in bytes.
const THRESHOLD: usize = 512;

type Filter = dyn Fn(&[u8]) -> bool + Send + Sync;

/// Settings of permessage-deflate, for
/// [`WsLayer::with_deflate`](crate::ws::WsLayer::with_deflate) and
/// [`WsConnectLayer::with_deflate`](crate::ws::WsConnectLayer::with_deflate).
///
/// By default each message is compressed alone, without context from earlier messages. An idle
/// session therefore holds no compressor. The sessions of a thread share one. The
/// [module](crate::ws#compression) describes the cost, the memory and when not to compress.
///
/// ```
/// use getty::ws::{Deflate, WsLayer};
///
/// let layer = WsLayer::new().with_deflate(
///     Deflate::new()
///         .with_threshold(1024)
///         .with_filter(|message| !message.starts_with(b"token ")),
/// );
/// ```
#[derive(Clone)]
pub struct Deflate(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    /// Identifies these settings. A group compresses once for all sessions with the same id.
    id: CodecId,
    threshold: usize,
    level: Level,
    filter: Option<Arc<Filter>>,
    contexts: Option<Contexts>,
}

impl Deflate {
    /// Creates new settings: [`Level::FAST`], and a threshold of 512 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            id: CodecId::unique(),
            threshold: THRESHOLD,
            level: Level::FAST,
            filter: None,
            contexts: None,
        }))
    }

    fn set(mut self, f: impl FnOnce(&mut Inner)) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.id = CodecId::unique();
        f(inner);
        self
    }

    /// Sets the minimum length of a message that may be compressed, in bytes. Shorter messages are
    /// sent plain. The default is 512 bytes because short messages save little. With 0, every
    /// message is compressed that becomes shorter.
    #[must_use]
    pub fn with_threshold(self, bytes: usize) -> Self {
        self.set(|inner| inner.threshold = bytes)
    }

    /// Sets the compression level. The default is [`Level::FAST`], which also replaces
    /// [`Level::NONE`].
    #[must_use]
    pub fn with_level(self, level: Level) -> Self {
        self.set(|inner| inner.level = level.max(Level::FAST))
    }

    /// Sets the filter: messages for which `compresses` returns `false` are sent plain. The default
    /// compresses every message that reaches the threshold.
    ///
    /// The filter receives the encoded message. It should return `false` for messages with secrets
    /// and for data that is compressed already. It runs in the session's task. It is called for
    /// each message that reaches the threshold and once for a broadcast to a group.
    #[must_use]
    pub fn with_filter(self, compresses: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.set(|inner| inner.filter = Some(Arc::new(compresses)))
    }

    /// Lets messages that this side sends refer to earlier ones, if the peer has agreed. The
    /// contexts come from `contexts`. By default each message is compressed alone.
    ///
    /// Similar short messages then need few bytes: see the [module](crate::ws#compression). A
    /// session has a claim to its context and loses it if more sessions send than there are
    /// [`Contexts`]. Its next message then begins with an empty window, and the peer notices
    /// nothing. The window is at most 4 KiB, and a context takes 165 KB. Clones of these settings
    /// share the contexts.
    ///
    /// - A message to a group is compressed for each of these sessions, because each has another
    ///   window.
    /// - A peer can guess secrets from the length of messages that contain its own text beside
    ///   them, also across messages. Do not use it where users can mix both.
    /// - A client must support it, as browsers do. One that offers `server_no_context_takeover`
    ///   declines, and its messages are compressed alone. A server of getty declines for clients.
    ///
    /// Received messages never have a context, so that an idle session holds no inflater. Consider
    /// a [threshold](Self::with_threshold) of 0, because short messages save the most. A message
    /// that does not become shorter is sent plain, and the next one then begins with an empty
    /// window.
    #[must_use]
    pub fn with_sender_takeover(self, contexts: Contexts) -> Self {
        self.set(|inner| inner.contexts = Some(contexts))
    }

    /// Returns the contexts for messages that refer to earlier ones.
    pub(super) fn contexts(&self) -> Option<&Contexts> {
        self.0.contexts.as_ref()
    }

    pub(super) fn id(&self) -> CodecId {
        self.0.id
    }

    pub(super) fn threshold(&self) -> usize {
        self.0.threshold
    }

    pub(super) fn level(&self) -> Level {
        self.0.level
    }

    /// Returns `true` if the filter allows to compress `message`.
    pub(super) fn compresses(&self, message: &[u8]) -> bool {
        let filter = self.0.filter.as_ref();
        filter.is_none_or(|compresses| compresses(message))
    }

    /// Accepts the first acceptable offer in the header fields of a request. Returns the agreement
    /// and the field of the response. Without an acceptable offer the session is not compressed.
    pub(in crate::ws) fn accept(&self, headers: &HeaderMap) -> Option<(WsDeflate, HeaderValue)> {
        negotiation::accept(&mut extensions(headers))
    }

    /// Returns the field of a client's request.
    pub(in crate::ws) fn offer(&self) -> HeaderValue {
        HeaderValue::from_static(match self.0.contexts {
            Some(_) => negotiation::OFFER_WITH_TAKEOVER,
            None => negotiation::OFFER,
        })
    }

    /// Checks a server's answer to the [offer](Self::offer). `None` is an answer without extension.
    pub(in crate::ws) fn confirm(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<WsDeflate>, &'static str> {
        negotiation::confirm(&mut extensions(headers), self.0.contexts.is_some())
    }
}

/// Returns the values of all fields that name extensions.
fn extensions(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    values.iter().map(HeaderValue::as_bytes)
}

impl Default for Deflate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflate")
            .field("threshold", &self.0.threshold)
            .field("level", &self.0.level)
            .field("filter", &self.0.filter.is_some())
            .field("contexts", &self.0.contexts)
            .finish()
    }
}
