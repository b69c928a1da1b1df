//! Services and futures that are polled by hand.

use std::{
    error::Error,
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use getty::{BoxError, Service};
use tokio::{sync::Notify, time::timeout};

use crate::settle;

#[derive(Debug, Default)]
struct Woken {
    woken: AtomicBool,
    changed: Notify,
}

impl Woken {
    fn get(&self) -> bool {
        self.woken.load(SeqCst)
    }

    /// Runs all tasks. Then waits until the task is woken, for up to an hour: a layer may have
    /// timers, such as those of a rate. Returns `true` if it was woken.
    async fn wait(&self) -> bool {
        settle().await;
        if !self.get() {
            let _ = timeout(Duration::from_secs(3600), self.changed.notified()).await;
            settle().await;
        }
        self.get()
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.changed.notify_one();
    }
}

/// Waker of the last poll. Each poll has a new one, because a future can move to another task
/// between two polls. A wake of an earlier waker does not count.
#[derive(Debug, Default)]
struct LastWaker(Arc<Woken>);

impl LastWaker {
    fn renew(&mut self) -> Waker {
        self.0 = Arc::default();
        Waker::from(Arc::clone(&self.0))
    }
}

/// Result of polls until nothing wakes the task any more.
pub(super) enum Polled<T> {
    Ready(T),
    Stuck,
}

/// Result of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    Response,
    Error(BoxError),
    Panic,
    Stuck,
}

impl Outcome {
    /// Returns `true` if the call has failed, and the error or one of its sources has this text.
    pub(super) fn has_failed_with(&self, text: &str) -> bool {
        matches!(self, Self::Error(error) if has_cause(&**error, text))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Response => f.write_str("responds"),
            Self::Error(error) => write!(f, "fails with `{error}`"),
            Self::Panic => f.write_str("panics"),
            Self::Stuck => f.write_str("is pending"),
        }
    }
}

/// Returns `true` if the error or one of its sources has this text.
pub(super) fn has_cause(error: &(dyn Error + 'static), text: &str) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .any(|error| error.to_string().contains(text))
}

/// Number of wakes without a result after which a task is stuck.
const MAX_WAKES: usize = 1000;

/// Polls until it is ready, or until nothing wakes the last waker within an hour.
async fn finish<T>(mut poll: impl FnMut() -> (Poll<T>, Arc<Woken>)) -> Polled<T> {
    for _ in 0..MAX_WAKES {
        let (polled, woken) = poll();
        if let Poll::Ready(value) = polled {
            return Polled::Ready(value);
        }
        if !woken.wait().await {
            break;
        }
    }
    Polled::Stuck
}

/// A service with a task that is polled by hand.
pub(super) struct Spawned<S, R> {
    service: S,
    waker: LastWaker,
    request: PhantomData<fn(R)>,
}

impl<S: Service<R>, R> Spawned<S, R> {
    pub(super) fn new(service: S) -> Self {
        Self {
            service,
            waker: LastWaker::default(),
            request: PhantomData,
        }
    }

    pub(super) const fn get_ref(&self) -> &S {
        &self.service
    }

    pub(super) fn is_woken(&self) -> bool {
        self.waker.0.get()
    }

    pub(super) fn poll_ready(&mut self) -> Poll<Result<(), S::Error>> {
        let waker = self.waker.renew();
        self.service.poll_ready(&mut Context::from_waker(&waker))
    }

    pub(super) async fn ready(&mut self) -> Polled<Result<(), S::Error>> {
        finish(|| (self.poll_ready(), Arc::clone(&self.waker.0))).await
    }

    /// Returns `None` if the call panics.
    pub(super) fn call(&mut self, request: R) -> Option<Call<S::Future>> {
        let call = AssertUnwindSafe(|| self.service.call(request));
        let future = catch_unwind(call).ok()?;
        Some(Call {
            future: Some(Box::pin(future)),
            waker: LastWaker::default(),
        })
    }
}

/// A future that is polled by hand. It is dropped once it is ready.
pub(super) struct Call<F> {
    future: Option<Pin<Box<F>>>,
    waker: LastWaker,
}

impl<F, T, E> Call<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    pub(super) fn is_woken(&self) -> bool {
        self.waker.0.get()
    }

    /// Waits until the task is woken, for up to an hour.
    pub(super) async fn wait(&self) {
        self.waker.0.wait().await;
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.future.is_none()
    }

    /// Polls once. Returns the outcome if it is known.
    pub(super) fn poll(&mut self) -> Option<Outcome> {
        let waker = self.waker.renew();
        let future = self.future.as_mut()?;
        let poll = AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker)));
        let outcome = match catch_unwind(poll) {
            Ok(Poll::Pending) => return None,
            Ok(Poll::Ready(Ok(_))) => Outcome::Response,
            Ok(Poll::Ready(Err(error))) => Outcome::Error(error.into()),
            Err(_) => Outcome::Panic,
        };
        self.future = None;
        Some(outcome)
    }

    pub(super) async fn finish(&mut self) -> Outcome {
        let polled = finish(|| {
            let polled = self.poll().map_or(Poll::Pending, Poll::Ready);
            (polled, Arc::clone(&self.waker.0))
        });
        match polled.await {
            Polled::Ready(outcome) => outcome,
            Polled::Stuck => Outcome::Stuck,
        }
    }
}
