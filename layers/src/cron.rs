//! Calls a function of yours again and again, once a period, as long as a session lives.
//!
//! - *ready*: the inner service's.
//! - *call*: registers the period with the session, and passes the connection on. The first run comes one full period
//!   after the session opened; none comes once it is closing.
//! - *a run* of a plain function ([`CronLayer::new`]) happens within the session's turn: it must not block, and what it
//!   sends it sends with [`try_send`](crate::Session::try_send). The future of an async one ([`CronLayer::new_async`]) is
//!   polled in the connection's task beside the session, which goes on meanwhile. While it is not done no further run
//!   starts: periods that end meanwhile are left out.
//! - *an error of a run* is logged, and the next run comes as if there had been none; or, with
//!   [`closing_on_error`](CronLayer::closing_on_error), it closes the session gracefully as
//!   [`CloseReason::Handler`], with the error as its source.
//! - *a panic of a run* ends its session alone, as [`CloseReason::Panicked`].
//! - *drop, close*: a run that is not done when the connection ends is dropped with it.
//!
//! Runs are late when the thread is busy, never early. A run that is late by no more than a few milliseconds, as timers
//! are, does not shift those after it; a later one does, so that runs never come in bursts. It takes part in the
//! session's one timer and costs nothing a message.
//!
//! Scope: session. It stands inside [`CodecLayer`](crate::CodecLayer), which makes the session, and outside
//! `SessionLayer`. For keeping a connection alive there is a layer of its own, which beats only where nothing else was
//! sent.
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_layers::{CodecLayer, Connection, CronLayer, HasSession};
//! use tokio::time::{Instant, advance};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(CronLayer::new(Duration::from_secs(60), |session| {
//!         session.try_send(format!("{} messages so far", session.stats().messages_in))
//!     }))
//!     // in the place of the session loop
//!     .service_fn(|connection: Connection<getty_layers::Framed<(), _, String>>| async move {
//!         let (framed, mut lease) = connection.into_parts();
//!         let mut driver = framed.into_parts().driver;
//!         lease.open();
//!         driver.look();
//!         driver.run_checks(driver.next_check().unwrap());
//!         advance(Duration::from_secs(60)).await;
//!         driver.run_checks(Instant::now());
//!         driver.look();
//!         Ok::<_, BoxError>(driver.next_outgoing().unwrap().into_message())
//!     });
//! assert_eq!(stack.oneshot(Connection::new(())).await?.unwrap(), "0 messages so far");
//! # Ok(())
//! # }
//! ```

use std::{
    any::type_name,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    CloseReason, Connection, ConnectionHandle, HasSession, Session,
    connection::{catch, contain},
    session::signal::Signal,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A run that is late by no more than this is as punctual as a timer can be.
const PUNCTUAL: Duration = Duration::from_millis(5);

/// Calls a function of yours once a period; see the [module](self).
pub struct CronLayer<Out, F, K = Plain> {
    period: Duration,
    callback: F,
    closes: bool,
    kind: PhantomData<(fn(Out), K)>,
}

/// The callback is a plain function: [`CronLayer::new`].
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// The callback is async: [`CronLayer::new_async`].
#[derive(Clone, Copy, Debug)]
pub struct Async;

impl<Out, F> CronLayer<Out, F> {
    /// `callback` is called with the session once a period. It is cloned for each connection. A period below one
    /// millisecond is one millisecond; one that ends after the end of time is never over.
    // the bound on the closure is what lets its argument's type go unwritten
    pub const fn new<E>(period: Duration, callback: F) -> Self
    where
        F: Fn(&Session<Out>) -> Result<(), E> + Clone,
        E: Into<BoxError>,
    {
        Self::of(period, callback)
    }
}

impl<Out, F> CronLayer<Out, F, Async> {
    /// As [`new`](CronLayer::new), with an async function, which may also wait for what it
    /// [sends](Session::send) to have left.
    pub const fn new_async<Fut, E>(period: Duration, callback: F) -> Self
    where
        F: Fn(Session<Out>) -> Fut + Clone,
        Fut: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        Self::of(period, callback)
    }
}

impl<Out, F, K> CronLayer<Out, F, K> {
    const fn of(period: Duration, callback: F) -> Self {
        Self {
            period,
            callback,
            closes: false,
            kind: PhantomData,
        }
    }

    /// An error of the callback closes the session gracefully, as [`CloseReason::Handler`] with the error as its source.
    /// By default it is logged and the session goes on.
    #[must_use]
    pub const fn closing_on_error(mut self) -> Self {
        self.closes = true;
        self
    }
}

impl<Out, F: Clone, K> Clone for CronLayer<Out, F, K> {
    fn clone(&self) -> Self {
        Self {
            callback: self.callback.clone(),
            ..*self
        }
    }
}

impl<Out, F, K> fmt::Debug for CronLayer<Out, F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CronLayer")
            .field("period", &self.period)
            .field("callback", &format_args!("{}", type_name::<F>()))
            .field("closing_on_error", &self.closes)
            .finish()
    }
}

impl<S, Out, F: Clone, K> Layer<S> for CronLayer<Out, F, K> {
    type Service = Cron<S, Out, F, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Cron {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`CronLayer`] makes.
pub struct Cron<S, Out, F, K = Plain> {
    inner: S,
    layer: CronLayer<Out, F, K>,
}

impl<S, Out, F, K> Cron<S, Out, F, K> {
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

impl<S: Clone, Out, F: Clone, K> Clone for Cron<S, Out, F, K> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, Out, F, K> fmt::Debug for Cron<S, Out, F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cron")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, T, F, E> Service<Connection<T>> for Cron<S, T::Out, F>
where
    T: HasSession,
    T::Out: Send + 'static,
    S: Service<Connection<T>>,
    F: Fn(&Session<T::Out>) -> Result<(), E> + Clone + Send + 'static,
    E: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        let session = connection.transport().session().clone();
        let CronLayer {
            callback, closes, ..
        } = self.layer.clone();
        every(connection.handle(), self.layer.period, move || {
            if let Err(error) = callback(&session) {
                failed(&session, closes, error.into());
            }
        });
        self.inner.call(connection)
    }
}

impl<S, T, F, Fut, E> Service<Connection<T>> for Cron<S, T::Out, F, Async>
where
    T: HasSession,
    S: Service<Connection<T>>,
    F: Fn(Session<T::Out>) -> Fut + Clone,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, T::Out, F, Fut>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let due = Arc::new(Signal::new());
        let raised = Arc::clone(&due);
        every(connection.handle(), self.layer.period, move || {
            raised.raise(DUE);
        });
        let runs = Runs {
            due,
            waker: None,
            session: connection.transport().session().clone(),
            callback: self.layer.callback.clone(),
            closes: self.layer.closes,
            running: None,
        };
        ResponseFuture {
            inner: self.inner.call(connection),
            runs,
        }
    }
}

/// Has `run` called every `period` of a session that is open.
fn every(handle: &ConnectionHandle, period: Duration, mut run: impl FnMut() + Send + 'static) {
    let period = period.max(Duration::from_millis(1));
    let Some(first) = handle.opened_at().checked_add(period) else {
        return;
    };
    let mut opened = false;
    let mut due = first;
    handle.check_at(first, move |handle, now| {
        if !opened {
            let Some(since) = handle.open_since() else {
                // whenever it opens, it is after this
                return now.checked_add(period);
            };
            opened = true;
            due = since.checked_add(period)?;
            if due > now {
                return Some(due);
            }
        }
        run();
        due = next(due, period, now)?;
        Some(due)
    });
}

/// When the run after the one that was due at `due` and has begun at `now` is due.
fn next(due: Instant, period: Duration, now: Instant) -> Option<Instant> {
    let punctual = now.saturating_duration_since(due) <= PUNCTUAL.min(period / 2);
    if punctual { due } else { now }.checked_add(period)
}

fn failed(session: &ConnectionHandle, closes: bool, error: BoxError) {
    if closes {
        session.close_because(CloseReason::Handler, error);
    } else {
        tracing::warn!(session = %session, error = &*error as &dyn std::error::Error, "a periodic callback failed");
    }
}

/// The one flag of the signal by which the check tells the connection's future.
const DUE: u8 = 1;

/// The runs of one session, of which there is one at most. It is in a box, which an idle session does not keep.
struct Runs<Out, F, Fut> {
    /// The check runs as the inner future is polled, as a rule by us; should that be another's task, it wakes ours.
    due: Arc<Signal>,
    waker: Option<Waker>,
    session: Session<Out>,
    callback: F,
    closes: bool,
    running: Option<Pin<Box<Fut>>>,
}

impl<Out, F, Fut, E> Runs<Out, F, Fut>
where
    F: Fn(Session<Out>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) {
        let starts = self.due.take() != 0 && self.running.is_none() && !self.session.is_closing();
        if self.running.is_none() && !starts {
            return;
        }
        let polled = catch(|| {
            self.running
                .get_or_insert_with(|| Box::pin((self.callback)(self.session.clone())))
                .as_mut()
                .poll(cx)
        });
        match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(Ok(()))) => {}
            Ok(Poll::Ready(Err(error))) => failed(&self.session, self.closes, error.into()),
            Err(panic) => self.session.close_because(CloseReason::Panicked, panic),
        }
        contain("dropping a periodic callback", || self.running = None);
    }
}

pin_project! {
    /// The future of [`Cron`] with an async callback.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, Out, C, Fut> {
        #[pin]
        inner: F,
        runs: Runs<Out, C, Fut>,
    }
}

impl<F, Out, C, Fut, E> Future for ResponseFuture<F, Out, C, Fut>
where
    F: Future,
    C: Fn(Session<Out>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.runs.due.register(&mut this.runs.waker, cx);
        let ended = this.inner.poll(cx);
        if ended.is_pending() {
            this.runs.poll(cx);
        }
        ended
    }
}

impl<F: fmt::Debug, Out, C, Fut> fmt::Debug for ResponseFuture<F, Out, C, Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .field("running", &self.runs.running.is_some())
            .finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        convert::Infallible,
        future::ready,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use tokio::sync::Notify;
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower_test::mock;

    use super::*;
    use crate::{
        Framed,
        driver::{self, Driver, Lease},
        testing::assert_transparent,
    };

    type Framing = Framed<(), (), &'static str>;

    const PERIOD: Duration = Duration::from_secs(10);

    fn connection() -> Connection<Framing> {
        let connection = Connection::new(());
        let (_, driver) = driver::pair(connection.handle().clone());
        connection.map_transport(|transport| Framed::new(transport, (), driver, 1))
    }

    fn open(connection: Connection<Framing>) -> (Driver<&'static str>, Lease) {
        let (framed, mut lease) = connection.into_parts();
        let mut driver = framed.into_parts().driver;
        lease.open();
        driver.look();
        (driver, lease)
    }

    /// Lets time pass and has the driver look at its checks when they are due, as the session loop does. Gives the
    /// seconds at which it did.
    async fn pass(driver: &mut Driver<&'static str>, time: Duration) {
        let end = Instant::now() + time;
        while let Some(next) = driver.next_check().filter(|next| *next <= end) {
            tokio::time::sleep_until(next).await;
            driver.run_checks(Instant::now());
        }
        tokio::time::sleep_until(end).await;
    }

    fn counting() -> (Arc<AtomicUsize>, impl Fn() -> usize + Clone + Send) {
        let runs = Arc::new(AtomicUsize::new(0));
        let count = runs.clone();
        (runs, move || count.fetch_add(1, SeqCst))
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_once_a_period_from_the_opening_on() {
        let (runs, count) = counting();
        let layer = CronLayer::new(PERIOD, move |session: &Session<&'static str>| {
            count();
            session.try_send("tick")
        });
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        tokio::time::advance(Duration::from_secs(7)).await; // a handshake
        let (mut driver, _lease) = open(connection);
        pass(&mut driver, Duration::from_millis(9_999)).await;
        assert_eq!(runs.load(SeqCst), 0);
        pass(&mut driver, Duration::from_millis(1)).await;
        assert_eq!(runs.load(SeqCst), 1);
        pass(&mut driver, Duration::from_secs(30)).await;
        assert_eq!(runs.load(SeqCst), 4);
        driver.look();
        assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("tick"));

        // never after the close
        driver.session().close();
        pass(&mut driver, Duration::from_millis(5)).await;
        driver.run_checks(Instant::now() + PERIOD);
        assert_eq!(runs.load(SeqCst), 4);
        inner.send_response(());
        assert_ready_ok!(response.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_opens_late_counts_from_there() {
        let (runs, count) = counting();
        let layer = CronLayer::new(PERIOD, move |_| {
            count();
            Ok::<_, Infallible>(())
        });
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let _response = task::spawn(service.call(connection()));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        let (framed, mut lease) = connection.into_parts();
        let mut driver = framed.into_parts().driver;
        driver.look();
        pass(&mut driver, Duration::from_secs(34)).await;
        assert_eq!(runs.load(SeqCst), 0);
        lease.open();
        pass(&mut driver, Duration::from_millis(9_999)).await;
        assert_eq!(runs.load(SeqCst), 0);
        pass(&mut driver, Duration::from_millis(1)).await;
        assert_eq!(runs.load(SeqCst), 1);
    }

    #[test]
    fn a_punctual_run_shifts_nothing_and_a_late_one_shifts_the_next() {
        let due = Instant::now();
        let late = |late| next(due, PERIOD, due + late).map(|next| next - due);
        assert_eq!(late(Duration::ZERO), Some(PERIOD));
        assert_eq!(late(Duration::from_millis(2)), Some(PERIOD));
        for millis in [6, 9_999, 35_000] {
            let by = Duration::from_millis(millis);
            assert_eq!(late(by), Some(by + PERIOD), "no burst");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_period_is_accepted() {
        for (period, expected) in [
            (Duration::ZERO, 3),
            (Duration::from_micros(1), 3),
            (Duration::MAX, 0),
        ] {
            let (runs, count) = counting();
            let layer = CronLayer::new(period, move |_| {
                count();
                Ok::<_, Infallible>(())
            });
            let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
            assert_ready_ok!(service.poll_ready());
            let _response = task::spawn(service.call(connection()));
            let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
            let (mut driver, _lease) = open(connection);
            pass(&mut driver, Duration::from_millis(3)).await;
            assert_eq!(runs.load(SeqCst), expected, "{period:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_closes_the_session_if_asked_to() {
        for closes in [false, true] {
            let layer = CronLayer::new(PERIOD, |_| Err("no quorum"));
            let layer = if closes {
                layer.closing_on_error()
            } else {
                layer
            };
            let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
            assert_ready_ok!(service.poll_ready());
            let _response = task::spawn(service.call(connection()));
            let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
            let (mut driver, _lease) = open(connection);
            pass(&mut driver, PERIOD).await;
            let session = driver.session();
            assert_eq!(session.is_closing(), closes);
            if closes {
                assert_eq!(session.reason(), Some(CloseReason::Handler));
                assert_eq!(session.source().unwrap().to_string(), "no quorum");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_async_run_is_polled_by_the_connections_task_and_never_twice_at_once() {
        let (runs, count) = counting();
        let go_on = Arc::new(Notify::new());
        let layer = CronLayer::new_async(PERIOD, {
            let go_on = go_on.clone();
            move |session: Session<&'static str>| {
                count();
                let go_on = go_on.clone();
                async move {
                    go_on.notified().await;
                    session.try_send("done")
                }
            }
        })
        .closing_on_error();
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        assert_pending!(response.poll());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        // driven here, as by another task, so that it is the layer that has to wake the future
        let (mut driver, _lease) = open(connection);
        pass(&mut driver, PERIOD).await;
        assert!(response.is_woken());
        assert_eq!(runs.load(SeqCst), 0);
        assert_pending!(response.poll());
        assert_eq!(runs.load(SeqCst), 1);
        pass(&mut driver, 3 * PERIOD).await;
        assert_pending!(response.poll());
        assert_eq!(runs.load(SeqCst), 1, "the first is not done");
        go_on.notify_one();
        assert!(response.is_woken());
        assert_pending!(response.poll());
        driver.look();
        assert_eq!(driver.next_outgoing().unwrap().into_message(), Some("done"));
        assert_eq!(runs.load(SeqCst), 1, "what was left out is not made up for");
        pass(&mut driver, PERIOD).await;
        assert_pending!(response.poll());
        assert_eq!(runs.load(SeqCst), 2);

        // a run that is not done keeps nothing from its end
        inner.send_response(());
        assert!(response.is_woken());
        assert_ready_ok!(response.poll());
    }

    #[tokio::test(start_paused = true)]
    async fn an_async_run_does_not_start_once_the_session_closes() {
        let (runs, count) = counting();
        let layer = CronLayer::new_async(PERIOD, move |_| {
            count();
            ready(Ok::<_, Infallible>(()))
        });
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        assert_pending!(response.poll());
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        let (mut driver, _lease) = open(connection);
        pass(&mut driver, PERIOD).await;
        driver.session().close();
        assert_pending!(response.poll());
        assert_eq!(runs.load(SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_an_async_run_closes_its_session() {
        let layer =
            CronLayer::new_async(PERIOD, |_| -> std::future::Ready<Result<(), Infallible>> {
                panic!("a bad callback")
            });
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        let (mut driver, _lease) = open(connection);
        pass(&mut driver, PERIOD).await;
        assert_pending!(response.poll());
        let session = driver.session();
        assert_eq!(session.reason(), Some(CloseReason::Panicked));
        assert_eq!(session.source().unwrap().to_string(), "a bad callback");
    }

    #[test]
    fn around_a_service_it_is_transparent() {
        let layer = CronLayer::new_async(PERIOD, |_| ready(Ok::<_, Infallible>(())));
        assert_transparent(&layer, connection);
    }
}
