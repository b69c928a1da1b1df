//! Messages in JSON with a type and with data of this type.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{Keyed, Payload};

/// Message `{"type": .., "data": ..}` in JSON whose data is not decoded yet.
///
/// Its type is the key of a [`Router`](super::Router), and its data the payload of
/// [`Json`](super::Json). A message without data has the data `null`, which decodes as `()`, as
/// a unit struct and as `None`. Other fields are ignored. A protocol with other names of fields
/// needs a struct with a `Box<RawValue>` that implements [`Keyed`] and [`Payload`].
///
/// Malformed content is found at two places. A line that is not such a message goes to
/// [`HandleMalformedLayer`](crate::layers::HandleMalformedLayer). Data that
/// [`Json`](super::Json) cannot decode and a type without a route go to
/// [`HandleErrorLayer`](crate::layers::HandleErrorLayer). The error of data counts its length,
/// line and column from the start of the data and not of the message. A message without data
/// counts as the 4 bytes of `null`.
///
/// ```
/// use getty::{BoxError, CodecLayer, ServiceBuilder, SessionLayer};
/// use getty::{codec::{self, Lines}, layers::{HandleErrorLayer, HandleMalformedLayer}};
/// use getty::handler::{Json, Router, Tagged};
///
/// #[derive(serde::Deserialize)]
/// struct Say {
///     text: String,
/// }
///
/// #[derive(serde::Serialize)]
/// struct Event(String);
///
/// fn say(Json(Say { text }): Json<Say>) -> Event {
///     Event(text)
/// }
///
/// fn ping(Json(()): Json<()>) -> Event {
///     Event("pong".to_owned())
/// }
///
/// let stack = ServiceBuilder::new()
///     .layer(CodecLayer::new(codec::Json::new(Lines::new()).tolerant()))
///     .layer(SessionLayer::new())
///     .layer(HandleMalformedLayer::new(|malformed| Event(malformed.to_string())))
///     .layer(HandleErrorLayer::new(|error: BoxError| Event(error.to_string())))
///     .service(Router::<Tagged, Event>::new().route("say", say).route("ping", ping));
/// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
/// # check(&stack);
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Tagged {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

impl Tagged {
    /// Creates a new message with the type `kind`, and encodes `data` in JSON.
    ///
    /// # Errors
    ///
    /// Returns an error if `data` cannot be expressed in JSON.
    pub fn new(
        kind: impl Into<String>,
        data: &(impl Serialize + ?Sized),
    ) -> Result<Self, serde_json::Error> {
        Ok(Self {
            kind: kind.into(),
            data: Some(to_raw_value(data)?),
        })
    }

    /// Returns the type, which is the field `type` on the wire.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the data in JSON, `null` if there is none.
    #[must_use]
    pub fn data(&self) -> &str {
        self.data.as_deref().map_or("null", RawValue::get)
    }
}

/// Contains the type and the length of the data, because a message may contain secrets.
impl fmt::Debug for Tagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tagged")
            .field("kind", &self.kind)
            .field("data", &format_args!("{} bytes", self.data().len()))
            .finish()
    }
}

impl Keyed for Tagged {
    type Key = str;

    #[inline]
    fn key(&self) -> &str {
        &self.kind
    }
}

impl Payload for Tagged {
    #[inline]
    fn payload(&self) -> &[u8] {
        self.data().as_bytes()
    }
}
