//! Clients as tower services: a call is a request, and its response is the peer's answer.
//!
//! [`MultiplexClient`] is for protocols whose responses carry the id of their request.
//! [`PipelineClient`] is for protocols whose responses come in the order of the requests. Both
//! need a stack with a [`CorrelateLayer`](crate::layers::CorrelateLayer) of the same kind. They
//! take sessions from a [`SessionSource`]: a single [`Session`], or a [`Client`] that
//! reconnects. They are `Clone`, `Send` and `Sync`, and work under tower's `buffer`, `retry`,
//! `timeout`, `load_shed` and `balance`:
//!
//! ```
//! use std::time::Duration;
//!
//! use getty::{
//!     BoxError, Client, CodecLayer, PipelineClient, Request, Service,
//!     ServiceBuilder, SessionLayer,
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
//! // a server that responds to each line in capitals
//! let client = Client::new(connector, (), |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(Lines::new()))
//!         .layer(CorrelateLayer::in_order())
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         // messages that arrive while no call awaits a response
//!         .service_fn(|_: Request<String>| async { Ok::<Option<String>, BoxError>(None) })
//! });
//! let mut calls = ServiceBuilder::new()
//!     .timeout(Duration::from_secs(1))
//!     .service(PipelineClient::new(client));
//!
//! let response: String = calls.ready().await?.call("hello".to_owned()).await?;
//! assert_eq!(response, "HELLO");
//! # Ok(())
//! # }
//! ```
//!
//! Name the type of the responses where it cannot be inferred:
//! `PipelineClient::<Response, _, _>::new(client)`. The type of a field is
//! `PipelineClient<Response, Request, Client<Request>>`. Tasks share a client by cloning it.
//! `calls.clone().oneshot(request)` makes a call in one line.
//!
//! # Ready, call, drop, close
//!
//! - *ready*: when a session is open and fewer calls are in flight than the
//!   [limit](RequestClient::with_in_flight) allows. Readiness reserves a permit. The call uses
//!   it, or a drop returns it. Readiness is pending while no session is open but another can
//!   open. It is an error once no session will open any more, so that a balancer fails over.
//!   Failures of single calls do not affect readiness.
//! - *call*: sends the request and waits for its response, as [`Caller::request`] does. The
//!   session is chosen when the service becomes ready.
//! - *drop*: dropping a call's future returns its permit at once. A response that arrives later
//!   is dropped and [counted](crate::Stats::late). Where responses come in order, the peer must
//!   still send that response. Until it arrives, the request counts as
//!   [load](crate::ConnectionHandle::abandoned_requests) of its session.
//! - *close*: calls in flight fail with [`RequestError::Closed`]. Its
//!   [`delivery`](RequestError::delivery) states whether the request was sent. A request that
//!   was not sent can be retried safely, for example by tower's `retry`.
//!
//! Nothing is retried automatically. The deadline of a call is the layer's; the default is
//! 30 s. tower's `timeout` sets a shorter one and cancels the call.
//!
//! A server that stops answering in order loses its session. A missed deadline
//! [closes the session](crate::layers::CorrelateLayer::with_close_at_deadline) by default. So
//! do cancelled calls that use up the layer's limit while no response arrives. A [`Client`]
//! then opens the next session. With responses by id, a session survives missed deadlines; a
//! [`HeartbeatLayer`](crate::layers::HeartbeatLayer) closes it if the server is gone. While
//! calls are sent all the time no heartbeat is due, and an
//! [`IdleTimeoutLayer`](crate::layers::IdleTimeoutLayer) closes it.
//!
//! # Under tower's middleware
//!
//! `timeout`, `load_shed` and `concurrency_limit` are always available. `buffer`, `retry` and
//! `balance` need a dependency on tower with the features of these names:
//!
//! ```toml
//! tower = { version = "0.5", features = ["balance", "buffer", "retry"] }
//! ```
//!
//! - `timeout` applies to the call and not to the wait for readiness. Outside `buffer` it also
//!   bounds the wait for a session.
//! - `load_shed` refuses calls that would have to wait for a session.
//! - `buffer` merges the callers into one queue. An error of readiness is final here, so it
//!   closes the queue. Its callers receive that error as the source.
//! - `retry` needs a policy that knows which requests are safe to repeat. A request that was
//!   not [sent](RequestError::delivery) always is.
//! - `balance` prefers the client with the lower load: calls in flight, and requests that were
//!   given up in order. It skips a server while its [`Client`] has no session.
//!
//! ```
//! use std::{future, time::Duration};
//!
//! use getty::{
//!     BoxError, Client, CodecLayer, MultiplexClient, Request, RequestError,
//!     ServiceBuilder, SessionLayer,
//!     codec::Lines,
//!     layers::{Correlate, CorrelateLayer, Delivery},
//!     net::{self, MemoryConnector},
//! };
//! use tower::{ServiceExt, balance::p2c::Balance, discover::ServiceList, retry::Policy};
//!
//! /// Lines such as `7 status`, in both directions.
//! struct Numbers;
//!
//! impl Correlate<String> for Numbers {
//!     fn put(&self, id: u64, message: &mut String) {
//!         message.insert_str(0, &format!("{id} "));
//!     }
//!
//!     fn response_id(&self, message: &String) -> Option<u64> {
//!         message.split(' ').next()?.parse().ok()
//!     }
//! }
//!
//! /// Retries requests that the server cannot have received, up to a number of times.
//! #[derive(Clone)]
//! struct Unseen(usize);
//!
//! impl Policy<String, String, BoxError> for Unseen {
//!     type Future = future::Ready<()>;
//!
//!     fn retry(&mut self, _: &mut String, result: &mut Result<String, BoxError>) -> Option<Self::Future> {
//!         let error = result.as_ref().err()?.downcast_ref::<RequestError<String>>()?;
//!         if error.delivery() != Delivery::NotSent {
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
//! // two servers that echo each line
//! let servers = ServiceList::new(vec![calls_on(first), calls_on(second)]);
//! let calls = ServiceBuilder::new()
//!     .retry(Unseen(2))
//!     .timeout(Duration::from_secs(1))
//!     .buffer(64)
//!     .service(Balance::new(servers));
//! let response = calls.clone().oneshot("hello".to_owned()).await?;
//! assert!(response.ends_with(" hello"));
//! # Ok(())
//! # }
//! ```
//!
//! # Messages outside calls
//!
//! Messages that the server sends unprompted go to the handler of the client's stack. By id,
//! these are messages that answer no request. In order, these are messages that arrive while no
//! call waits, and messages that [`with_push`](crate::layers::CorrelateLayer::with_push)
//! identifies.
//!
//! Messages without a response are [sent](crate::Client::send) by the client or session under
//! the calls, which [`source`](RequestClient::source) returns.

mod future;

mod source;

use std::{
    any::type_name,
    error::Error,
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_core::{
    Session,
    sync::{InFlightLimit, Permit},
};
use getty_layers::correlate::{Caller, RequestError};
use tokio_util::sync::ReusableBoxFuture;
use tower::{Service, load::Load};

pub use self::{future::CallFuture, source::SessionSource};
#[cfg(doc)]
use crate::client::Client;

/// Default limit of [`RequestClient::with_in_flight`], in calls.
pub const DEFAULT_IN_FLIGHT: usize = 256;

/// Client for protocols whose responses carry the id of their request; see the [module](self).
pub type MultiplexClient<In, Out = In, S = Session<Out>> = RequestClient<ById, In, Out, S>;

/// Client for protocols whose responses come in the order of the requests; see the
/// [module](self).
pub type PipelineClient<In, Out = In, S = Session<Out>> = RequestClient<InOrder, In, Out, S>;

/// Order of the responses of a [`RequestClient`]: [`ById`] or [`InOrder`].
pub trait ResponseOrder {
    /// `true` if responses come in the order of the requests.
    const ORDERED: bool;
}

/// Responses in any order, matched by id: see [`MultiplexClient`].
#[derive(Clone, Copy, Debug)]
pub enum ById {}

impl ResponseOrder for ById {
    const ORDERED: bool = false;
}

/// Responses in the order of the requests: see [`PipelineClient`].
#[derive(Clone, Copy, Debug)]
pub enum InOrder {}

impl ResponseOrder for InOrder {
    const ORDERED: bool = true;
}

/// Wait for the next session. It is `Sync` even if the source's future is not, so that a client
/// can be stored where several threads use it.
type NextSession<Out> = ReusableBoxFuture<'static, Result<Session<Out>, RequestError<Out>>>;

/// Service that sends requests `Out` to a peer and returns its responses `In`.
///
/// [`MultiplexClient`] and [`PipelineClient`] are aliases of this type; see the [module](self).
/// Scope: clones share the limit on calls in flight.
pub struct RequestClient<K, In, Out, S> {
    source: S,
    /// Caller of the current session.
    caller: Option<Caller<In, Out>>,
    /// Present while no session is open.
    next_session: Option<NextSession<Out>>,
    // (design.md: Why does a client not limit calls with a semaphore?)
    limit: InFlightLimit,
    /// Held from readiness to the call.
    permit: Option<Permit>,
    order: PhantomData<fn() -> K>,
}

impl<K: ResponseOrder, In, Out, S> RequestClient<K, In, Out, S>
where
    In: Send + 'static,
    Out: Send + 'static,
    S: SessionSource<Out>,
{
    /// Creates a new client for the sessions of `source`.
    pub fn new(source: S) -> Self {
        Self {
            source,
            caller: None,
            next_session: None,
            limit: InFlightLimit::new(DEFAULT_IN_FLIGHT),
            permit: None,
            order: PhantomData,
        }
    }

    /// Sets the maximum number of calls in flight, of this client and its later clones. At the
    /// limit the client is not ready. The default is 256; the minimum is 1. The limit of the
    /// session's layer, [`with_in_flight`], should not be lower.
    ///
    /// [`with_in_flight`]: crate::layers::CorrelateLayer::with_in_flight
    #[must_use]
    pub fn with_in_flight(mut self, calls: usize) -> Self {
        self.limit = InFlightLimit::new(calls.clamp(1, InFlightLimit::MAX));
        self.permit = None;
        self
    }

    /// Returns `true` if a session is open. This is the health of the endpoint; failures of single
    /// calls do not affect it.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.source.pick().is_some()
    }

    /// Polls for an open session and stores its caller.
    fn poll_caller(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError<Out>>> {
        let session = match self.source.pick() {
            Some(session) => session,
            None => {
                let next_session = match &mut self.next_session {
                    Some(next_session) => next_session,
                    None => {
                        // Clones that have a session can use the permit meanwhile.
                        self.caller = None;
                        self.permit = None;
                        self.limit.cancel();
                        self.next_session
                            .insert(ReusableBoxFuture::new(self.source.wait()))
                    }
                };
                let session = ready!(next_session.poll(cx));
                self.next_session = None;
                session?
            }
        };
        self.next_session = None;
        let current = self.caller.as_ref();
        if current.is_none_or(|caller| caller.session().id() != session.id()) {
            self.caller = Caller::of(&session).filter(|caller| caller.is_ordered() == K::ORDERED);
            if self.caller.is_none() && !session.is_closing() {
                let missing = MissingLayer {
                    ordered: K::ORDERED,
                };
                return Poll::Ready(Err(RequestError::Unavailable(Arc::new(missing))));
            }
        }
        if self.caller.is_none() {
            // The session has just closed. Look for the next one.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<K, In, Out, S> RequestClient<K, In, Out, S> {
    /// Returns the number of calls in flight, including the permits of clones that are ready.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.limit.used()
    }

    /// Returns the source of the sessions.
    pub const fn source(&self) -> &S {
        &self.source
    }
}

impl<K: ResponseOrder, In, Out, S> Service<Out> for RequestClient<K, In, Out, S>
where
    In: Send + 'static,
    Out: Send + 'static,
    S: SessionSource<Out>,
{
    type Response = In;
    type Error = RequestError<Out>;
    type Future = CallFuture<In, Out>;

    /// Reserves a permit for a call, which the call uses or a drop returns.
    ///
    /// # Errors
    ///
    /// Returns [`RequestError::Closed`] if the source is a single session that is closed. Returns
    /// [`RequestError::Unavailable`] if a client has stopped or given up, or if the stack has no
    /// suitable [`CorrelateLayer`](crate::layers::CorrelateLayer).
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError<Out>>> {
        let caller = self.caller.as_ref();
        if !caller.is_some_and(|caller| self.source.keeps(caller.session())) {
            ready!(self.poll_caller(cx))?;
        }
        if self.permit.is_none() {
            self.permit = Some(ready!(self.limit.poll_acquire(cx)));
        }
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// If the service was not polled ready since the last call.
    fn call(&mut self, request: Out) -> CallFuture<In, Out> {
        let (Some(caller), Some(permit)) = (&self.caller, self.permit.take()) else {
            panic!("a client must be polled ready before it is called");
        };
        CallFuture::new(caller.request(request), permit)
    }
}

/// Calls in flight plus abandoned requests. Responses to the latter must still arrive if they
/// come in order.
///
/// A balancer chooses the client with the lower load, so it does not prefer one whose server
/// has stopped answering.
impl<K, In, Out, S: SessionSource<Out>> Load for RequestClient<K, In, Out, S> {
    type Metric = usize;

    fn load(&self) -> usize {
        let session = self.caller.as_ref().map(Caller::session);
        let open = session.filter(|session| !session.is_closing());
        let given_up = open.map_or(0, |session| session.abandoned_requests());
        self.in_flight() + given_up.max(self.source.abandoned_requests())
    }
}

impl<K, In, Out, S: Clone> Clone for RequestClient<K, In, Out, S> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            caller: self.caller.clone(),
            next_session: None,
            limit: self.limit.clone(),
            permit: None,
            order: PhantomData,
        }
    }
}

impl<K, In, Out, S: fmt::Debug> fmt::Debug for RequestClient<K, In, Out, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestClient")
            .field("order", &type_name::<K>())
            .field("source", &self.source)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// Error of a session whose stack has no [`CorrelateLayer`](crate::layers::CorrelateLayer) of
/// the client's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MissingLayer {
    ordered: bool,
}

impl fmt::Display for MissingLayer {
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

impl Error for MissingLayer {}
