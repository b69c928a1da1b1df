//! Services and futures that are polled by hand.

use std::{
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

use crate::{advance, settle};

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
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

/// Number of wakes without a result after which a task is stuck.
const MAX_WAKES: usize = 1000;

/// Polls until it is ready, or until nothing wakes the task within an hour.
async fn finish<T>(woken: &Woken, mut poll: impl FnMut() -> Poll<T>) -> Polled<T> {
    for _ in 0..MAX_WAKES {
        if let Poll::Ready(value) = poll() {
            return Polled::Ready(value);
        }
        settle().await;
        if !woken.0.load(SeqCst) {
            // timers of the layer, such as those of a rate
            advance(Duration::from_secs(3600)).await;
        }
        if !woken.0.load(SeqCst) {
            break;
        }
    }
    Polled::Stuck
}

/// A service with a task that is polled by hand.
pub(super) struct Spawned<S, R> {
    service: S,
    woken: Arc<Woken>,
    request: PhantomData<fn(R)>,
}

impl<S: Service<R>, R> Spawned<S, R> {
    pub(super) fn new(service: S) -> Self {
        Self {
            service,
            woken: Arc::default(),
            request: PhantomData,
        }
    }

    pub(super) const fn get_ref(&self) -> &S {
        &self.service
    }

    pub(super) fn is_woken(&self) -> bool {
        self.woken.0.load(SeqCst)
    }

    pub(super) fn poll_ready(&mut self) -> Poll<Result<(), S::Error>> {
        self.woken.0.store(false, SeqCst);
        let waker = Waker::from(Arc::clone(&self.woken));
        self.service.poll_ready(&mut Context::from_waker(&waker))
    }

    pub(super) async fn ready(&mut self) -> Polled<Result<(), S::Error>> {
        let woken = Arc::clone(&self.woken);
        finish(&woken, || self.poll_ready()).await
    }

    /// Returns `None` if the call panics.
    pub(super) fn call(&mut self, request: R) -> Option<Call<S::Future>> {
        let call = AssertUnwindSafe(|| self.service.call(request));
        let future = catch_unwind(call).ok()?;
        Some(Call {
            future: Some(Box::pin(future)),
            woken: Arc::default(),
        })
    }
}

/// A future that is polled by hand. It is dropped once it is ready.
pub(super) struct Call<F> {
    future: Option<Pin<Box<F>>>,
    woken: Arc<Woken>,
}

impl<F, T, E> Call<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    pub(super) fn is_woken(&self) -> bool {
        self.woken.0.load(SeqCst)
    }

    /// Polls once. Returns the outcome if it is known.
    pub(super) fn poll(&mut self) -> Option<Outcome> {
        self.woken.0.store(false, SeqCst);
        let future = self.future.as_mut()?;
        let waker = Waker::from(Arc::clone(&self.woken));
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
        let woken = Arc::clone(&self.woken);
        let polled = finish(&woken, || match self.poll() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        });
        match polled.await {
            Polled::Ready(outcome) => outcome,
            Polled::Stuck => Outcome::Stuck,
        }
    }
}
