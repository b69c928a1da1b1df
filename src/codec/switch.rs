//! Codec that continues as another codec.

use std::{error::Error, fmt, io};

use bytes::BytesMut;
use tower::BoxError;

use super::{Decoder, Encoder, reclaim};

/// Message of a [`Switch`]: of its first codec, or of its second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Switched<A, B> {
    /// A message of the first codec.
    Before(A),
    /// A message of the second codec.
    After(B),
}

impl<A, B> Switched<A, B> {
    /// Returns the message of the first codec, or `None` for one of the second.
    pub fn before(self) -> Option<A> {
        match self {
            Self::Before(message) => Some(message),
            Self::After(_) => None,
        }
    }

    /// Returns the message of the second codec, or `None` for one of the first.
    pub fn after(self) -> Option<B> {
        match self {
            Self::Before(_) => None,
            Self::After(message) => Some(message),
        }
    }
}

/// Codec that decodes and encodes as `A` and later as `B`.
///
/// Some protocols change their framing in the middle of a session: a login in lines and then
/// binary frames, or RESP2 until `HELLO 3`. A [`Switch`] decodes and encodes with its first
/// codec and then with its second. The session, its type and its queue stay.
///
/// Each direction switches once:
///
/// | direction | of [`Switch::new`] | of [`Switch::when_sent`] |
/// |---|---|---|
/// | received | after the message for which the predicate is `true` | with the first message sent as [`After`](Switched::After) |
/// | sent | with the first message sent as [`After`](Switched::After) | the same |
///
/// So a server that uses [`Switch::new`] may still answer the request as
/// [`Before`](Switched::Before), or at once as `After`. Bytes that were received behind the
/// message that switches are decoded by the second codec, even if they arrived together with
/// it.
///
/// Scope: session. It is not `Clone`: pass a function that creates it to
/// [`CodecLayer::per_connection`](crate::CodecLayer::per_connection).
///
/// `A` must leave undecoded bytes in the buffer, as all codecs of getty do except
/// [`Frames`](super::Frames), whose bytes are put back. A codec of an application that wraps
/// `Frames` fails with [`SwitchError::CodecReadAhead`] if it has taken whole messages ahead.
///
/// ```
/// use getty::codec::{Bytes, LengthDelimited, Lines, Switch, Switched};
/// use getty::{CodecLayer, Pipeline, Reply, ServiceBuilder, SessionLayer, handle};
///
/// type Out = Switched<String, Bytes>;
///
/// fn answer(message: Switched<String, Bytes>) -> Reply<Out> {
///     Reply::one(match message {
///         Switched::Before(line) if line == "BINARY" => Switched::Before("OK".to_owned()),
///         Switched::Before(line) => Switched::Before(line.to_uppercase()),
///         Switched::After(frame) => Switched::After(frame),
///     })
/// }
///
/// fn app() -> impl Pipeline<tokio::net::TcpStream> + Clone {
///     ServiceBuilder::new()
///         .layer(CodecLayer::per_connection(|_| {
///             Switch::new(Lines::new(), LengthDelimited::new(), |line| line == "BINARY")
///         }))
///         .layer(SessionLayer::new())
///         .service(handle(answer))
/// }
/// # let _ = app();
/// ```
///
/// # Groups
///
/// The bytes of a message depend on the state of its session. A `Switch` is not `Clone`, so
/// it must be created by [`CodecLayer::per_connection`](crate::CodecLayer::per_connection),
/// which encodes each broadcast for each session. It must not be combined with
/// [`with_shared_encodings`](crate::CodecLayer::with_shared_encodings).
///
/// A broadcast of `Before` is dropped and counted for a member that has switched. A broadcast
/// of `After` switches a member that has not. A session should therefore join a group of one
/// state.
///
/// # Alternative: a dialogue before the session
///
/// [`OpeningLayer`](crate::upgrade::OpeningLayer) is for messages before the session, which
/// then has one type of message. Use a `Switch` if messages of both kinds belong to the
/// session, such as a command at any time that changes the protocol.
pub struct Switch<A, B, F = fn(&<A as Decoder>::Item) -> bool> {
    first: A,
    second: B,
    /// `None` if the received direction switches with the sent one.
    predicate: Option<F>,
    input: Input,
    /// The sent direction has switched.
    sends_second: bool,
    /// The first codec returned a message last, so that it may keep bytes behind it.
    decoded: bool,
    /// `decode` was called, which only streams do.
    is_stream: bool,
}

type Item<A, B> = Switched<<A as Decoder>::Item, <B as Decoder>::Item>;

/// State of the received direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    First,
    /// The next bytes belong to the second codec, once the first has put back those that it keeps.
    Switching,
    Second,
}

impl<A, B, F> Switch<A, B, F>
where
    A: Decoder,
    B: Decoder,
    F: FnMut(&A::Item) -> bool,
{
    /// Creates a new codec whose received direction switches after the message for which
    /// `switches` returns `true`. Its sent direction switches with the first
    /// [`After`](Switched::After).
    ///
    /// `switches` is called with each message of the first codec. A server passes a predicate for
    /// the request, a client one for the answer.
    pub const fn new(first: A, second: B, switches: F) -> Self {
        Self::with(first, second, Some(switches))
    }
}

impl<A: Decoder, B: Decoder> Switch<A, B> {
    /// Creates a new codec whose directions both switch with the first message that is sent as
    /// [`After`](Switched::After).
    ///
    /// This is for protocols where the message that agrees to the change has the new form. With
    /// RESP3 that is the server's answer to `HELLO 3`. A client of such a protocol sends the
    /// request itself as `After`.
    ///
    /// The peer must wait for that message before it sends in the new form: the session reads ahead
    /// of its handlers, so earlier bytes may be decoded by either codec.
    pub const fn when_sent(first: A, second: B) -> Self {
        Self::with(first, second, None)
    }
}

impl<A, B, F> Switch<A, B, F> {
    const fn with(first: A, second: B, predicate: Option<F>) -> Self {
        Self {
            first,
            second,
            predicate,
            input: Input::First,
            sends_second: false,
            decoded: false,
            is_stream: false,
        }
    }

    /// Returns a reference to the first codec.
    pub const fn first(&self) -> &A {
        &self.first
    }

    /// Returns a reference to the second codec.
    pub const fn second(&self) -> &B {
        &self.second
    }

    /// Returns `true` once received bytes are decoded by the second codec.
    pub fn receives_second(&self) -> bool {
        self.input != Input::First
    }

    /// Returns `true` once a message of the second codec was sent.
    pub const fn sends_second(&self) -> bool {
        self.sends_second
    }
}

impl<A, B, F> Switch<A, B, F>
where
    A: Decoder<Error: Into<BoxError>> + 'static,
    B: Decoder<Error: Into<BoxError>>,
    F: FnMut(&A::Item) -> bool,
{
    /// Records the result of the first codec, and calls the predicate with its message.
    fn decoded(
        &mut self,
        decoded: Result<Option<A::Item>, A::Error>,
    ) -> Result<Option<Item<A, B>>, SwitchError> {
        let item = decoded.map_err(SwitchError::before)?;
        self.decoded = item.is_some();
        if let (Some(item), Some(switches)) = (&item, &mut self.predicate)
            && switches(item)
        {
            self.input = Input::Switching;
        }
        Ok(item.map(Switched::Before))
    }

    /// Begins to decode with the second codec.
    #[cold]
    fn switch(&mut self, src: &mut BytesMut) -> Result<(), SwitchError> {
        if self.decoded {
            reclaim(&mut self.first, src).map_err(|_| SwitchError::CodecReadAhead)?;
        }
        self.input = Input::Second;
        Ok(())
    }
}

impl<A, B, F> Decoder for Switch<A, B, F>
where
    A: Decoder<Error: Into<BoxError>> + 'static,
    B: Decoder<Error: Into<BoxError>>,
    F: FnMut(&A::Item) -> bool,
{
    type Item = Switched<A::Item, B::Item>;
    type Error = SwitchError;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, SwitchError> {
        self.is_stream = true;
        match self.input {
            Input::First => {
                let decoded = self.first.decode(src);
                return self.decoded(decoded);
            }
            Input::Switching => self.switch(src)?,
            Input::Second => {}
        }
        let decoded = self.second.decode(src).map_err(SwitchError::after)?;
        Ok(decoded.map(Switched::After))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, SwitchError> {
        match self.input {
            Input::First => {
                let decoded = self.first.decode_eof(src);
                return self.decoded(decoded);
            }
            Input::Switching => {
                self.switch(src)?;
                // A codec knows from this call that its transport is a stream.
                if self.is_stream
                    && let Some(item) = self.second.decode(src).map_err(SwitchError::after)?
                {
                    return Ok(Some(Switched::After(item)));
                }
            }
            Input::Second => {}
        }
        let decoded = self.second.decode_eof(src).map_err(SwitchError::after)?;
        Ok(decoded.map(Switched::After))
    }
}

// the only implementation, so that the type of sent messages is inferred
impl<A, B, F, X, Y> Encoder<Switched<X, Y>> for Switch<A, B, F>
where
    A: Encoder<X, Error: Into<BoxError>>,
    B: Encoder<Y, Error: Into<BoxError>>,
{
    type Error = SwitchError;

    #[inline]
    fn encode(&mut self, message: Switched<X, Y>, dst: &mut BytesMut) -> Result<(), SwitchError> {
        match message {
            Switched::Before(_) if self.sends_second => Err(SwitchError::Switched),
            Switched::Before(message) => {
                self.first.encode(message, dst).map_err(SwitchError::before)
            }
            Switched::After(message) => {
                self.second
                    .encode(message, dst)
                    .map_err(SwitchError::after)?;
                self.sends_second = true;
                if self.predicate.is_none() && self.input == Input::First {
                    self.input = Input::Switching;
                }
                Ok(())
            }
        }
    }
}

impl<A: fmt::Debug, B: fmt::Debug, F> fmt::Debug for Switch<A, B, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch")
            .field("first", &self.first)
            .field("second", &self.second)
            .field("receives_second", &self.receives_second())
            .field("sends_second", &self.sends_second)
            .finish_non_exhaustive()
    }
}

/// Returned when a [`Switch`] cannot decode or encode a message.
#[derive(Debug)]
#[non_exhaustive]
pub enum SwitchError {
    /// The first codec failed. The source is its error.
    Before(BoxError),
    /// The second codec failed. The source is its error.
    After(BoxError),
    /// A message of the first codec cannot be sent, because one of the second was. Nothing was
    /// encoded.
    Switched,
    /// The first codec has taken whole messages ahead, which belong to the second. See
    /// [`Switch`].
    CodecReadAhead,
    /// The transport failed.
    Io(io::Error),
}

impl SwitchError {
    fn before(error: impl Into<BoxError>) -> Self {
        Self::Before(error.into())
    }

    fn after(error: impl Into<BoxError>) -> Self {
        Self::After(error.into())
    }
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before(_) => "the codec before the switch failed",
            Self::After(_) => "the codec after the switch failed",
            Self::Switched => "a message of the codec before the switch came after it",
            Self::CodecReadAhead => {
                "the codec before the switch took messages ahead that follow it"
            }
            Self::Io(_) => "the transport failed",
        })
    }
}

impl Error for SwitchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Before(source) | Self::After(source) => Some(&**source),
            Self::Io(source) => Some(source),
            Self::Switched | Self::CodecReadAhead => None,
        }
    }
}

impl From<io::Error> for SwitchError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests;
