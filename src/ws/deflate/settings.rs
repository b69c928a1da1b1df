//! Settings of the compression.

use std::{fmt, sync::Arc};

use getty_core::driver::CodecId;
use http::{HeaderMap, HeaderValue, header};

use super::{
    message::PerMessage,
    negotiation::{self, WsDeflate},
};
use crate::{compress::Level, ws::transport::Role};

/// Default minimum length of a message that is compressed, in bytes.
const THRESHOLD: usize = 512;

type Filter = dyn Fn(&[u8]) -> bool + Send + Sync;

/// Settings of permessage-deflate, for
/// [`WsLayer::with_deflate`](crate::ws::WsLayer::with_deflate) and
/// [`WsConnectLayer::with_deflate`](crate::ws::WsConnectLayer::with_deflate).
///
/// Each message is compressed alone, without context from earlier messages. An idle session
/// therefore holds no compressor. The sessions of a thread share one. The
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
}

impl Deflate {
    /// Creates new settings: level 1, and a threshold of 512 bytes.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            id: CodecId::unique(),
            threshold: THRESHOLD,
            level: Level::FAST,
            filter: None,
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

    /// Sets the level, from 1 (fastest) to 9 (smallest). The default is 1. A level outside of this
    /// range is replaced by the nearest one.
    #[must_use]
    pub fn with_level(self, level: u8) -> Self {
        self.set(|inner| inner.level = Level::new(level.max(1)))
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
    #[allow(clippy::unused_self, reason = "settings decide what is offered")]
    pub(in crate::ws) fn offer(&self) -> HeaderValue {
        HeaderValue::from_static(negotiation::OFFER)
    }

    /// Checks a server's answer to the [offer](Self::offer). `None` is an answer without extension.
    #[allow(clippy::unused_self, reason = "settings decide what is offered")]
    pub(in crate::ws) fn confirm(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<WsDeflate>, &'static str> {
        negotiation::confirm(&mut extensions(headers))
    }

    /// Returns the state of a new session.
    pub(in crate::ws) fn open(&self, agreed: WsDeflate, role: Role) -> PerMessage {
        PerMessage::new(self.clone(), agreed, role)
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
            .finish()
    }
}
