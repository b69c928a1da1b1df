//! Clients that are tower services: a call is a request, its response the peer's answer.
//!
//! [`MultiplexClient`] is for protocols whose answers carry the id of their request, and [`PipelineClient`] for those
//! that answer in order. Both sit on a stack with a [`CorrelateLayer`](crate::layers::CorrelateLayer), of the kind that
//! their name says, and on anything that [gives sessions](SessionSource): one [`Session`], or a [`Client`] that
//! reconnects. They are `Clone`, `Send` and `Sync`, and work under tower's `buffer`, `retry`, `timeout`, `load_shed`
//! and `balance`:
//!
//! ```
//! use std::time::Duration;
//!
//! use getty::{
//!     BoxError, Client, CodecLayer, PipelineClient, Request, Service, ServiceBuilder, SessionLayer,
//!     codec::Lines,
//!     layers::CorrelateLayer,
//!     net,
//!     tower::ServiceExt,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let (listener, connector) = net::memory(1024);
//! # let server = ServiceBuilder::new()
//! #     .layer(CodecLayer::new(Lines::new()))
//! #     .layer(SessionLayer::new())
//! #     .service_fn(|request: Request<String>| async move {
//! #         Ok::<_, BoxError>(request.into_message().to_ascii_uppercase())
//! #     });
//! # tokio::spawn(async move { getty::serve(listener, server).await });
//! // a server that answers each line with the same in capitals
//! let client = Client::new(connector, (), |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(CorrelateLayer::in_order())
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         // what comes while no call waits for an answer
//!         .service_fn(|_: Request<String>| async { Ok::<Option<String>, BoxError>(None) })
//! });
//! let mut calls = ServiceBuilder::new()
//!     .timeout(Duration::from_secs(1))
//!     .service(PipelineClient::new(client));
//!
//! let answer: String = calls.ready().await?.call("hello".to_owned()).await?;
//! assert_eq!(answer, "HELLO");
//! # Ok(())
//! # }
//! ```
//!
//! The type of the answers is said where it does not follow: `PipelineClient::<Answer, _, _>::new(client)`, and
//! `PipelineClient<Answer, Request, Client<Request>>` for a field. Many tasks share a client by cloning it, and
//! `calls.clone().oneshot(request)` is a call in one line.
//!
//! # What happens when
//!
//! - *ready*: when there is an open session and fewer calls are in flight than [may be](Calls::with_in_flight); it
//!   reserves a place among those, which the call uses or a drop gives back. Pending while there is no session but one
//!   will be; an error when there will be none any more, so that a balancer fails over, whatever became of single calls.
//! - *call*: sends the request and waits for its answer, by [`Caller::request`]. The session is chosen when it gets ready.
//! - *drop* of a call's future: its place is free at once; its answer, when it comes, is dropped
//!   and [counted](crate::Stats::late). Where answers come in order, the peer still owes that
//!   answer. Until it comes, the request counts as
//!   [load](crate::ConnectionHandle::given_up_requests) of its session.
//! - *close*: calls in flight fail with [`RequestError::Closed`], which [says](RequestError::left) whether the request had
//!   left. What had not left can safely be tried again, by tower's `retry` for one.
//!
//! Nothing is retried automatically. A call's deadline is the layer's, 30 s by default; tower's
//! `timeout` sets another, and cancels the call.
//!
//! A server that stops answering in order loses its session: a missed deadline [closes the
//! session](crate::layers::CorrelateLayer::with_close_at_deadline) by default, and so do cancelled
//! calls that take all places of the layer without an answer. A [`Client`] then opens the next
//! session. By id a session survives missed deadlines; a
//! [`HeartbeatLayer`](crate::layers::HeartbeatLayer) ends one whose server is gone.
//!
//! # Under tower's middleware
//!
//! - `timeout` is for the call alone, for readiness is waited for before; outside of `buffer` it ends the wait for a
//!   session as well.
//! - `load_shed` refuses what would have to wait, be it for the first session or for the next one.
//! - `buffer` makes one queue of many callers; an error of readiness, which is final here, closes it, and its callers get
//!   that error as its source.
//! - `retry` needs a policy, which knows what may be done twice: what has not [left](RequestError::left) always may.
//! - `balance` chooses by the number of calls in flight and of requests that were given up in
//!   order, and passes over a server while its [`Client`] has no session.
//!
//! ```
//! use std::{future, time::Duration};
//!
//! use getty::{
//!     BoxError, Client, CodecLayer, MultiplexClient, Request, RequestError, ServiceBuilder, SessionLayer,
//!     codec::Lines,
//!     layers::{Correlate, CorrelateLayer, Left},
//!     net::{self, MemoryConnector},
//! };
//! use tower::{ServiceExt, balance::p2c::Balance, discover::ServiceList, retry::Policy};
//!
//! /// Lines such as `7 what`, in both directions.
//! struct Numbers;
//!
//! impl Correlate<String> for Numbers {
//!     fn put(&self, id: u64, message: &mut String) {
//!         message.insert_str(0, &format!("{id} "));
//!     }
//!
//!     fn answers(&self, message: &String) -> Option<u64> {
//!         message.split(' ').next()?.parse().ok()
//!     }
//! }
//!
//! /// Tries again, so many times, what the server cannot have seen.
//! #[derive(Clone)]
//! struct Unseen(usize);
//!
//! impl Policy<String, String, BoxError> for Unseen {
//!     type Future = future::Ready<()>;
//!
//!     fn retry(&mut self, _: &mut String, result: &mut Result<String, BoxError>) -> Option<Self::Future> {
//!         let error = result.as_ref().err()?.downcast_ref::<RequestError<String>>()?;
//!         if error.left() != Left::No {
//!             return None;
//!         }
//!         self.0 = self.0.checked_sub(1)?;
//!         Some(future::ready(()))
//!     }
//!
//!     fn clone_request(&mut self, request: &String) -> Option<String> {
//!         Some(request.clone())
//!     }
//! }
//!
//! fn calls_on(connector: MemoryConnector) -> MultiplexClient<String, String, Client<String>> {
//!     MultiplexClient::new(Client::new(connector, (), |link| {
//!         ServiceBuilder::new()
//!             .layer(CodecLayer::new(Lines::new()))
//!             .layer(CorrelateLayer::new(Numbers))
//!             .layer(link)
//!             .layer(SessionLayer::new())
//!             .service_fn(|_: Request<String>| async { Ok::<Option<String>, BoxError>(None) })
//!     }))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let [first, second] = [(); 2].map(|()| {
//! #     let (listener, connector) = net::memory(1024);
//! #     let echo = ServiceBuilder::new()
//! #         .layer(CodecLayer::new(Lines::new()))
//! #         .layer(SessionLayer::new())
//! #         .service_fn(|request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) });
//! #     tokio::spawn(async move { getty::serve(listener, echo).await });
//! #     connector
//! # });
//! // two servers that answer each line with itself
//! let servers = ServiceList::new(vec![calls_on(first), calls_on(second)]);
//! let calls = ServiceBuilder::new()
//!     .retry(Unseen(2))
//!     .timeout(Duration::from_secs(1))
//!     .buffer(64)
//!     .service(Balance::new(servers));
//! let answer = calls.clone().oneshot("hello".to_owned()).await?;
//! assert!(answer.ends_with(" hello"));
//! # Ok(())
//! # }
//! ```
//!
//! # What is no call
//!
//! What the server says of its own accord is the handler's of the client's own stack: messages that are no answers; and
//! where answers come in order, those that come while no call waits, and those that
//! [`with_push`](crate::layers::CorrelateLayer::with_push) knows.
//!
//! What the server does not answer is [sent](crate::Client::send) by the client or session that the calls are on:
//! [`source`](Calls::source) is that.

mod future;
mod places;
mod source;

use std::{
    any::type_name,
    error::Error,
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_core::Session;
use getty_layers::correlate::{Caller, RequestError};
use tokio_util::sync::ReusableBoxFuture;
use tower::{Service, load::Load};

use self::places::{Place, Places};
pub use self::{future::CallFuture, source::SessionSource};
#[cfg(doc)]
use crate::client::Client;

/// How many calls of a client may be in flight, unless [`Calls::with_in_flight`] says otherwise.
pub const DEFAULT_IN_FLIGHT: usize = 256;

/// A client whose answers carry the id of their request; see the [module](self).
pub type MultiplexClient<In, Out = In, S = Session<Out>> = Calls<Multiplex, In, Out, S>;

/// A client whose answers come in the order of their requests; see the [module](self).
pub type PipelineClient<In, Out = In, S = Session<Out>> = Calls<Pipeline, In, Out, S>;

/// How answers find their requests.
pub trait Kind {
    /// Whether they come in order.
    const ORDERED: bool;
}

/// By id: see [`MultiplexClient`].
#[derive(Clone, Copy, Debug)]
pub enum Multiplex {}

impl Kind for Multiplex {
    const ORDERED: bool = false;
}

/// In order: see [`PipelineClient`].
#[derive(Clone, Copy, Debug)]
pub enum Pipeline {}

impl Kind for Pipeline {
    const ORDERED: bool = true;
}

/// `Sync`, whatever the source's future is: an application keeps clients where many threads see them.
type Waiting<Out> = ReusableBoxFuture<'static, Result<Session<Out>, RequestError<Out>>>;

/// Calls a peer: a service of requests `Out` with responses `In`. It goes by the names of [`MultiplexClient`] and
/// [`PipelineClient`]; see the [module](self). Scope: clones share the bound on calls in flight.
pub struct Calls<K, In, Out, S> {
    source: S,
    /// That of the session at hand.
    caller: Option<Caller<In, Out>>,
    /// While there is no session.
    waiting: Option<Waiting<Out>>,
    places: Places,
    /// From ready to call.
    place: Option<Place>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind, In, Out, S> Calls<K, In, Out, S>
where
    In: Send + 'static,
    Out: Send + 'static,
    S: SessionSource<Out>,
{
    /// Calls on the sessions of `source`.
    pub fn new(source: S) -> Self {
        Self {
            source,
            caller: None,
            waiting: None,
            places: Places::new(DEFAULT_IN_FLIGHT),
            place: None,
            kind: PhantomData,
        }
    }

    /// How many calls may be in flight, by this client and its clones that are made later: with more it is not ready. 256
    /// by default, at least 1. The session's own bound, [`with_in_flight`] of its layer, is to be no less.
    ///
    /// [`with_in_flight`]: crate::layers::CorrelateLayer::with_in_flight
    #[must_use]
    pub fn with_in_flight(mut self, calls: usize) -> Self {
        self.places = Places::new(calls.clamp(1, Places::MOST));
        self.place = None;
        self
    }

    /// Whether there is an open session to call on now: the endpoint's health, whatever becomes of single calls.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.source.pick().is_some()
    }

    /// A session that is open, and its caller.
    fn poll_caller(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError<Out>>> {
        let session = match self.source.pick() {
            Some(session) => session,
            None => {
                let waiting = match &mut self.waiting {
                    Some(waiting) => waiting,
                    None => {
                        // while there is no session the places are others'
                        self.caller = None;
                        self.place = None;
                        self.places.leave();
                        self.waiting
                            .insert(ReusableBoxFuture::new(self.source.wait()))
                    }
                };
                let waited = ready!(waiting.poll(cx));
                self.waiting = None;
                waited?
            }
        };
        self.waiting = None;
        let known = self.caller.as_ref();
        if known.is_none_or(|caller| caller.session().id() != session.id()) {
            self.caller = Caller::of(&session).filter(|caller| caller.is_ordered() == K::ORDERED);
            if self.caller.is_none() && !session.is_closing() {
                let unfit = Unfit {
                    ordered: K::ORDERED,
                };
                return Poll::Ready(Err(RequestError::Unavailable(Arc::new(unfit))));
            }
        }
        if self.caller.is_none() {
            // it has closed in this very moment
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<K, In, Out, S> Calls<K, In, Out, S> {
    /// How many calls are in flight, those that others are ready for included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.places.used()
    }

    /// What gives the sessions.
    pub const fn source(&self) -> &S {
        &self.source
    }
}

impl<K: Kind, In, Out, S> Service<Out> for Calls<K, In, Out, S>
where
    In: Send + 'static,
    Out: Send + 'static,
    S: SessionSource<Out>,
{
    type Response = In;
    type Error = RequestError<Out>;
    type Future = CallFuture<In, Out>;

    /// Reserves a place among the calls in flight, which a call uses and a drop gives back.
    ///
    /// # Errors
    ///
    /// [`RequestError::Closed`] when the one session is closed, and [`RequestError::Unavailable`] when a client has stopped
    /// or given up, or its stack has no suitable [`CorrelateLayer`](crate::layers::CorrelateLayer).
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError<Out>>> {
        let caller = self.caller.as_ref();
        if !caller.is_some_and(|caller| self.source.keeps(caller.session())) {
            ready!(self.poll_caller(cx))?;
        }
        if self.place.is_none() {
            self.place = Some(ready!(self.places.poll_take(cx)));
        }
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// If the service was not polled ready before.
    fn call(&mut self, request: Out) -> CallFuture<In, Out> {
        let (Some(caller), Some(place)) = (&self.caller, self.place.take()) else {
            panic!("a client is to be polled ready before it is called");
        };
        CallFuture::new(caller.request(request), place)
    }
}

/// The calls in flight, and the requests that were given up and whose answers, which come in order,
/// are outstanding. A balancer chooses the client with the lower load, so one whose server has
/// stopped answering is not preferred.
impl<K, In, Out, S: SessionSource<Out>> Load for Calls<K, In, Out, S> {
    type Metric = usize;

    fn load(&self) -> usize {
        let session = self.caller.as_ref().map(Caller::session);
        let open = session.filter(|session| !session.is_closing());
        let here = open.map_or(0, |session| session.given_up_requests());
        self.in_flight() + here.max(self.source.given_up_requests())
    }
}

impl<K, In, Out, S: Clone> Clone for Calls<K, In, Out, S> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            caller: self.caller.clone(),
            waiting: None,
            places: self.places.clone(),
            place: None,
            kind: PhantomData,
        }
    }
}

impl<K, In, Out, S: fmt::Debug> fmt::Debug for Calls<K, In, Out, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("kind", &type_name::<K>())
            .field("source", &self.source)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// The session's stack lacks what the client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unfit {
    ordered: bool,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = if self.ordered {
            "in_order()"
        } else {
            "new(…)"
        };
        write!(
            f,
            "the stack has no `CorrelateLayer::{layer}` for these messages between `CodecLayer` and `SessionLayer`"
        )
    }
}

impl Error for Unfit {}
