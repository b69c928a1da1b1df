//! Kinds of messages (text and binary) and how a codec sees them.

use std::{error::Error, fmt, io};

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// Kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Text,
    Binary,
}

impl Kind {
    /// Returns the byte that precedes a message of this kind: the opcode of its frame.
    pub(crate) const fn tag(self) -> u8 {
        match self {
            Self::Text => 1,
            Self::Binary => 2,
        }
    }

    pub(crate) const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            _ => None,
        }
    }
}

/// Kind of the messages that a session's codec encodes and decodes.
///
/// Messages of both kinds are received with every setting. Text is always checked for UTF-8
/// first.
// (design.md: How does a codec know whether a message is text?)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Messages {
    /// Messages are sent as binary. The codec cannot see the kind of received messages.
    #[default]
    Binary,
    /// Messages are sent as text, which scripts in a browser receive as strings. Use it with
    /// [`codec::Text`](crate::codec::Text). A message that is not UTF-8 is not sent and closes the
    /// session with code 1011.
    Text,
    /// The codec chooses and sees the kind of each message. Use it with [`MessageCodec`]. Between
    /// transport and codec each message follows a tag byte: 1 for text and 2 for binary. The byte
    /// is not on the wire.
    Both,
}

/// Message with its kind, for [`MessageCodec`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// Text.
    Text(Utf8),
    /// Bytes.
    Binary(Bytes),
}

impl Message {
    /// Creates a text message.
    pub fn text(text: impl Into<Utf8>) -> Self {
        Self::Text(text.into())
    }

    /// Creates a binary message.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self::Binary(bytes.into())
    }

    /// Returns the text, or `None` if the message is binary.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.as_str()),
            Self::Binary(_) => None,
        }
    }

    /// Returns the payload of either kind.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => &text.0,
            Self::Binary(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.debug_tuple("Text").field(&text.as_str()).finish(),
            Self::Binary(bytes) => f.debug_tuple("Binary").field(bytes).finish(),
        }
    }
}

/// Text that shares the memory it arrived in.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Utf8(Bytes);

impl Utf8 {
    /// Returns the text. It is checked for UTF-8 again, which is cheap and avoids `unsafe`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The constructors accept only UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Converts the text into bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl From<String> for Utf8 {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Utf8 {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl TryFrom<Bytes> for Utf8 {
    type Error = std::str::Utf8Error;

    fn try_from(bytes: Bytes) -> Result<Self, Self::Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Utf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Utf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Codec for messages with their kind. It requires [`Messages::Both`] and refuses messages
/// without a kind.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
/// use getty::ws::{Message, MessageCodec, Messages, WsLayer};
///
/// // Text is answered with text, and binary with binary.
/// let stack = ServiceBuilder::new()
///     .layer(WsLayer::new().with_messages(Messages::Both))
///     .layer(CodecLayer::new(MessageCodec::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<Message>| async move {
///         Ok::<_, BoxError>(request.into_message())
///     });
/// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
/// # check(&stack);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageCodec(());

impl MessageCodec {
    /// Creates a new codec. It has no settings.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl Decoder for MessageCodec {
    type Item = Message;
    type Error = io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<Message>> {
        // A stream has no messages with a kind.
        Err(NoKind.into())
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> io::Result<Option<Message>> {
        let kind = src
            .first()
            .copied()
            .and_then(Kind::from_tag)
            .ok_or(NoKind)?;
        let payload = src.split().freeze().slice(1..);
        Ok(Some(match kind {
            // The transport has checked that it is UTF-8.
            Kind::Text => Message::Text(Utf8(payload)),
            Kind::Binary => Message::Binary(payload),
        }))
    }
}

impl Encoder<Message> for MessageCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Message, dst: &mut BytesMut) -> io::Result<()> {
        let kind = match message {
            Message::Text(_) => Kind::Text,
            Message::Binary(_) => Kind::Binary,
        };
        let bytes = message.as_bytes();
        dst.reserve(1 + bytes.len());
        dst.extend_from_slice(&[kind.tag()]);
        dst.extend_from_slice(bytes);
        Ok(())
    }
}

/// Error for a message without a tag byte.
#[derive(Debug)]
pub(super) struct NoKind;

impl fmt::Display for NoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the message has no kind; `MessageCodec` requires `Messages::Both`")
    }
}

impl Error for NoKind {}

/// Error for a message that is not UTF-8 and would be sent as text.
#[derive(Debug)]
pub(super) struct NotText;

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message that is not UTF-8 cannot be sent as text")
    }
}

impl Error for NotText {}

impl From<NotText> for io::Error {
    fn from(error: NotText) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Returns `true` if a message cannot be sent because of its contents. The peer can then still
/// receive a close frame.
pub(super) fn is_unsendable(error: &io::Error) -> bool {
    let cause = error.get_ref();
    cause.is_some_and(|cause| cause.is::<NotText>() || cause.is::<NoKind>())
}

impl From<NoKind> for io::Error {
    fn from(error: NoKind) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_kind_and_share_the_memory_they_arrived_in() {
        let mut codec = MessageCodec::new();
        for message in [
            Message::text("ä"),
            Message::binary(&b"\xff"[..]),
            Message::text(""),
        ] {
            let mut buffer = BytesMut::new();
            codec.encode(message.clone(), &mut buffer).unwrap();
            let arrived = buffer.as_ptr();
            let decoded = codec.decode_eof(&mut buffer).unwrap().unwrap();
            assert_eq!(decoded, message);
            if !decoded.as_bytes().is_empty() {
                assert_eq!(decoded.as_bytes().as_ptr(), arrived.wrapping_add(1));
            }
        }
    }

    #[test]
    fn message_without_a_kind_is_refused() {
        let mut codec = MessageCodec::new();
        for bytes in ["", "hello"] {
            assert!(codec.decode_eof(&mut BytesMut::from(bytes)).is_err());
        }
        assert!(codec.decode(&mut BytesMut::from("\x01stream")).is_err());
    }
}
