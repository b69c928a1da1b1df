//! Settings of the compression.

use std::{fmt, sync::Arc};

use getty_core::driver::CodecId;
use http::{HeaderMap, HeaderValue, header};

use super::{
    context::Level,
    message::PerMessage,
    negotiation::{self, WsDeflate},
};
use crate::ws::transport::Role;

/// Default minimum length of a message that is compressed, in bytes.
const THRESHOLD: usize = 512;

type Filter = dyn Fn(&[u8]) -> bool + Send + Sync;

/// Settings of permessage-deflate, for
/// [`WsLayer::with_deflate`](crate::ws::WsLayer::with_deflate) and
/// [`WsConnectLayer::with_deflate`](crate::ws::WsConnectLayer::with_deflate).
///
/// Each message is compressed alone, without context from earlier messages. An idle session
/// therefore holds no compressor: each thread has one, which its sessions share. The
/// [module](crate::ws#compression) describes the cost, the memory, and when not to compress.
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
            level: Level::DEFAULT,
            filter: None,
        }))
    }

    fn set(mut self, f: impl FnOnce(&mut Inner)) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.id = CodecId::unique();
        f(inner);
        self
    }

    /// Sets the minimum length in bytes of messages that are compressed. Shorter messages are sent
    /// plain. The default is 512 bytes: below that, compression costs more than it saves. With 0,
    /// every message is compressed that becomes shorter by it.
    #[must_use]
    pub fn with_threshold(self, bytes: usize) -> Self {
        self.set(|inner| inner.threshold = bytes)
    }

    /// Sets the level, from 1 (fastest) to 9 (smallest). The default is 1. A level outside of this
    /// range is replaced by the nearest one.
    #[must_use]
    pub fn with_level(self, level: u8) -> Self {
        self.set(|inner| inner.level = Level::new(level))
    }

    /// Compresses only messages for which `compresses` returns `true`. The default is every message
    /// that reaches the threshold.
    ///
    /// The filter sees the encoded message. Use it to leave messages with secrets plain, or messages
    /// that are compressed already. It runs in the session's task for each message that reaches the
    /// threshold, and once for a broadcast to a group.
    #[must_use]
    pub fn with_filter(
        self,
        compresses: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    ) -> Self {
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

    /// Accepts the first acceptable offer in the header fields of a request. Returns what was agreed
    /// and the field of the response. No offer is an error: the session is then not compressed.
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
