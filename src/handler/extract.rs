//! Arguments of handlers: the traits that make them, and the arguments that getty provides.

use std::{any::type_name, error::Error, fmt};

use bytes::{Bytes, BytesMut};
use getty_core::{Address, ConnectionHandle, IntoReply, Reply, Request, Session};
use tower::BoxError;

use super::via;

/// Reason why a handler was not called: a reply to the peer, or an error.
///
/// `?` converts any error into [`Rejection::Error`]. A handler may also return a rejection as
/// the error of its `Result`.
pub enum Rejection<Out> {
    /// The reply to the message.
    Reply(Reply<Out>),
    /// The error of the call. It closes the session, unless a
    /// [`HandleErrorLayer`](crate::layers::HandleErrorLayer) converts it into a reply.
    Error(BoxError),
}

impl<Out> Rejection<Out> {
    /// Creates a rejection that replies to the peer.
    pub fn reply(reply: impl IntoReply<Out>) -> Self {
        Self::Reply(reply.into_reply())
    }

    /// Returns the result of a call that was rejected.
    pub(super) fn into_result(self) -> Result<Reply<Out>, BoxError> {
        match self {
            Self::Reply(reply) => Ok(reply),
            Self::Error(error) => Err(error),
        }
    }
}

impl<Out, E: Into<BoxError>> From<E> for Rejection<Out> {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl<Out> fmt::Debug for Rejection<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(reply) => write!(f, "Reply({} messages)", reply.len()),
            Self::Error(error) => f.debug_tuple("Error").field(error).finish(),
        }
    }
}

/// First argument of a handler: the message, or a value made from the request.
///
/// The first argument is one of these:
///
/// - the message itself;
/// - the whole [`Request`];
/// - a type that implements this trait with the marker [`via::Whole`], such as `Json<T>`, which
///   decodes the message's payload;
/// - a type that implements [`FromSession`]. The message is then dropped.
///
/// An implementation runs in the task of the session, so it must not block.
///
/// `S` is the state of the handler's service. `Via` is a marker that keeps the four kinds
/// apart. The compiler infers it.
///
/// ```
/// use getty::{Request, handler::{FromRequest, Rejection, via}};
///
/// /// A line that is a number.
/// struct Number(u64);
///
/// impl<S> FromRequest<String, String, S, via::Whole> for Number {
///     fn from_request(request: Request<String>, _: &S) -> Result<Self, Rejection<String>> {
///         match request.message().parse() {
///             Ok(number) => Ok(Self(number)),
///             Err(error) => Err(Rejection::reply(format!("ERR {error}"))),
///         }
///     }
/// }
///
/// let service = getty::handle(|Number(number): Number| (number + 1).to_string());
/// # fn check<S: getty::Service<Request<String>>>(_: S) {}
/// # check(service);
/// ```
#[doc(alias("extractor", "FromMessage"))]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the first argument of a handler of `{In}`",
    label = "not the message, not made of it, and not made of the session or the state",
    note = "the first argument is `{In}`, `Request<{In}, {Out}>` or made of them, such as `Json<T>`; then `Session<{Out}>`, `State<T>`, `Attribute<T>`",
    note = "`Json<T>` needs `T: Deserialize` and `{In}: Payload`"
)]
pub trait FromRequest<In, Out, S, Via>: Sized {
    /// Creates the argument.
    ///
    /// # Errors
    ///
    /// Returns the reason why the handler cannot be called.
    fn from_request(request: Request<In, Out>, state: &S) -> Result<Self, Rejection<Out>>;
}

/// Argument of a handler that is made from the session and the state.
///
/// | argument | value | otherwise |
/// |---|---|---|
/// | [`Session<Out>`](Session) | the session | |
/// | [`ConnectionHandle`] | the session's untyped handle | |
/// | [`PeerAddr`] | the peer's address | |
/// | [`State<T>`](State) | the part `T` of the state: see [`PartOf`] | does not compile |
/// | [`Attribute<T>`] | a clone of the session's attribute of type `T` | the error [`MissingAttribute`] |
/// | `Option<A>` | the argument `A` | `None` |
///
/// These arguments are made before the first one. An argument that requires a login therefore
/// rejects a message before its payload is decoded. An implementation must not block.
///
/// ```
/// use getty::{Session, handler::{FromSession, Rejection}};
///
/// #[derive(Clone)]
/// struct User(String);
///
/// /// The name of a user who has logged in.
/// struct Name(String);
///
/// impl<S> FromSession<String, S> for Name {
///     fn from_session(session: &Session<String>, _: &S) -> Result<Self, Rejection<String>> {
///         match session.get::<User>() {
///             Some(User(name)) => Ok(Self(name)),
///             None => Err(Rejection::reply("ERR log in first".to_owned())),
///         }
///     }
/// }
///
/// let service = getty::handle(|line: String, Name(name): Name| format!("{name}: {line}"));
/// # fn check<S: getty::Service<getty::Request<String>>>(_: S) {}
/// # check(service);
/// ```
///
/// [`Attribute<T>`]: Attribute
#[doc(alias("extractor", "FromRequestParts"))]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made of a session that sends `{Out}` and the state `{S}`",
    label = "not an argument for this position",
    note = "the first argument is the message or made of it, such as `Json<T>`; the others are `Session<{Out}>`, `State<T>`, `Attribute<T>`, `Option` of one"
)]
pub trait FromSession<Out, S>: Sized {
    /// Creates the argument.
    ///
    /// # Errors
    ///
    /// Returns the reason why the handler cannot be called.
    fn from_session(session: &Session<Out>, state: &S) -> Result<Self, Rejection<Out>>;
}

#[diagnostic::do_not_recommend]
impl<In, Out, S> FromRequest<In, Out, S, via::Message> for In {
    #[inline]
    fn from_request(request: Request<In, Out>, _: &S) -> Result<Self, Rejection<Out>> {
        Ok(request.into_message())
    }
}

#[diagnostic::do_not_recommend]
impl<In, Out: 'static, S, T: FromSession<Out, S>> FromRequest<In, Out, S, via::FromParts> for T {
    #[inline]
    fn from_request(request: Request<In, Out>, state: &S) -> Result<Self, Rejection<Out>> {
        T::from_session(request.session(), state)
    }
}

#[diagnostic::do_not_recommend]
impl<In, Out, S> FromRequest<In, Out, S, via::Whole> for Request<In, Out> {
    #[inline]
    fn from_request(request: Self, _: &S) -> Result<Self, Rejection<Out>> {
        Ok(request)
    }
}

#[diagnostic::do_not_recommend]
impl<In: via::Undecided, Out, S, T> FromRequest<In, Out, S, via::Nothing> for T {
    fn from_request(_: Request<In, Out>, _: &S) -> Result<Self, Rejection<Out>> {
        unreachable!("no message is `Undecided`")
    }
}

#[diagnostic::do_not_recommend]
impl<Out, S> FromSession<Out, S> for Session<Out> {
    #[inline]
    fn from_session(session: &Self, _: &S) -> Result<Self, Rejection<Out>> {
        Ok(session.clone())
    }
}

#[diagnostic::do_not_recommend]
impl<Out, S> FromSession<Out, S> for ConnectionHandle {
    #[inline]
    fn from_session(session: &Session<Out>, _: &S) -> Result<Self, Rejection<Out>> {
        Ok(session.handle().clone())
    }
}

/// Address of the peer.
///
/// ```
/// use getty::handler::PeerAddr;
///
/// let service = getty::handle(|line: String, PeerAddr(peer): PeerAddr| format!("{peer}: {line}"));
/// # fn check<S: getty::Service<getty::Request<String>>>(_: S) {}
/// # check(service);
/// ```
#[doc(alias = "ConnectInfo")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub Address);

#[diagnostic::do_not_recommend]
impl<Out, S> FromSession<Out, S> for PeerAddr {
    #[inline]
    fn from_session(session: &Session<Out>, _: &S) -> Result<Self, Rejection<Out>> {
        Ok(Self(session.peer_addr().clone()))
    }
}

/// Argument with the state of the handler's service, or with a part of this state.
///
/// `T` is the type of the state, or a type that implements [`PartOf`] for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State<T>(pub T);

/// Types that can be taken out of a state `S`, as arguments [`State<T>`](State).
///
/// Each state that is `Clone` is a part of itself. A part is made for each message that uses
/// it, usually by a clone. So it should be an `Arc` or a struct of a few `Arc`s.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
///
/// use getty::handler::{PartOf, State, handle_with};
///
/// #[derive(Clone, Default)]
/// struct App { visits: Arc<AtomicU64>, motd: Arc<str> }
///
/// #[derive(Clone)]
/// struct Visits(Arc<AtomicU64>);
///
/// impl PartOf<App> for Visits {
///     fn part_of(app: &App) -> Self {
///         Self(app.visits.clone())
///     }
/// }
///
/// fn count(_line: String, State(Visits(visits)): State<Visits>) -> String {
///     visits.fetch_add(1, Relaxed).to_string()
/// }
///
/// let service = handle_with(App::default(), count);
/// # fn check<S: getty::Service<getty::Request<String>>>(_: S) {}
/// # check(service);
/// ```
#[doc(alias("FromRef", "from_ref", "substate"))]
#[diagnostic::on_unimplemented(
    message = "the state of this handler's service is `{S}`, which has no `{Self}`",
    label = "`{Self}` is not a part of the state `{S}`",
    note = "`handle_with(state, ..)` and `Router::with_state(state)` set the state; `impl PartOf<{S}> for {Self}` makes this type a part"
)]
pub trait PartOf<S>: Sized {
    /// Returns the part of `state`, usually a clone.
    fn part_of(state: &S) -> Self;
}

#[diagnostic::do_not_recommend]
impl<S: Clone> PartOf<S> for S {
    #[inline]
    fn part_of(state: &S) -> S {
        state.clone()
    }
}

// not `do_not_recommend`: the error of `PartOf` names the missing part
impl<Out, S, T: PartOf<S>> FromSession<Out, S> for State<T> {
    #[inline]
    fn from_session(_: &Session<Out>, state: &S) -> Result<Self, Rejection<Out>> {
        Ok(Self(T::part_of(state)))
    }
}

/// Clone of the session's [attribute](ConnectionHandle::insert) of type `T`.
///
/// If the session has none, the handler is not called and the error is [`MissingAttribute`].
/// Use `Option<Attribute<T>>` for a handler that must be called in either case.
#[doc(alias = "Extension")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attribute<T>(pub T);

impl<Out, S, T: Clone + Send + Sync + 'static> FromSession<Out, S> for Attribute<T> {
    #[inline]
    fn from_session(session: &Session<Out>, _: &S) -> Result<Self, Rejection<Out>> {
        match session.get::<T>() {
            Some(value) => Ok(Self(value)),
            None => Err(MissingAttribute::reject::<T, Out>()),
        }
    }
}

/// Returned instead of a call if the session does not have the [`Attribute`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MissingAttribute {
    /// Name of the attribute's type.
    pub type_name: &'static str,
}

impl MissingAttribute {
    #[cold]
    #[inline(never)]
    fn reject<T, Out>() -> Rejection<Out> {
        let type_name = type_name::<T>();
        Self { type_name }.into()
    }
}

impl fmt::Display for MissingAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session has no attribute `{}`", self.type_name)
    }
}

impl Error for MissingAttribute {}

#[diagnostic::do_not_recommend]
impl<Out, S, T: FromSession<Out, S>> FromSession<Out, S> for Option<T> {
    #[inline]
    fn from_session(session: &Session<Out>, state: &S) -> Result<Self, Rejection<Out>> {
        Ok(T::from_session(session, state).ok())
    }
}

/// Messages that contain an encoded payload, which arguments such as `Json<T>` decode.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no payload to decode",
    label = "not a `Payload`",
    note = "`impl Payload for {Self}` returns the bytes that `Json<T>` and its like decode"
)]
pub trait Payload {
    /// Returns the encoded bytes.
    fn payload(&self) -> &[u8];
}

impl Payload for Bytes {
    #[inline]
    fn payload(&self) -> &[u8] {
        self
    }
}

impl Payload for BytesMut {
    #[inline]
    fn payload(&self) -> &[u8] {
        self
    }
}

impl Payload for Vec<u8> {
    #[inline]
    fn payload(&self) -> &[u8] {
        self
    }
}

impl Payload for String {
    #[inline]
    fn payload(&self) -> &[u8] {
        self.as_bytes()
    }
}
