//! Calls a function of yours again and again, once a period, as long as a session lives.
//!
//! - *ready*: the inner service's.
//! - *call*: registers the period with the session, and passes the connection on. The first run comes one full period
//!   after the session opened; none comes once it is closing.
//! - *a run* of a plain function ([`CronLayer::new`]) happens within the session's turn: it must not block, and what it
//!   sends it sends with [`try_send`](getty_core::Session::try_send). The future of an async one ([`CronLayer::new_async`]) is
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
//! use getty_core::{Connection, HasSession};
//! use getty_layers::{CodecLayer, CronLayer};
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
//!     .service_fn(|connection: Connection<getty_core::Framed<(), _, String>>| async move {
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

use getty_core::{
    CloseReason, Connection, ConnectionHandle, HasSession, Session,
    internal::{Contained, catch},
    sync::Signal,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A run that is late by no more than this is as punctual as a timer can be.
const PUNCTUAL: Duration = Duration::from_millis(5);

/// Calls a function of yours once a period; see the [module](self).
pub struct CronLayer<Out, F, K = Plain> {
    period: Duration,
    callback: Contained<F>,
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
            callback: Contained::new(callback),
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
        // panics are caught around the whole check
        let callback = callback.into_inner();
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
    callback: Contained<F>,
    closes: bool,
    running: Option<Contained<Pin<Box<Fut>>>>,
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
                .get_or_insert_with(|| {
                    Contained::new(Box::pin((self.callback)(self.session.clone())))
                })
                .as_mut()
                .poll(cx)
        });
        match polled {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(Ok(()))) => {}
            Ok(Poll::Ready(Err(error))) => failed(&self.session, self.closes, error.into()),
            Err(panic) => self.session.close_because(CloseReason::Panicked, panic),
        }
        self.running = None;
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
mod tests;
