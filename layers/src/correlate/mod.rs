//! Asks the peer, and gives each answer to whom it is for: [`Session::request`](getty_core::Session::request).
//!
//! - *ready*: the inner service's.
//! - *call*: gives the session a table of requests that wait, and puts a [`Tap`] behind the codec, which takes the answers
//!   out of what is decoded: they ask for no readiness, take no permit and never reach the handler.
//! - *close*: requests that wait fail as soon as nothing more will be received, each saying whether it had left.
//! - *drop*: nothing of its own.
//!
//! Scope: session. In a stack it stands inside of [`CodecLayer`](crate::CodecLayer), outside of `SessionLayer`. Both sides
//! may have one, and ask each other. An idle session that has asked nothing has two small allocations by it, and three more
//! where answers come in order.
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_core::{Connection, Correlate, HasSession};
//! use getty_layers::{CodecLayer, CorrelateLayer, correlate::{Caller, RequestError}};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! /// Lines such as `ask 7 what` and `answer 7 that`.
//! struct Words;
//!
//! impl Correlate<String> for Words {
//!     fn put(&self, id: u64, message: &mut String) {
//!         message.insert_str(0, &format!("ask {id} "));
//!     }
//!
//!     fn answers(&self, message: &String) -> Option<u64> {
//!         message.strip_prefix("answer ")?.split(' ').next()?.parse().ok()
//!     }
//! }
//!
//! async fn ask<T: HasSession<Out = String>>(connection: Connection<T>) -> Result<(), BoxError> {
//!     let session = connection.transport().session();
//!     let caller: Caller<String> = Caller::of(session).ok_or("the layer is there")?;
//!     session.close();
//!     match caller.request("what".to_owned()).await {
//!         Err(RequestError::Closed { message, .. }) => assert_eq!(message.as_deref(), Some("what")),
//!         other => panic!("it is handed back: {other:?}"),
//!     }
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(CorrelateLayer::new(Words).with_deadline(Duration::from_secs(5)))
//!     .service_fn(ask);
//! stack.oneshot(Connection::new("any transport")).await
//! # }
//! ```
//!
//! # What the peer can do with it
//!
//! An answer to no pending request (late, duplicate or made up) is dropped and
//! [counted](getty_core::Stats::late). The deadline, 30 s by default, ends the wait for a peer that does
//! not answer. In order, it also [closes the session](CorrelateLayer::with_close_at_deadline). By
//! id the session goes on: a request that is given up frees its place, and a protocol may leave
//! requests without an answer. There a [`HeartbeatLayer`](crate::HeartbeatLayer) ends the session
//! of a peer that has stopped answering.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::correlate::{Limits, Shared};
use getty_core::{Connection, ConnectionHandle, Framed};
use tokio_util::codec::Decoder;
use tower_layer::Layer;
use tower_service::Service;

use crate::tap::{Keep, Tap};
pub use getty_core::correlate::{
    Answered, ById, Caller, Correlate, InOrder, Left, Matching, NoPush, Push, RequestError,
    Requesting,
};

/// How long a request waits for its answer, unless [`CorrelateLayer::with_deadline`] or
/// [`Requesting::within`] say otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// How many requests of a session may be in flight, unless [`CorrelateLayer::with_in_flight`] says otherwise.
pub const DEFAULT_IN_FLIGHT: u32 = 1024;

/// Asks the peer, and gives each answer to whom it is for; see the [module](self).
#[derive(Clone, Debug)]
pub struct CorrelateLayer<M> {
    matching: M,
    limits: Limits,
    deadline: Option<Duration>,
}

impl<K> CorrelateLayer<ById<K>> {
    /// Answers carry the id of their request, in whatever order they come; `correlate` knows where.
    pub fn new(correlate: K) -> Self {
        Self::of(ById(Arc::new(correlate)))
    }

    /// How many bits of a message there are for ids: 64 by default, at least 8. The lower ones of them say which of the
    /// requests in flight it is, as many as [`with_in_flight`](Self::with_in_flight) takes; the others are counted up,
    /// from 1, and begin anew when they are used up. With few of those a late answer may find a later request: 16 bits
    /// and the default of 1024 in flight leave 64 ids for each place, with 16 in flight it is 4096. 53 is for peers
    /// that read numbers as JavaScript does, as many do that read JSON.
    #[must_use]
    pub const fn with_id_bits(mut self, bits: u32) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "it is at most 64")]
        let bits = if bits > 64 { 64 } else { bits as u8 };
        self.limits.id_bits = if bits < 8 { 8 } else { bits };
        let in_flight = self.limits.in_flight;
        self.with_in_flight(in_flight)
    }
}

impl CorrelateLayer<InOrder> {
    /// Creates a layer for answers in the order of their requests, as in many line protocols. A
    /// message that comes while a request waits is the answer of the oldest request. Other messages
    /// go to the handler. A request that was given up still gets its answer, which is dropped.
    ///
    /// So every request must have an answer. A request that the peer never answers would get the
    /// answer of the next, and so on to the end of the session. Therefore an answer that has not
    /// come by its deadline [closes the session](Self::with_close_at_deadline) by default, and a
    /// client then opens the next. [Send](getty_core::Session::send) a message that the protocol does
    /// not answer, such as Redis's `SUBSCRIBE`, instead of requesting.
    ///
    /// # Requests that were given up
    ///
    /// A request is given up when its deadline passes or its future is dropped. Its place, of
    /// [`with_in_flight`](Self::with_in_flight), stays taken until its answer comes. Such requests
    /// are [counted](getty_core::ConnectionHandle::given_up_requests) as load. When they take all places
    /// and the peer answers none for a second, or for the layer's deadline if that is shorter, the
    /// session closes as [`CloseReason::AnswerMissed`](getty_core::CloseReason::AnswerMissed), with any
    /// setting.
    ///
    /// Everything else that the peer would answer, such as a heartbeat, must be sent as a request, too, or its answer be
    /// taken out before: by a [`HeartbeatLayer`](crate::HeartbeatLayer) further out, for one.
    #[must_use]
    pub const fn in_order() -> Self {
        Self::of(InOrder(NoPush))
    }

    /// Messages for which `is_push` is true are no answers but what the peer says of its own accord: they are the
    /// handler's. By default none is while a request waits.
    pub fn with_push<In, F>(self, is_push: F) -> CorrelateLayer<InOrder<Push<F>>>
    where
        F: Fn(&In) -> bool,
    {
        CorrelateLayer {
            matching: InOrder(Push(is_push)),
            limits: self.limits,
            deadline: self.deadline,
        }
    }
}

impl<P> CorrelateLayer<InOrder<P>> {
    /// Sets whether an answer that has not come by its request's deadline closes the session, as
    /// [`CloseReason::AnswerMissed`](getty_core::CloseReason::AnswerMissed). This holds for requests
    /// that were given up as well. Requests in flight beside it fail as
    /// [closed](RequestError::Closed). The default is `true`, because the peer may have left out
    /// the answer, and because a session whose peer has stopped answering must end before a client
    /// can open another.
    ///
    /// `false` is for peers that answer every request and may be slower than the deadline: a late
    /// answer is dropped when it comes, and later requests go on. To stop waiting without an effect
    /// on the session, drop the request's future (tokio's or tower's `timeout`) and leave the
    /// deadline as it is.
    ///
    /// The close does not fully protect against a peer that leaves out answers. With one request in
    /// flight at a time no request gets another's answer. With several, each request behind the
    /// missing answer gets the answer of the next, and the last gets none: its deadline closes the
    /// session. The wrong answers continue as long as the next request always comes in time. Only
    /// an id in each message excludes them.
    #[must_use]
    pub const fn with_close_at_deadline(mut self, on: bool) -> Self {
        self.limits.closes_at_deadline = on;
        self
    }
}

impl<M> CorrelateLayer<M> {
    const fn of(matching: M) -> Self {
        Self {
            matching,
            limits: Limits {
                in_flight: DEFAULT_IN_FLIGHT,
                id_bits: 64,
                closes_at_deadline: true,
            },
            deadline: Some(DEFAULT_DEADLINE),
        }
    }

    /// How long a request waits for its answer, the wait for room in the queue included. 30 s by default; `None` is until
    /// the session ends. [`Requesting::within`] sets it for one request.
    #[must_use]
    pub fn with_deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Sets how many requests may be in flight: one more is [refused](RequestError::Full). In
    /// order, requests that were [given up](CorrelateLayer::in_order) are counted as well. The
    /// default is 1024; at least 1, at most 65,536 and half of what the [bits for
    /// ids](CorrelateLayer::with_id_bits) allow.
    #[must_use]
    pub const fn with_in_flight(mut self, requests: u32) -> Self {
        let most = if self.limits.id_bits > 16 {
            1 << 16
        } else {
            1 << (self.limits.id_bits - 1)
        };
        self.limits.in_flight = if requests == 0 {
            1
        } else if requests > most {
            most
        } else {
            requests
        };
        self
    }
}

impl<S, M: Clone> Layer<S> for CorrelateLayer<M> {
    type Service = Correlated<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        Correlated::new(inner, self.clone())
    }
}

/// The service that [`CorrelateLayer`] makes.
#[derive(Clone, Debug)]
pub struct Correlated<S, M> {
    inner: S,
    layer: CorrelateLayer<M>,
}

impl<S, M> Correlated<S, M> {
    /// Wraps `inner` as `layer` says.
    pub const fn new(inner: S, layer: CorrelateLayer<M>) -> Self {
        Self { inner, layer }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, M, T, C, Out> Service<Connection<Framed<T, C, Out>>> for Correlated<S, M>
where
    C: Decoder<Item: Send + 'static>,
    M: Matching<C::Item, Out> + Clone,
    S: Service<Connection<Framed<T, Tap<C, Answers<C::Item, Out, M>>, Out>>>,
    Out: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<Framed<T, C, Out>>) -> S::Future {
        let CorrelateLayer {
            matching,
            limits,
            deadline,
        } = &self.layer;
        let shared = Arc::new(Shared::new(*limits, matching.clone(), *deadline));
        let handle = connection.handle().clone();
        handle.insert(Arc::clone(&shared));
        if matching.is_ordered() {
            shared.guard(&handle);
        }
        let answers = Answers {
            shared,
            matching: matching.clone(),
            handle,
        };
        self.inner.call(
            connection.map_transport(|framed| framed.map_decoder(|codec| Tap::new(codec, answers))),
        )
    }
}

/// Takes answers out of what is decoded, for whom they are for.
pub struct Answers<In, Out, M> {
    shared: Arc<Shared<In, Out>>,
    matching: M,
    handle: ConnectionHandle,
}

impl<In, Out, M: Matching<In, Out>> Keep<In> for Answers<In, Out, M> {
    #[inline]
    fn keep(&mut self, message: In) -> Option<In> {
        match self.matching.answered(&message) {
            Some(which) => self.shared.answer(which, message, &self.handle),
            None => Some(message),
        }
    }
}

impl<In, Out, M: fmt::Debug> fmt::Debug for Answers<In, Out, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("matching", &self.matching)
            .field("connection", &self.handle)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;
    use crate::testing::{assert_transparent, framed};

    struct Numbers;

    impl Correlate<String> for Numbers {
        fn put(&self, id: u64, message: &mut String) {
            *message = id.to_string();
        }

        fn answers(&self, message: &String) -> Option<u64> {
            message.parse().ok()
        }
    }

    #[tokio::test]
    async fn around_a_service_it_is_transparent() {
        assert_transparent(&CorrelateLayer::new(Numbers), framed);
        assert_transparent(&CorrelateLayer::in_order(), framed);
        let pushes = CorrelateLayer::in_order().with_push(String::is_empty);
        assert_transparent(&pushes, framed);
    }

    #[test]
    fn limits_are_kept_within_what_ids_can_tell() {
        let in_flight = |layer: CorrelateLayer<_>| layer.limits.in_flight;
        let layer = || CorrelateLayer::new(Numbers);
        assert_eq!(in_flight(layer().with_in_flight(0)), 1);
        assert_eq!(in_flight(layer().with_in_flight(u32::MAX)), 65_536);
        assert_eq!(in_flight(layer().with_id_bits(0)), 128);
        assert_eq!(in_flight(layer().with_id_bits(16)), 1024);
        assert_eq!(in_flight(layer().with_id_bits(8).with_in_flight(500)), 128);
        assert_eq!(layer().with_id_bits(100).limits.id_bits, 64);
    }
}
