//! Sends heartbeats, and closes sessions whose peer does not respond.
//!
//! - *ready*: as the inner service.
//! - *call*: registers a deadline with the session and calls the inner service. It creates no
//!   timer and costs nothing per message.
//! - *drop*: drops the inner future.
//! - *close*: with [`with_response_timeout`](HeartbeatLayer::with_response_timeout), if nothing
//!   is received within that time after a heartbeat, the session closes gracefully as
//!   [`CloseReason::HeartbeatMissed`](getty_core::CloseReason::HeartbeatMissed). No heartbeats
//!   are sent while it closes.
//!
//! A heartbeat is due when nothing was *sent* for a period; a session that sends needs none.
//! Received bytes do not postpone a heartbeat, but any received byte is a response, not only a
//! pong.
//!
//! A session that sends all the time therefore notices a peer that is gone only when the
//! transport takes no more bytes. An [`IdleTimeoutLayer`](crate::IdleTimeoutLayer) beside the
//! heartbeats notices it, because nothing is received.
//!
//! While the peer does not read, heartbeats are skipped. They would wait behind the bytes that
//! they should replace, and a peer that reads again would receive every one. A skipped
//! heartbeat counts like a sent one. The next is due a full period later, and a response is
//! expected too because a peer that neither reads nor sends is gone. While pending bytes move
//! slowly, the time for the response starts at the last byte that the transport accepted. While
//! the session itself does not read, no response can be missed; the time restarts when it reads
//! again.
//!
//! Late heartbeats never come in bursts. Each session delays its heartbeats by a random part of
//! a tenth of the period, its [jitter](HeartbeatLayer::with_jitter).
//!
//! Scope: session. It must be between `CodecLayer` and `SessionLayer`. With
//! [`with_pong`](HeartbeatLayer::with_pong) it changes the codec: layers outside it see the
//! original codec, layers inside it see no pongs. Several may be stacked.
//!
//! ```
//! use std::{task::{Context, Waker}, time::Duration};
//!
//! use getty_core::{Connection, SessionIo};
//! use getty_layers::{CodecLayer, HeartbeatLayer};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(HeartbeatLayer::new(Duration::from_secs(15), |_session| "PING".to_owned()))
//!     // in place of `SessionLayer`
//!     .service_fn(|connection: Connection<SessionIo<&'static str, LinesCodec, String>>| async move {
//!         let (framed, _guard) = connection.into_parts();
//!         let mut driver = framed.into_parts().driver;
//!         let context = Context::from_waker(Waker::noop());
//!         driver.register(&context);
//!         let due = driver.next_deadline().ok_or("no heartbeat")?;
//!         driver.run_deadlines(due);
//!         driver.register(&context);
//!         Ok::<_, BoxError>(driver.next_outgoing().and_then(|outgoing| outgoing.into_message()))
//!     });
//! let beat = stack.oneshot(Connection::new("any transport")).await?;
//! assert_eq!(beat.as_deref(), Some("PING"));
//! # Ok(())
//! # }
//! ```

mod beat;
mod pong;
mod schedule;

use std::{
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{
    Connection, ConnectionHandle, HasSession, Session, SessionIo,
    hooks::{Contained, HandleExt, Setting},
};
use tokio_util::codec::Decoder;
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    beat::{Beat, Message, OptionalMessage, Ping},
    pong::PongFilter,
};

use self::schedule::Schedule;
use crate::{
    configure::{Configure, Configured},
    filter_map::FilterMap,
    util::Jitter,
};

/// Default fraction of a period by which heartbeats may be late; see
/// [`HeartbeatLayer::with_jitter`].
pub const DEFAULT_JITTER: f64 = 0.1;

/// Sends a message when nothing was sent for a period; see the [module](self).
///
/// `Out` is the type of sent messages, `B` the kind of [heartbeat](Beat), and `P` is [`Pong`]
/// or [`NoPong`]. They are inferred.
#[doc(alias = "keepalive")]
#[doc(alias = "ping")]
#[doc(alias = "pong")]
pub struct HeartbeatLayer<Out, B, P = NoPong> {
    beat: Contained<B>,
    pong: Contained<P>,
    schedule: Schedule,
    out: PhantomData<fn(Out)>,
}

/// Marker of a [`HeartbeatLayer`] that passes every message to the handler. This is the
/// default.
#[derive(Clone, Copy, Debug)]
pub struct NoPong;

/// Predicate of a [`HeartbeatLayer`] that removes pongs; see [`HeartbeatLayer::with_pong`].
#[derive(Clone)]
pub struct Pong<M>(M);

impl<M> fmt::Debug for Pong<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pong")
            .field(&std::any::type_name::<M>())
            .finish()
    }
}

// No type parameter is open, so `HeartbeatLayer::set_period` needs no annotation.
impl HeartbeatLayer<(), Ping> {
    /// Sets the period of one session while it is open. The default is the layer's.
    ///
    /// Returns `true` if the session has a `HeartbeatLayer` of any kind. Without one, and once the
    /// session is closing, nothing changes and this function returns `false`. If the layer is
    /// stacked, all of them get the period. The [jitter](HeartbeatLayer::with_jitter) applies to
    /// it, and the [response timeout](HeartbeatLayer::with_response_timeout) stays.
    ///
    /// It may be called at any time and from any thread, such as from a handler or an open hook.
    /// The period takes effect in the next poll of the session loop, which is woken. If nothing was
    /// sent for longer than the new period, a heartbeat is sent in that poll. A period below one
    /// millisecond is one millisecond, and [`Duration::MAX`] stops the heartbeats.
    ///
    /// ```
    /// use std::time::Duration;
    /// use getty_core::Session;
    /// use getty_layers::HeartbeatLayer;
    ///
    /// /// A peer behind a NAT has found out how long its binding lasts.
    /// fn on_nat_timeout(session: &Session<String>, seconds: u64) -> bool {
    ///     HeartbeatLayer::set_period(session, Duration::from_secs(seconds) / 2)
    /// }
    /// # let _ = on_nat_timeout;
    /// ```
    pub fn set_period(session: &ConnectionHandle, period: Duration) -> bool {
        session.set_setting(Setting::HeartbeatPeriod, period)
    }
}

impl<Out, B> HeartbeatLayer<Out, B> {
    const fn of(beat: B, period: Duration) -> Self {
        Self {
            beat: Contained::new(beat),
            pong: Contained::new(NoPong),
            schedule: Schedule {
                period,
                jitter: Jitter::new(DEFAULT_JITTER),
                response: None,
            },
            out: PhantomData,
        }
    }
}

impl<Out, F> HeartbeatLayer<Out, Message<F>> {
    /// Creates a new layer that sends the message returned by `beat` if nothing was sent for
    /// `period`.
    ///
    /// The message is queued without waiting, like other messages. `beat` runs in the session's
    /// task, so it must not block. A period below one millisecond is one millisecond. A period
    /// beyond the range of the clock will never end.
    // This bound on the closure makes its argument type inferable.
    pub const fn new(period: Duration, beat: F) -> Self
    where
        F: Fn(&Session<Out>) -> Out,
    {
        Self::of(Message(beat), period)
    }
}

impl<Out, F> HeartbeatLayer<Out, OptionalMessage<F>> {
    /// Creates a new layer with a `beat` that may return `None` to send nothing; see
    /// [`new`](HeartbeatLayer::new).
    ///
    /// After `None`, `beat` is called again a period later, and no response is expected meanwhile.
    pub const fn optional(period: Duration, beat: F) -> Self
    where
        F: Fn(&Session<Out>) -> Option<Out>,
    {
        Self::of(OptionalMessage(beat), period)
    }
}

impl<Out> HeartbeatLayer<Out, Ping> {
    /// Creates a new layer that sends pings of the transport, such as WebSocket's, instead of
    /// messages.
    ///
    /// On a transport [without pings](getty_core::ConnectionHandle::has_ping) nothing is sent and
    /// no response is expected. A ping does not count as sent: the next one is due a period after
    /// the last unless messages are sent.
    #[must_use]
    pub const fn ping(period: Duration) -> Self {
        Self::of(Ping, period)
    }
}

impl<Out, B, P> HeartbeatLayer<Out, B, P> {
    /// Sets the time within which something must be received after a heartbeat. Otherwise the
    /// session closes, as
    /// [`CloseReason::HeartbeatMissed`](getty_core::CloseReason::HeartbeatMissed). The default is
    /// no limit.
    ///
    /// The time starts with the first of several heartbeats without a response, so it may be longer
    /// than the period.
    #[must_use]
    pub const fn with_response_timeout(mut self, time: Duration) -> Self {
        self.schedule.response = Some(time);
        self
    }

    /// Sets the fraction of the period by which heartbeats may be late, from 0 to 1. The default is
    /// 0.1.
    ///
    /// Each session has its own random part of the fraction, so sessions that opened together do
    /// not send their heartbeats together.
    #[must_use]
    pub const fn with_jitter(mut self, fraction: f64) -> Self {
        self.schedule.jitter = self.schedule.jitter.with_fraction(fraction);
        self
    }

    /// Sets the seed of the jitter, which makes it repeatable in tests: the part of a session then
    /// depends on the seed and on the addresses of the session. By default it is random.
    #[must_use]
    pub const fn with_jitter_seed(mut self, seed: u64) -> Self {
        self.schedule.jitter = self.schedule.jitter.with_seed(seed);
        self
    }

    /// Sets a predicate for pongs, which the codec then removes from the decoded messages. The
    /// default is to pass all messages to the handler.
    ///
    /// Pongs poll no readiness, take no permit and never reach the handler. They count as received,
    /// but not as activity of the application.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use getty_core::Session;
    /// # use getty_layers::HeartbeatLayer;
    /// let beat = |_: &Session<String>| "PING".to_owned();
    /// let layer = HeartbeatLayer::new(Duration::from_secs(15), beat)
    ///     .with_response_timeout(Duration::from_secs(5))
    ///     .with_pong(|message: &String| message == "PONG");
    /// ```
    pub fn with_pong<In, M>(self, is_pong: M) -> HeartbeatLayer<Out, B, Pong<M>>
    where
        M: Fn(&In) -> bool,
    {
        HeartbeatLayer {
            beat: self.beat,
            pong: Contained::new(Pong(is_pong)),
            schedule: self.schedule,
            out: PhantomData,
        }
    }
}

impl<Out, B: Clone, P: Clone> Clone for HeartbeatLayer<Out, B, P> {
    fn clone(&self) -> Self {
        Self {
            beat: self.beat.clone(),
            pong: self.pong.clone(),
            ..*self
        }
    }
}

impl<Out, B: fmt::Debug, P: fmt::Debug> fmt::Debug for HeartbeatLayer<Out, B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatLayer")
            .field("beat", &self.beat)
            .field("pong", &self.pong)
            .field("schedule", &self.schedule)
            .finish()
    }
}

impl<S, Out, B: Clone> Layer<S> for HeartbeatLayer<Out, B> {
    type Service = Heartbeat<S, Out, B>;

    fn layer(&self, inner: S) -> Self::Service {
        Configured::new(inner, self.clone())
    }
}

impl<S, Out, B: Clone, M: Clone> Layer<S> for HeartbeatLayer<Out, B, Pong<M>> {
    type Service = HeartbeatWithPong<S, Out, B, M>;

    fn layer(&self, inner: S) -> Self::Service {
        HeartbeatWithPong {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`HeartbeatLayer`].
pub type Heartbeat<S, Out, B> = Configured<S, HeartbeatLayer<Out, B>>;

impl<Out, B, T> Configure<T> for HeartbeatLayer<Out, B>
where
    T: HasSession<Out = Out>,
    B: Beat<Out> + Clone + Send + 'static,
    Out: Send + 'static,
{
    fn configure(&self, connection: &Connection<T>) {
        let session = connection.transport().session();
        self.schedule.start(session, B::clone(&self.beat));
    }
}

/// Service of [`HeartbeatLayer::with_pong`].
pub struct HeartbeatWithPong<S, Out, B, M> {
    inner: S,
    layer: HeartbeatLayer<Out, B, Pong<M>>,
}

impl<S, Out, B, M> HeartbeatWithPong<S, Out, B, M> {
    getty_core::inner_service_accessors!();
}

impl<S: Clone, Out, B: Clone, M: Clone> Clone for HeartbeatWithPong<S, Out, B, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, Out, B: fmt::Debug, M> fmt::Debug for HeartbeatWithPong<S, Out, B, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatWithPong")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, Out, B, M, T, C> Service<Connection<SessionIo<T, C, Out>>>
    for HeartbeatWithPong<S, Out, B, M>
where
    C: Decoder,
    S: Service<Connection<SessionIo<T, FilterMap<C, PongFilter<M>>, Out>>>,
    B: Beat<Out> + Clone + Send + 'static,
    M: Fn(&C::Item) -> bool + Clone,
    Out: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<SessionIo<T, C, Out>>) -> S::Future {
        let HeartbeatLayer {
            beat,
            schedule,
            pong,
            ..
        } = &self.layer;
        schedule.start(connection.transport().session(), B::clone(beat));
        let handle = connection.handle().clone();
        let is_pong = Contained::new(pong.0.clone());
        self.inner.call(connection.map_transport(|framed| {
            framed.map_decoder(|codec| FilterMap::new(codec, PongFilter::new(is_pong, handle)))
        }))
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_core::{CloseReason, driver::Driver};
    use getty_test::assert_layer_contract;

    use super::*;
    use crate::testing::{drive, framed};

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(
            &HeartbeatLayer::new(TEN, |_session| "PING".to_owned()),
            framed,
        )
        .await;
        assert_layer_contract(&HeartbeatLayer::optional(TEN, |_session| None), framed).await;
        let ping = HeartbeatLayer::ping(TEN);
        assert_layer_contract(&ping, framed).await;
        assert_layer_contract(&ping.with_pong(String::is_empty), framed).await;
    }

    fn beats(driver: &mut Driver<String>) -> usize {
        driver.poll_signals();
        let beats = std::iter::from_fn(|| driver.next_outgoing()).count();
        driver.set_backpressure(false);
        beats
    }

    #[tokio::test(start_paused = true)]
    async fn session_is_checked_once_per_period_despite_traffic() {
        let connection = framed();
        let opened = connection.handle().opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let layer = HeartbeatLayer::new(TEN, |_: &Session<String>| "PING".to_owned());
        let layer = layer.with_jitter(0.0).with_response_timeout(TEN);
        let HeartbeatLayer { schedule, beat, .. } = layer;
        schedule.start(connection.transport().session(), beat.into_inner());
        let (mut driver, _guard) = drive(connection);
        driver.set_reading(true, driver.timestamp(at(0)));
        for second in 1..10 {
            driver.record_sent(1, driver.timestamp(at(second)));
            assert_eq!(driver.next_deadline(), Some(at(10)));
        }
        driver.run_deadlines(at(10));
        assert_eq!(driver.next_deadline(), Some(at(19)));
        assert_eq!(beats(&mut driver), 0);
        driver.run_deadlines(at(19));
        assert_eq!(beats(&mut driver), 1);

        // A very late check sends one heartbeat, and the response to it is missing later.
        driver.record_received(1, driver.timestamp(at(20)));
        driver.run_deadlines(at(29 + 30));
        assert_eq!(beats(&mut driver), 1);
        assert_eq!(driver.next_deadline(), Some(at(69)));
        driver.run_deadlines(at(69));
        assert_eq!(beats(&mut driver), 0);
        assert_eq!(
            driver.session().reason(),
            Some(CloseReason::HeartbeatMissed)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_heartbeat_is_sent_while_messages_wait() {
        let connection = framed();
        let opened = connection.handle().opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let layer = HeartbeatLayer::new(TEN, |_: &Session<String>| "PING".to_owned());
        let HeartbeatLayer { schedule, beat, .. } = layer.with_jitter(0.0);
        schedule.start(connection.transport().session(), beat.into_inner());
        let (mut driver, _guard) = drive(connection);
        driver.session().try_send("waiting".to_owned()).unwrap();
        driver.run_deadlines(at(10));
        assert_eq!(driver.session().queued(), 1);
        assert_eq!(beats(&mut driver), 1);

        driver.set_stalled(Some(driver.timestamp(at(11))));
        driver.run_deadlines(at(20));
        assert_eq!(beats(&mut driver), 0);
        driver.set_stalled(None);
        driver.run_deadlines(at(30));
        assert_eq!(beats(&mut driver), 1);
    }
}
