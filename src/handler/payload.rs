//! Arguments that decode a message's payload.

#[cfg(any(
    feature = "json",
    feature = "messagepack",
    feature = "postcard",
    feature = "prost"
))]
macro_rules! payload {
    ($(#[$docs:meta])* $name:ident, $format:ty) => {
        $(#[$docs])*
        ///
        /// The payload must be one complete value and nothing else. Otherwise the handler is not
        /// called, and the error is [`Malformed`](crate::codec::Malformed). It closes the session
        /// unless a [`HandleErrorLayer`](crate::layers::HandleErrorLayer) converts it into a reply.
        /// A [`HandleMalformedLayer`](crate::layers::HandleMalformedLayer) does not receive it,
        /// because it replies to frames that a tolerant codec could not decode.
        ///
        /// The same type encodes the payload of a sent [`Packet`](super::Packet). For other
        /// messages call `encode_payload` of the format, as in
        /// [`EncodePayload`](crate::codec::format::EncodePayload).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name<T>(pub T);

        #[diagnostic::do_not_recommend]
        impl<In, Out, S, T> super::FromRequest<In, Out, S, super::via::Whole> for $name<T>
        where
            In: super::Payload,
            $format: crate::codec::format::DecodePayload<T>,
        {
            #[inline]
            fn from_request(
                request: getty_core::Request<In, Out>,
                _: &S,
            ) -> Result<Self, super::Rejection<Out>> {
                use crate::codec::format::DecodePayload;

                match <$format>::default().decode_payload(request.message().payload()) {
                    Ok(value) => Ok(Self(value)),
                    Err(malformed) => Err(malformed.into()),
                }
            }
        }

        impl<T> super::IntoPayload for $name<T>
        where
            $format: crate::codec::format::EncodePayload<T>,
        {
            fn into_payload(self) -> Result<bytes::Bytes, tower::BoxError> {
                use crate::codec::format::EncodePayload;

                let mut payload = bytes::BytesMut::new();
                <$format>::default().encode_payload(&self.0, &mut payload)?;
                Ok(payload.freeze())
            }
        }
    };
}

#[cfg(feature = "json")]
payload!(
    /// Value decoded from the message's [`Payload`](super::Payload) in JSON.
    ///
    /// ```
    /// use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle, handler::Json};
    /// use getty::{codec::Malformed, layers::HandleErrorLayer};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Move {
    ///     x: i32,
    ///     y: i32,
    /// }
    ///
    /// fn step(Json(Move { x, y }): Json<Move>) -> String {
    ///     format!("moved by {x}, {y}")
    /// }
    ///
    /// let stack = ServiceBuilder::new()
    ///     .layer(CodecLayer::new(Lines::new()))
    ///     .layer(SessionLayer::new())
    ///     .layer(HandleErrorLayer::new(|error| match error.downcast_ref::<Malformed>() {
    ///         Some(malformed) => format!("bad move: {}", malformed.reason()),
    ///         None => format!("internal error: {error}"),
    ///     }))
    ///     .service(handle(step));
    /// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
    /// # check(&stack);
    /// ```
    Json, crate::codec::format::json::JsonFormat
);

#[cfg(feature = "messagepack")]
payload!(
    /// Value decoded from the message's [`Payload`](super::Payload) in MessagePack.
    ///
    /// ```
    /// use getty::{codec::Bytes, handler::{MessagePack, handle}};
    ///
    /// let service = handle(|MessagePack((x, y)): MessagePack<(u8, u8)>| Bytes::from(vec![x + y]));
    /// # fn check<S: getty::Service<getty::Request<Bytes>>>(_: S) {}
    /// # check(service);
    /// ```
    MessagePack, crate::codec::format::message_pack::MessagePackFormat
);

#[cfg(feature = "postcard")]
payload!(
    /// Value decoded from the message's [`Payload`](super::Payload) in postcard.
    ///
    /// ```
    /// use getty::{codec::Bytes, handler::{Postcard, handle}};
    ///
    /// let service = handle(|Postcard((x, y)): Postcard<(u8, u8)>| Bytes::from(vec![x + y]));
    /// # fn check<S: getty::Service<getty::Request<Bytes>>>(_: S) {}
    /// # check(service);
    /// ```
    Postcard, crate::codec::format::postcard::PostcardFormat
);

#[cfg(feature = "prost")]
payload!(
    /// Value decoded from the message's [`Payload`](super::Payload) in Protocol Buffers.
    ///
    /// ```
    /// use getty::{codec::Bytes, handler::{Prost, handle}};
    ///
    /// let service = handle(|Prost(name): Prost<String>| Bytes::from(name));
    /// # fn check<S: getty::Service<getty::Request<Bytes>>>(_: S) {}
    /// # check(service);
    /// ```
    Prost, crate::codec::format::prost::ProstFormat
);
