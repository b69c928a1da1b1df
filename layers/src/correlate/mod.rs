//! Matches responses to requests sent with [`Session::request`](getty_core::Session::request).
//!
//! - *ready*: as the inner service.
//! - *call*: gives the session a table of pending requests, and adds a [`FilterMap`] to the
//!   codec, which removes responses from the decoded messages. They poll no readiness, take no
//!   permit and never reach the handler.
//! - *close*: pending requests fail as soon as nothing more will be received. Each error
//!   contains whether the request was sent.
//! - *drop*: drops the inner future.
//!
//! Scope: session. It must be inside [`CodecLayer`](crate::CodecLayer) and outside
//! `SessionLayer`. Both peers may use it to send requests to each other. An idle session
//! without requests has two small allocations for it, and three more if responses come in
//! order.
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_core::{Connection, Correlate, HasSession};
//! use getty_layers::{CodecLayer, CorrelateLayer, correlate::{Caller, RequestError}};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! /// Lines such as `ask 7 time` and `answer 7 noon`.
//! struct Words;
//!
//! impl Correlate<String> for Words {
//!     fn put(&self, id: u64, message: &mut String) {
//!         message.insert_str(0, &format!("ask {id} "));
//!     }
//!
//!     fn response_id(&self, message: &String) -> Option<u64> {
//!         message.strip_prefix("answer ")?.split(' ').next()?.parse().ok()
//!     }
//! }
//!
//! async fn ask<T: HasSession<Out = String>>(connection: Connection<T>) -> Result<(), BoxError> {
//!     let session = connection.transport().session();
//!     let caller: Caller<String> = Caller::of(session).ok_or("no `CorrelateLayer`")?;
//!     session.close();
//!     match caller.request("time".to_owned()).await {
//!         Err(RequestError::Closed { message, .. }) => assert_eq!(message.as_deref(), Some("time")),
//!         other => panic!("the request was not returned: {other:?}"),
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
//! # Misbehaving peers
//!
//! A response without a pending request (late, duplicate or invented) is dropped and
//! [counted](getty_core::Stats::late). The deadline, 30 s by default, ends the wait for a peer
//! that does not respond. With responses in order, it also [closes the
//! session](CorrelateLayer::with_close_at_deadline). With responses by id the session
//! continues, because an abandoned request frees its slot, and a protocol may leave requests
//! without a response. Use a [`HeartbeatLayer`](crate::HeartbeatLayer) there to end the session
//! of a peer that has stopped responding, and an
//! [`IdleTimeoutLayer`](crate::IdleTimeoutLayer) beside it: a session that sends requests all
//! the time sends no heartbeats.

mod filter;
use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{
    Connection, SessionIo,
    correlate::{Correlator, Limits},
};
use tokio_util::codec::Decoder;
use tower_layer::Layer;
use tower_service::Service;

pub use self::filter::ResponseFilter;
pub use getty_core::correlate::{
    ById, Caller, Correlate, Delivery, InOrder, Matching, NoPush, Push, RequestError, Requesting,
    ResponseTo,
};

use crate::filter_map::FilterMap;

/// Default time that a request waits for its response: 30 s; see
/// [`CorrelateLayer::with_deadline`] and [`Requesting::within`].
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// Default maximum of requests in flight per session: 1024; see
/// [`CorrelateLayer::with_in_flight`].
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 1024;

/// Matches responses to requests; see the [module](self).
///
/// `M` is [`ById`] or [`InOrder`].
#[doc(alias = "rpc")]
#[doc(alias = "multiplex")]
#[doc(alias = "pipelining")]
#[derive(Clone, Debug)]
pub struct CorrelateLayer<M> {
    matching: M,
    limits: Limits,
    deadline: Option<Duration>,
}

impl<K> CorrelateLayer<ById<K>> {
    /// Creates a new layer for responses that contain the id of their request and may come in any
    /// order. `correlate` reads and writes the ids.
    pub fn new(correlate: K) -> Self {
        Self::of(ById(Arc::new(correlate)))
    }

    /// Sets the number of bits of an id in a message, from 8 to 64. The default is 64.
    ///
    /// The lower bits are the slot of the request, as many as
    /// [`with_in_flight`](Self::with_in_flight) needs. The upper bits count up from 1 and
    /// wrap around. With few upper bits a late response may match a later request: 16 bits and 1024
    /// requests in flight leave 64 ids for each slot, 16 requests in flight leave 4096. Use 53 for
    /// peers that parse numbers as JavaScript does, which is common with JSON.
    // The slot in the lower bits finds a request without a map (design.md: Why do request ids have
    // the slot in their lower bits?).
    #[must_use]
    pub const fn with_id_bits(mut self, bits: u32) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the value is at most 64")]
        let bits = if bits > 64 { 64 } else { bits as u8 };
        self.limits.id_bits = if bits < 8 { 8 } else { bits };
        let in_flight = self.limits.in_flight;
        self.with_in_flight(in_flight)
    }
}

impl CorrelateLayer<InOrder> {
    /// Creates a new layer for responses in the order of their requests, as in many line protocols.
    ///
    /// A message that is received while a request is pending is the response to the oldest request.
    /// Other messages reach the handler. An abandoned request still gets its response, which is
    /// dropped.
    ///
    /// So every request must have a response. Otherwise the request would get the response to the
    /// next request, and so on until the end of the session. Therefore a response that has not come
    /// by its deadline [closes the session](Self::with_close_at_deadline) by default, and a client
    /// then opens the next one. If the protocol does not respond to a message, such as Redis's
    /// `SUBSCRIBE`, [send](getty_core::Session::send) it instead of requesting.
    ///
    /// # Abandoned requests
    ///
    /// A request is abandoned when its deadline passes or its future is dropped. Its slot, of
    /// [`with_in_flight`](Self::with_in_flight), stays in use until its response comes.
    /// Abandoned requests [count](getty_core::ConnectionHandle::abandoned_requests) as load. If
    /// they use all slots and the peer responds to none for a second, or for the layer's deadline
    /// if that is shorter, the session closes as
    /// [`CloseReason::AnswerMissed`](getty_core::CloseReason::AnswerMissed), with any setting.
    ///
    /// Everything else that the peer responds to, such as a heartbeat, must be sent as a request as
    /// well, or its response must be removed first, for example by a
    /// [`HeartbeatLayer`](crate::HeartbeatLayer) outside this layer.
    // No slot of a full table would become free again (design.md: Why does a table full of
    // abandoned requests close the session?).
    #[must_use]
    pub const fn in_order() -> Self {
        Self::of(InOrder(NoPush))
    }

    /// Sets a predicate for messages that are not responses because the peer sends them without a
    /// request. They reach the handler. The default is none: while a request is pending, every
    /// message is a response.
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
    /// Sets whether a missing response closes the session at the deadline of its request, as
    /// [`CloseReason::AnswerMissed`](getty_core::CloseReason::AnswerMissed). The default is `true`.
    ///
    /// This applies to abandoned requests as well. Other requests in flight then fail as
    /// [closed](RequestError::Closed). The default is `true` because the peer may have skipped the
    /// response, and because the session of a peer that has stopped responding must end before a
    /// client can open another.
    ///
    /// Use `false` for peers that respond to every request but may be slower than the deadline. A
    /// late response is dropped when it comes, and later requests continue. To stop waiting without
    /// an effect on the session, drop the request's future (for example by tokio's or tower's
    /// `timeout`) and do not change the deadline.
    ///
    /// The close does not fully protect against a peer that skips responses. With one request in
    /// flight at a time no request gets the response to another. With several, each request behind
    /// the missing response gets the response to the next, and the last gets none, so its deadline
    /// closes the session. The wrong matches continue as long as the next request always comes in
    /// time. Only an id in each message prevents them.
    // After a skipped response all later responses would match wrong requests (design.md: Why does
    // a missed deadline close a session whose responses come in order?).
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
                in_flight: DEFAULT_MAX_IN_FLIGHT,
                id_bits: 64,
                closes_at_deadline: true,
            },
            deadline: Some(DEFAULT_DEADLINE),
        }
    }

    /// Sets the time that a request waits for its response, including the wait for room in the
    /// queue. The default is 30 s. `None` waits until the session ends.
    ///
    /// [`Requesting::within`] sets it for one request.
    #[must_use]
    pub fn with_deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Sets the maximum of requests in flight. One more is [refused](RequestError::Full). The
    /// default is 1024.
    ///
    /// With responses in order, [abandoned](CorrelateLayer::in_order) requests count as well. The
    /// minimum is 1. The maximum is 65,536, and half of the number of ids that the
    /// [bits](CorrelateLayer::with_id_bits) allow.
    #[must_use]
    pub const fn with_in_flight(mut self, requests: u32) -> Self {
        let max = if self.limits.id_bits > 16 {
            1 << 16
        } else {
            1 << (self.limits.id_bits - 1)
        };
        self.limits.in_flight = if requests == 0 {
            1
        } else if requests > max {
            max
        } else {
            requests
        };
        self
    }
}

impl<S, M: Clone> Layer<S> for CorrelateLayer<M> {
    type Service = Correlated<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        Correlated {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`CorrelateLayer`].
#[derive(Clone, Debug)]
pub struct Correlated<S, M> {
    inner: S,
    layer: CorrelateLayer<M>,
}

impl<S, M> Correlated<S, M> {
    getty_core::inner_service_accessors!();
}

impl<S, M, T, C, Out> Service<Connection<SessionIo<T, C, Out>>> for Correlated<S, M>
where
    C: Decoder<Item: Send + 'static>,
    M: Matching<C::Item, Out> + Clone,
    S: Service<Connection<SessionIo<T, FilterMap<C, ResponseFilter<C::Item, Out, M>>, Out>>>,
    Out: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<SessionIo<T, C, Out>>) -> S::Future {
        let CorrelateLayer {
            matching,
            limits,
            deadline,
        } = &self.layer;
        let shared = Arc::new(Correlator::new(*limits, matching.clone(), *deadline));
        let handle = connection.handle().clone();
        // Requests find the table as an attribute (design.md: Why does a request without
        // `CorrelateLayer` fail at run time?).
        handle.insert(Arc::clone(&shared));
        if matching.is_ordered() {
            shared.guard(&handle);
        }
        let filter = ResponseFilter::new(shared, matching.clone(), handle);
        self.inner.call(
            connection
                .map_transport(|framed| framed.map_decoder(|codec| FilterMap::new(codec, filter))),
        )
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_test::assert_layer_contract;

    use super::*;
    use crate::testing::framed;

    struct Numbers;

    impl Correlate<String> for Numbers {
        fn put(&self, id: u64, message: &mut String) {
            *message = id.to_string();
        }

        fn response_id(&self, message: &String) -> Option<u64> {
            message.parse().ok()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&CorrelateLayer::new(Numbers), framed).await;
        assert_layer_contract(&CorrelateLayer::in_order(), framed).await;
        let pushes = CorrelateLayer::in_order().with_push(String::is_empty);
        assert_layer_contract(&pushes, framed).await;
    }

    #[test]
    fn limits_are_clamped_to_the_range_of_ids() {
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
