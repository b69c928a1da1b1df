//! Marker types that keep implementations apart. The compiler infers them.
//!
//! Implementations of [`FromRequest`](super::FromRequest) outside getty use [`Whole`].

use std::marker::PhantomData;

macro_rules! markers {
    ($($(#[$doc:meta])* $name:ident $(<$inner:ident>)?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name $(<$inner>)? ((), PhantomData<fn() -> ($($inner,)?)>);
    )*};
}

/// Implemented for no type of messages. While a type is not inferred yet, it might be one that
/// implements it.
///
/// An implementation with this bound keeps the compiler from inferring the type of a session's
/// messages from the first argument of a handler, which it would do if a single implementation
/// fitted the handler. An error then names the type that the codec has
/// (design.md: Why is a type of messages not inferred from a handler?).
pub trait Undecided {}

/// Messages that a session receives and sends. Implemented for each type and itself.
///
/// It is a trait, so that the type of the messages to send is inferred from the handler's
/// return type as well, and compared here.
#[diagnostic::on_unimplemented(
    message = "a handler whose session sends `{Self}` cannot return `{Out}`",
    label = "return `{Self}`, an `Option`, `Vec` or `Reply` of it, `NoReply`, or a `Result` of one of these",
    note = "with `handle` a session sends the type that it receives; `handle_with((), ..)` is for two types"
)]
pub trait Echoes<Out> {}

impl<T> Echoes<T> for T {}

markers! {
    /// Nothing: see [`Undecided`].
    Nothing;
    /// The argument is the message.
    Message;
    /// The argument is made from the session and the state.
    FromParts;
    /// The argument is made from the whole request.
    Whole;
    /// The output is a reply.
    Replies;
    /// The output is `NoReply`.
    Silent;
    /// The error is a reply.
    OrReplies<V>;
    /// The error fails the call.
    OrFails<V>;
    /// The error is a rejection.
    OrRejects<V>;
    /// There is no error.
    Never<V>;
    /// The function returns a future.
    Async<V>;
    /// The function returns its output.
    Immediate<V>;
}
