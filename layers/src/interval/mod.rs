//! Calls a function periodically while a session lives.
//!
//! - *ready*: as the inner service.
//! - *call*: registers the period with the session and calls the inner service. The first run
//!   is one period after the session opens. There are no runs once it is closing.
//! - *a run* of a plain function ([`IntervalLayer::new`]) is part of the session's poll. It
//!   must not block, and should send with [`try_send`](getty_core::Session::try_send). The
//!   future of an async function ([`IntervalLayer::from_async_fn`]) is polled in the
//!   connection's task beside the session, which continues meanwhile. No further run starts
//!   before it is complete; periods that end meanwhile are skipped.
//! - *an error of a run* is logged and does not affect the next run. With
//!   [`with_close_on_error`](IntervalLayer::with_close_on_error) it closes the session
//!   gracefully as [`CloseReason::Handler`], with the error as its source.
//! - *a panic of a run* ends only its session, as [`CloseReason::Panicked`].
//! - *drop, close*: a run that is not complete when the connection ends is dropped with it.
//!
//! Runs may be late if the thread is busy, but never early. A delay of a few milliseconds, as
//! timers have, does not shift later runs. A longer delay does, so runs never come in bursts.
//! The layer uses the session's one timer and costs nothing per message.
//!
//! Scope: session. It must be inside [`CodecLayer`](crate::CodecLayer), which creates the
//! session, and outside `SessionLayer`. To keep a connection alive, use
//! [`HeartbeatLayer`](crate::HeartbeatLayer), which sends only if nothing else was sent.
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_core::{Connection, HasSession};
//! use getty_layers::{CodecLayer, IntervalLayer};
//! use tokio::time::{Instant, advance};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(IntervalLayer::new(Duration::from_secs(60), |session| {
//!         session.try_send(format!("{} messages so far", session.stats().messages_in))
//!     }))
//!     // in place of `SessionLayer`
//!     .service_fn(|connection: Connection<getty_core::SessionIo<(), _, String>>| async move {
//!         let (framed, mut guard) = connection.into_parts();
//!         let mut driver = framed.into_parts().driver;
//!         guard.open();
//!         driver.poll_signals();
//!         driver.run_deadlines(driver.next_deadline().unwrap());
//!         advance(Duration::from_secs(60)).await;
//!         driver.run_deadlines(Instant::now());
//!         driver.poll_signals();
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

use getty_core::{
    Close, CloseReason, Connection, ConnectionHandle, HasSession, Session,
    hooks::{Contained, HandleExt},
    sync::Signal,
};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    configure::{Configure, Configured},
    util::hook::poll_hook,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Maximum delay of a run that still counts as punctual. Timers are not more precise.
const PUNCTUAL: Duration = Duration::from_millis(5);

/// Calls a function periodically while a session lives; see the [module](self).
///
/// `K` is [`Plain`] or [`Async`].
#[doc(alias = "cron")]
#[doc(alias = "timer")]
pub struct IntervalLayer<Out, F, K = Plain> {
    period: Duration,
    callback: Contained<F>,
    close_on_error: bool,
    kind: PhantomData<(fn(Out), K)>,
}

/// Marker of an [`IntervalLayer`] with a plain function.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// Marker of an [`IntervalLayer`] with an async function.
#[derive(Clone, Copy, Debug)]
pub struct Async;

impl<Out, F> IntervalLayer<Out, F> {
    /// Creates a new layer that calls `callback` with the session once per `period`.
    ///
    /// The callback is cloned for each connection. A period below one millisecond is one
    /// millisecond. A period beyond the range of the clock will never end.
    // This bound on the closure makes its argument type inferable.
    pub const fn new<E>(period: Duration, callback: F) -> Self
    where
        F: Fn(&Session<Out>) -> Result<(), E> + Clone,
        E: Into<BoxError>,
    {
        Self::of(period, callback)
    }
}

impl<Out, F> IntervalLayer<Out, F, Async> {
    /// Creates a new layer that calls the async function `callback` once per `period`; see
    /// [`new`](IntervalLayer::new).
    ///
    /// The function may also wait until the messages that it [sends](Session::send) are flushed.
    pub const fn from_async_fn<Fut, E>(period: Duration, callback: F) -> Self
    where
        F: Fn(Session<Out>) -> Fut + Clone,
        Fut: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        Self::of(period, callback)
    }
}

impl<Out, F, K> IntervalLayer<Out, F, K> {
    const fn of(period: Duration, callback: F) -> Self {
        Self {
            period,
            callback: Contained::new(callback),
            close_on_error: false,
            kind: PhantomData,
        }
    }

    /// Sets whether an error of the callback closes the session gracefully as
    /// [`CloseReason::Handler`] with the error as its source. The default is `false`: the error is
    /// logged and the session continues.
    #[must_use]
    pub const fn with_close_on_error(mut self, close: bool) -> Self {
        self.close_on_error = close;
        self
    }
}

impl<Out, F: Clone, K> Clone for IntervalLayer<Out, F, K> {
    fn clone(&self) -> Self {
        Self {
            callback: self.callback.clone(),
            ..*self
        }
    }
}

impl<Out, F, K> fmt::Debug for IntervalLayer<Out, F, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntervalLayer")
            .field("period", &self.period)
            .field("callback", &format_args!("{}", type_name::<F>()))
            .field("close_on_error", &self.close_on_error)
            .finish()
    }
}

impl<S, Out, F: Clone> Layer<S> for IntervalLayer<Out, F> {
    type Service = Interval<S, Out, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Configured::new(inner, self.clone())
    }
}

impl<S, Out, F: Clone> Layer<S> for IntervalLayer<Out, F, Async> {
    type Service = AsyncInterval<S, Out, F>;

    fn layer(&self, inner: S) -> Self::Service {
        AsyncInterval {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`IntervalLayer`] with a plain function.
pub type Interval<S, Out, F> = Configured<S, IntervalLayer<Out, F>>;

impl<T, F, E> Configure<T> for IntervalLayer<T::Out, F>
where
    T: HasSession,
    T::Out: Send + 'static,
    F: Fn(&Session<T::Out>) -> Result<(), E> + Clone + Send + 'static,
    E: Into<BoxError>,
{
    fn configure(&self, connection: &Connection<T>) {
        let session = connection.transport().session().clone();
        let Self {
            callback,
            close_on_error,
            ..
        } = self.clone();
        // The session loop catches panics of the whole deadline function.
        let callback = callback.into_inner();
        run_periodically(connection.handle(), self.period, move || {
            if let Err(error) = callback(&session) {
                handle_error(&session, close_on_error, error.into());
            }
        });
    }
}

/// Service of [`IntervalLayer`] with an async function.
pub struct AsyncInterval<S, Out, F> {
    inner: S,
    layer: IntervalLayer<Out, F, Async>,
}

impl<S, Out, F> AsyncInterval<S, Out, F> {
    getty_core::inner_service_accessors!();
}

impl<S: Clone, Out, F: Clone> Clone for AsyncInterval<S, Out, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, Out, F> fmt::Debug for AsyncInterval<S, Out, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncInterval")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, T, F, Fut, E> Service<Connection<T>> for AsyncInterval<S, T::Out, F>
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

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let due = Arc::new(Signal::new());
        let raised = Arc::clone(&due);
        run_periodically(connection.handle(), self.layer.period, move || {
            raised.raise(DUE);
        });
        let runs = Runs {
            due,
            waker: None,
            session: connection.transport().session().clone(),
            callback: self.layer.callback.clone(),
            close_on_error: self.layer.close_on_error,
            running: None,
        };
        ResponseFuture {
            inner: self.inner.call(connection),
            runs,
        }
    }
}

/// Calls `run` every `period` while the session is open.
fn run_periodically(
    handle: &ConnectionHandle,
    period: Duration,
    mut run: impl FnMut() + Send + 'static,
) {
    let period = period.max(Duration::from_millis(1));
    let Some(first) = handle.opened_at().checked_add(period) else {
        return;
    };
    let mut opened = false;
    let mut due = first;
    handle.schedule(first, move |handle, now| {
        if !opened {
            let Some(since) = handle.open_since() else {
                // The session opens later than now, so its first run is not earlier than this.
                return now.checked_add(period);
            };
            opened = true;
            due = since.checked_add(period)?;
            if due > now {
                return Some(due);
            }
        }
        run();
        due = next_run(due, period, now)?;
        Some(due)
    });
}

/// Returns the time of the next run, after a run that was due at `due` and has started at
/// `now`.
fn next_run(due: Instant, period: Duration, now: Instant) -> Option<Instant> {
    let punctual = now.saturating_duration_since(due) <= PUNCTUAL.min(period / 2);
    if punctual { due } else { now }.checked_add(period)
}

fn handle_error(session: &ConnectionHandle, close: bool, error: BoxError) {
    if close {
        session.close_with(Close::new(CloseReason::Handler).with_source(error));
    } else {
        let error = &*error as &dyn std::error::Error;
        tracing::warn!(connection = %session, error, "a periodic callback failed");
    }
}

/// Flag of the signal from the deadline to the connection's future. There are no others.
const DUE: u8 = 1;

/// State of the runs of one session. At most one run is in progress.
struct Runs<Out, F, Fut> {
    /// Raised by the deadline. The deadline runs while the inner future is polled, usually by this
    /// future. If another task polls the session, the signal wakes this future.
    due: Arc<Signal>,
    waker: Option<Waker>,
    session: Session<Out>,
    callback: Contained<F>,
    close_on_error: bool,
    /// Run in progress. Boxed, because an idle session should not reserve memory for it.
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
        let Self {
            session,
            callback,
            running,
            ..
        } = self;
        let start = || Box::pin(callback(session.clone()));
        match poll_hook(Pin::new(running), start, session, cx) {
            Poll::Pending => return,
            Poll::Ready(Some(error)) => {
                handle_error(session, self.close_on_error, error.into());
            }
            Poll::Ready(None) => {}
        }
        self.running = None;
    }
}

pin_project! {
    /// Future of [`AsyncInterval`].
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
