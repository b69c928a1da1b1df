//! Sends a message when nothing was sent for a while, and notices when the peer does not answer.
//!
//! - *ready*: the inner service's.
//! - *call*: registers a look at the session's clock, calls the inner service; no timer of its own, nothing a message.
//! - *drop*: drops the inner future.
//! - *close*: with [`with_answer_within`](HeartbeatLayer::with_answer_within), when nothing was received for so long after
//!   a beat, the session closes gracefully, as [`CloseReason::HeartbeatMissed`]. There are no beats while it closes.
//!
//! A beat is due when nothing was *sent* for a period: a session that sends needs none. Received
//! bytes do not count for that, but any received byte is an answer, not only a pong. While the peer
//! does not read, a beat is skipped: it would only stand in line behind what it is to replace, and
//! a peer that reads again is not met by all the beats it has missed. A skipped beat counts like
//! one that was sent: the next is due a whole period later, and an answer is due too, for a peer
//! that neither reads nor sends is not there. While bytes wait for a peer that reads slowly, the
//! time for the answer starts at the last byte that the transport took. While the session itself
//! does not read, no answer can be missed; the time restarts when it reads again.
//!
//! Beats come late rather than in bursts, and up to a tenth late on purpose, each session by its own
//! [jitter](HeartbeatLayer::with_jitter).
//!
//! Scope: session. It stands between `CodecLayer` and `SessionLayer`. With
//! [`with_pong`](HeartbeatLayer::with_pong) it changes the codec: layers outside of it see the codec as it is, layers
//! inside of it no pongs. Several may be stacked.
//!
//! ```
//! use std::{task::{Context, Waker}, time::Duration};
//!
//! use getty_core::{Connection, Framed};
//! use getty_layers::{CodecLayer, HeartbeatLayer};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(HeartbeatLayer::new(Duration::from_secs(15), |_session| "PING".to_owned()))
//!     // what the session loop does with it, in place of it
//!     .service_fn(|connection: Connection<Framed<&'static str, LinesCodec, String>>| async move {
//!         let (framed, _lease) = connection.into_parts();
//!         let mut driver = framed.into_parts().driver;
//!         let context = Context::from_waker(Waker::noop());
//!         driver.turn(&context);
//!         let due = driver.next_check().ok_or("no heartbeat")?;
//!         driver.run_checks(due);
//!         driver.turn(&context);
//!         Ok::<_, BoxError>(driver.next_outgoing().and_then(|outgoing| outgoing.into_message()))
//!     });
//! let beat = stack.oneshot(Connection::new("any transport")).await?;
//! assert_eq!(beat.as_deref(), Some("PING"));
//! # Ok(())
//! # }
//! ```

mod beat;
mod pong;

use std::{
    fmt,
    marker::PhantomData,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{
    CloseReason, Connection, ConnectionHandle, Framed, HasSession, Session, internal::Contained,
};
use tokio::time::Instant;
use tokio_util::codec::Decoder;
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    beat::{Beat, Message, MessageIf, Ping},
    pong::WithoutPongs,
};
use crate::{jitter::Jitter, tap::Tap};

/// Up to which part of a period a beat is late, unless [`HeartbeatLayer::with_jitter`] says otherwise.
pub const DEFAULT_JITTER: f64 = 0.1;

/// Sends a message when nothing was sent for a period; see the [module](self).
///
/// `Out` is what the session sends, `B` what a [beat](Beat) is, `P` whether [pongs](Pong) are told from messages. None of
/// them is written by hand.
pub struct HeartbeatLayer<Out, B, P = NoPong> {
    beat: Contained<B>,
    pong: Contained<P>,
    times: Times,
    out: PhantomData<fn(Out)>,
}

/// Every message is the handler's: what a [`HeartbeatLayer`] does unless it is told otherwise.
#[derive(Clone, Copy, Debug)]
pub struct NoPong;

/// Tells pongs from messages: see [`HeartbeatLayer::with_pong`].
#[derive(Clone)]
pub struct Pong<M>(M);

impl<M> fmt::Debug for Pong<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pong")
            .field(&std::any::type_name::<M>())
            .finish()
    }
}

#[derive(Clone, Copy, Debug)]
struct Times {
    period: Duration,
    jitter: Jitter,
    answer: Option<Duration>,
}

impl<Out, B> HeartbeatLayer<Out, B> {
    const fn of(beat: B, period: Duration) -> Self {
        Self {
            beat: Contained::new(beat),
            pong: Contained::new(NoPong),
            times: Times {
                period,
                jitter: Jitter::new(DEFAULT_JITTER),
                answer: None,
            },
            out: PhantomData,
        }
    }
}

impl<Out, F> HeartbeatLayer<Out, Message<F>> {
    /// Sends the message that `beat` makes when nothing was sent for `period`. It is queued without waiting, like
    /// anything else that is sent; `beat` runs in the session's task, so it must not block.
    ///
    /// A period of less than a millisecond is one of a millisecond, one too long to be told never ends.
    // the bound on the closure is what lets its argument's type go unwritten
    pub const fn new(period: Duration, beat: F) -> Self
    where
        F: Fn(&Session<Out>) -> Out,
    {
        Self::of(Message(beat), period)
    }
}

impl<Out, F> HeartbeatLayer<Out, MessageIf<F>> {
    /// As [`new`](HeartbeatLayer::new), for a `beat` that may have nothing to say: it is asked again a period later, and
    /// no answer is expected meanwhile.
    pub const fn new_if(period: Duration, beat: F) -> Self
    where
        F: Fn(&Session<Out>) -> Option<Out>,
    {
        Self::of(MessageIf(beat), period)
    }
}

impl<Out> HeartbeatLayer<Out, Ping> {
    /// Sends the transport's own ping, such as WebSocket's, in place of a message; nothing on a transport that
    /// [has none](ConnectionHandle::has_ping), and then no answer is expected either. A ping is not what is meant by
    /// "sent": the next one is due a period after the last, unless messages are sent.
    pub const fn ping(period: Duration) -> Self {
        Self::of(Ping, period)
    }
}

impl<Out, B, P> HeartbeatLayer<Out, B, P> {
    /// Closes the session, as [`CloseReason::HeartbeatMissed`], when nothing is received for `time` after a beat. Off by
    /// default.
    ///
    /// Of several beats without an answer the first one counts, so that `time` may be longer than the period.
    #[must_use]
    pub const fn with_answer_within(mut self, time: Duration) -> Self {
        self.times.answer = Some(time);
        self
    }

    /// Up to which part of the period beats are late, each session by its own, so that sessions that were opened
    /// together do not beat together. From 0 to 1; a tenth by default.
    #[must_use]
    pub const fn with_jitter(mut self, fraction: f64) -> Self {
        self.times.jitter = Jitter::new(fraction);
        self
    }

    /// Messages for which `is_pong` is true are taken out of what the codec decodes: they ask for no readiness, take no
    /// permit and never reach the handler. They count as received, but as no activity of the application. By default
    /// none is, and the handler sees all.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use getty_core::Session;
    /// # use getty_layers::HeartbeatLayer;
    /// let layer = HeartbeatLayer::new(Duration::from_secs(15), |_: &Session<String>| "PING".to_owned())
    ///     .with_answer_within(Duration::from_secs(5))
    ///     .with_pong(|message: &String| message == "PONG");
    /// ```
    pub fn with_pong<In, M>(self, is_pong: M) -> HeartbeatLayer<Out, B, Pong<M>>
    where
        M: Fn(&In) -> bool,
    {
        HeartbeatLayer {
            beat: self.beat,
            pong: Contained::new(Pong(is_pong)),
            times: self.times,
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
            .field("times", &self.times)
            .finish()
    }
}

impl<S, Out, B: Clone, P: Clone> Layer<S> for HeartbeatLayer<Out, B, P> {
    type Service = Heartbeat<S, Out, B, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Heartbeat::new(inner, self.clone())
    }
}

/// The service that [`HeartbeatLayer`] makes.
pub struct Heartbeat<S, Out, B, P = NoPong> {
    inner: S,
    layer: HeartbeatLayer<Out, B, P>,
}

impl<S, Out, B, P> Heartbeat<S, Out, B, P> {
    /// Wraps `inner` as `layer` says.
    pub const fn new(inner: S, layer: HeartbeatLayer<Out, B, P>) -> Self {
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

impl<S: Clone, Out, B: Clone, P: Clone> Clone for Heartbeat<S, Out, B, P> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.layer.clone())
    }
}

impl<S: fmt::Debug, Out, B: fmt::Debug, P: fmt::Debug> fmt::Debug for Heartbeat<S, Out, B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, Out, B, T> Service<Connection<T>> for Heartbeat<S, Out, B, NoPong>
where
    T: HasSession<Out = Out>,
    S: Service<Connection<T>>,
    B: Beat<Out> + Clone + Send + 'static,
    Out: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        let HeartbeatLayer { beat, times, .. } = &self.layer;
        times.keep(connection.transport().session(), B::clone(beat));
        self.inner.call(connection)
    }
}

impl<S, Out, B, M, T, C> Service<Connection<Framed<T, C, Out>>> for Heartbeat<S, Out, B, Pong<M>>
where
    C: Decoder,
    S: Service<Connection<Framed<T, Tap<C, WithoutPongs<M>>, Out>>>,
    B: Beat<Out> + Clone + Send + 'static,
    M: Fn(&C::Item) -> bool + Clone,
    Out: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<Framed<T, C, Out>>) -> S::Future {
        let HeartbeatLayer {
            beat, times, pong, ..
        } = &self.layer;
        times.keep(connection.transport().session(), B::clone(beat));
        let handle = connection.handle().clone();
        let is_pong = Contained::new(pong.0.clone());
        self.inner.call(connection.map_transport(|framed| {
            framed.map_decoder(|codec| Tap::new(codec, WithoutPongs::new(is_pong, handle)))
        }))
    }
}

impl Times {
    /// Keeps `session` beating.
    fn keep<Out, B>(mut self, session: &Session<Out>, beat: B)
    where
        B: Beat<Out> + Send + 'static,
        Out: Send + 'static,
    {
        self.period = self.jitter.lengthen(self.period, session.id());
        let begun = Instant::now();
        let Some(first) = begun.checked_add(self.period) else {
            return;
        };
        let sender = session.clone();
        let mut pulse = Pulse {
            last: begun,
            unanswered: None,
            delayed: false,
        };
        session.check_at(first, move |handle, now| {
            if !pulse.is_alive(self, handle, now) {
                handle.close_with(CloseReason::HeartbeatMissed);
                return None;
            }
            if pulse.due(self, handle)? <= now {
                pulse.last = now;
                if beat.beat(&sender) && self.answer.is_some() {
                    pulse.unanswered.get_or_insert(now);
                }
            }
            let beat = pulse.due(self, handle);
            let answer = pulse.answer_due(self, handle, now);
            beat.into_iter().chain(answer).min()
        });
    }
}

/// The beats of one session.
struct Pulse {
    /// When it last beat, or began.
    last: Instant,
    /// The first beat since which nothing was received. While beats wait behind other bytes that
    /// the peer reads slowly, the time of the last progress.
    unanswered: Option<Instant>,
    /// The write buffer was stalled at the last check.
    delayed: bool,
}

impl Pulse {
    /// When the next beat is due, as far as is known now.
    fn due(&self, times: Times, handle: &ConnectionHandle) -> Option<Instant> {
        self.last.max(handle.last_write()).checked_add(times.period)
    }

    /// When something must have been received, as far as is known now.
    fn answer_due(&self, times: Times, handle: &ConnectionHandle, now: Instant) -> Option<Instant> {
        let beat = self.unanswered?;
        // while we do not read nobody is late: we look whether we do after such a time, before which nobody can be
        let since = handle.silent_since().unwrap_or(now).max(beat);
        since.checked_add(times.answer?)
    }

    /// Notices an answer, and a missing one.
    fn is_alive(&mut self, times: Times, handle: &ConnectionHandle, now: Instant) -> bool {
        // an answer may come within the beat's own tick of the clock
        if self
            .unanswered
            .is_some_and(|beat| handle.last_read() >= beat)
        {
            self.unanswered = None;
        }
        // a peer cannot answer a beat that has not reached it: the time starts at the last progress
        let stalled = handle.stalled_since();
        if self.delayed || stalled.is_some() {
            let progress = stalled.unwrap_or_else(|| handle.last_write());
            self.unanswered = self.unanswered.map(|beat| beat.max(progress));
        }
        self.delayed = stalled.is_some();
        handle.silent_since().is_none()
            || self
                .answer_due(times, handle, now)
                .is_none_or(|due| due > now)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;
    use crate::testing::{assert_transparent, drive, framed};
    use getty_core::driver::Driver;

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn around_a_service_it_is_transparent() {
        assert_transparent(
            &HeartbeatLayer::new(TEN, |_session| "PING".to_owned()),
            framed,
        );
        assert_transparent(&HeartbeatLayer::new_if(TEN, |_session| None), framed);
        let ping = HeartbeatLayer::ping(TEN);
        assert_transparent(&ping, framed);
        assert_transparent(&ping.with_pong(String::is_empty), framed);
    }

    fn beats(driver: &mut Driver<String>) -> usize {
        driver.look();
        let beats = std::iter::from_fn(|| driver.next_outgoing()).count();
        driver.settle(false);
        beats
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_looked_at_once_a_period_however_much_is_sent() {
        let connection = framed();
        let opened = connection.handle().opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let layer = HeartbeatLayer::new(TEN, |_: &Session<String>| "PING".to_owned());
        let HeartbeatLayer { times, beat, .. } = layer.with_jitter(0.0).with_answer_within(TEN);
        times.keep(connection.transport().session(), beat.into_inner());
        let (mut driver, _lease) = drive(connection);
        driver.reading(true, driver.moment(at(0)));
        for second in 1..10 {
            driver.sent(1, driver.moment(at(second)));
            assert_eq!(driver.next_check(), Some(at(10)));
        }
        driver.run_checks(at(10));
        assert_eq!(driver.next_check(), Some(at(19)));
        assert_eq!(beats(&mut driver), 0);
        driver.run_checks(at(19));
        assert_eq!(beats(&mut driver), 1);

        // a look that comes much too late beats once, and finds that the answer is late
        driver.received(1, driver.moment(at(20)));
        driver.run_checks(at(29 + 30));
        assert_eq!(beats(&mut driver), 1);
        assert_eq!(driver.next_check(), Some(at(69)));
        driver.run_checks(at(69));
        assert_eq!(beats(&mut driver), 0);
        assert_eq!(
            driver.session().reason(),
            Some(CloseReason::HeartbeatMissed)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn while_messages_wait_there_is_no_beat() {
        let connection = framed();
        let opened = connection.handle().opened_at();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let layer = HeartbeatLayer::new(TEN, |_: &Session<String>| "PING".to_owned());
        let HeartbeatLayer { times, beat, .. } = layer.with_jitter(0.0);
        times.keep(connection.transport().session(), beat.into_inner());
        let (mut driver, _lease) = drive(connection);
        driver.session().try_send("waits".to_owned()).unwrap();
        driver.run_checks(at(10));
        assert_eq!(driver.session().queued(), 1);
        assert_eq!(beats(&mut driver), 1);

        driver.stalled(Some(driver.moment(at(11))));
        driver.run_checks(at(20));
        assert_eq!(beats(&mut driver), 0);
        driver.stalled(None);
        driver.run_checks(at(30));
        assert_eq!(beats(&mut driver), 1);
    }
}
