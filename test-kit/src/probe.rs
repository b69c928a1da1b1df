//! A service that checks how it is called.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use getty::{BoxError, Service};

use crate::Rule;

/// Creates a service and its controls. The service answers each request with the result of `f`.
///
/// It checks the contract of [`Service`]: a call without a ready poll panics, and its handle
/// counts the permits that are reserved. A layer around it therefore fails the test if it calls
/// a clone that is not ready, or if it keeps a permit.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Lines};
/// use getty_test::{TestSession, probe};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let (service, control) = probe(|request: Request<String>| Ok(request.into_message()));
/// let session = TestSession::stream(
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(SessionLayer::new())
///         // the message layer under test goes here
///         .service(service),
/// );
/// control.set_pending(); // as a limit that is reached
/// session.send("hello\n");
/// getty_test::settle().await;
/// assert_eq!(control.calls(), 0);
///
/// control.set_ready();
/// assert_eq!(session.line().await, "hello");
/// control.assert_idle(); // an idle session holds no permit
/// # }
/// ```
pub fn probe<F, R, T>(f: F) -> (Probe<F>, ProbeHandle)
where
    F: Fn(R) -> Result<T, BoxError>,
{
    let (core, handle) = Core::new();
    let probe = Probe {
        f: Arc::new(f),
        core,
    };
    (probe, handle)
}

/// Service that checks how it is called. Created by [`probe`].
pub struct Probe<F> {
    f: Arc<F>,
    core: Core,
}

/// Readiness of one clone.
#[derive(Debug)]
pub(crate) struct Core {
    shared: Arc<Shared>,
    /// Number of this clone.
    clone: usize,
    /// The permit of a ready poll, until the call.
    reserved: Option<Permit>,
}

/// Controls all clones of a [`Probe`].
#[derive(Clone, Debug)]
pub struct ProbeHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    readiness: Readiness,
    responses: Responses,
    /// Calls that respond although responses are held.
    released: Vec<usize>,
    /// Maximum permits, `None` without a limit.
    permits: Option<usize>,
    reserved: usize,
    in_flight: usize,
    clones: usize,
    polls: usize,
    callers: Vec<usize>,
    violations: usize,
    wakers: Vec<Waker>,
}

#[derive(Clone, Debug, Default)]
enum Readiness {
    #[default]
    Ready,
    Pending,
    Failed(String),
}

#[derive(Clone, Debug, Default)]
enum Responses {
    #[default]
    Now,
    Held,
    Failed(String),
    Panic(String),
    /// A panic without a message on the standard error.
    Unwind,
}

/// A reserved permit or a call in flight.
#[derive(Debug)]
struct Permit {
    shared: Arc<Shared>,
    called: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        f(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.change(|state| {
            if self.called {
                state.in_flight -= 1;
            } else {
                state.reserved -= 1;
            }
        });
    }
}

impl ProbeHandle {
    /// Lets readiness be pending, as of a limit that is reached.
    pub fn set_pending(&self) {
        self.0.change(|state| state.readiness = Readiness::Pending);
    }

    /// Lets the service be ready, which is the default. Wakes all waiting tasks.
    pub fn set_ready(&self) {
        self.0.change(|state| state.readiness = Readiness::Ready);
    }

    /// Lets readiness fail with this error.
    pub fn fail_ready(&self, error: impl Into<String>) {
        let readiness = Readiness::Failed(error.into());
        self.0.change(|state| state.readiness = readiness);
    }

    /// Limits the permits, which a ready poll reserves and the end of the call returns. All clones
    /// share them. The default is no limit.
    pub fn set_permits(&self, permits: usize) {
        self.0.change(|state| state.permits = Some(permits));
    }

    /// Lets responses be pending.
    pub fn hold(&self) {
        self.0.change(|state| state.responses = Responses::Held);
    }

    /// Lets the service respond, which is the default. Wakes all waiting tasks.
    pub fn release(&self) {
        self.0.change(|state| state.responses = Responses::Now);
    }

    /// Lets one call respond while responses are [held](Self::hold). The first call of all
    /// clones is 0. Wakes all waiting tasks.
    ///
    /// It tests layers that reorder or match responses.
    ///
    /// ```
    /// use getty::{Service, tower::ServiceExt};
    /// use getty_test::probe;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), getty::BoxError> {
    /// let (mut service, control) = probe(|n: u32| Ok(n));
    /// control.hold();
    /// let first = tokio::spawn(service.ready().await?.call(1));
    /// let second = tokio::spawn(service.ready().await?.call(2));
    /// control.release_call(1);
    /// assert_eq!(second.await??, 2);
    /// assert!(!first.is_finished());
    /// # Ok(())
    /// # }
    /// ```
    pub fn release_call(&self, call: usize) {
        self.0.change(|state| state.released.push(call));
    }

    /// Lets responses fail with this error.
    pub fn fail(&self, error: impl Into<String>) {
        let responses = Responses::Failed(error.into());
        self.0.change(|state| state.responses = responses);
    }

    /// Lets the futures of calls panic with this message.
    pub fn panic(&self, message: impl Into<String>) {
        let responses = Responses::Panic(message.into());
        self.0.change(|state| state.responses = responses);
    }

    /// Lets the futures of calls unwind without a message on the standard error.
    pub(crate) fn unwind(&self) {
        self.0.change(|state| state.responses = Responses::Unwind);
    }

    /// Returns how often readiness was polled.
    #[must_use]
    pub fn polls(&self) -> usize {
        self.0.lock().polls
    }

    /// Returns the number of calls.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.0.lock().callers.len()
    }

    /// Returns the clone of each call, by its number. The original is 0.
    #[must_use]
    pub fn callers(&self) -> Vec<usize> {
        self.0.lock().callers.clone()
    }

    /// Returns the number of permits that ready polls have reserved without a call.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.0.lock().reserved
    }

    /// Returns the number of calls whose future is alive.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.lock().in_flight
    }

    /// Returns the number of calls without a ready poll. Each has panicked, but a layer may have
    /// caught the panic.
    #[must_use]
    pub fn violations(&self) -> usize {
        self.0.lock().violations
    }

    /// Asserts that no permit is reserved, that no call is in flight, and that each call had its
    /// ready poll.
    ///
    /// # Panics
    ///
    /// Panics otherwise.
    #[track_caller]
    pub fn assert_idle(&self) {
        let (reserved, in_flight) = (self.reserved(), self.in_flight());
        assert_eq!(self.violations(), 0, "{}", Rule::ReadyBeforeCall);
        assert_eq!(reserved, 0, "reserved permits. {}", Rule::DropReturnsPermit);
        assert_eq!(in_flight, 0, "calls in flight. {}", Rule::DropCancels);
    }
}

impl Core {
    pub(crate) fn new() -> (Self, ProbeHandle) {
        let shared = Arc::new(Shared::default());
        let core = Self {
            shared: Arc::clone(&shared),
            clone: 0,
            reserved: None,
        };
        (core, ProbeHandle(shared))
    }

    pub(crate) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut state = self.shared.lock();
        state.polls += 1;
        match &state.readiness {
            Readiness::Ready => {}
            Readiness::Pending if self.reserved.is_some() => {}
            Readiness::Pending => {
                state.wakers.push(cx.waker().clone());
                return Poll::Pending;
            }
            Readiness::Failed(error) => return Poll::Ready(Err(error.clone().into())),
        }
        if self.reserved.is_some() {
            return Poll::Ready(Ok(()));
        }
        let used = state.reserved + state.in_flight;
        if state.permits.is_some_and(|permits| used >= permits) {
            state.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        state.reserved += 1;
        drop(state);
        self.reserved = Some(Permit {
            shared: Arc::clone(&self.shared),
            called: false,
        });
        Poll::Ready(Ok(()))
    }

    pub(crate) fn call<T>(
        &mut self,
        answer: impl FnOnce() -> Answer<T> + Send + 'static,
    ) -> ProbeFuture<T> {
        let mut state = self.shared.lock();
        let Some(mut permit) = self.reserved.take() else {
            state.violations += 1;
            drop(state);
            panic!("{}", Rule::ReadyBeforeCall);
        };
        permit.called = true;
        state.reserved -= 1;
        state.in_flight += 1;
        let number = state.callers.len();
        state.callers.push(self.clone);
        drop(state);
        ProbeFuture {
            answer: Progress::Held(Box::new(answer)),
            permit,
            number,
        }
    }
}

impl Clone for Core {
    /// Returns a clone that has reserved nothing.
    fn clone(&self) -> Self {
        let mut state = self.shared.lock();
        state.clones += 1;
        Self {
            shared: Arc::clone(&self.shared),
            clone: state.clones,
            reserved: None,
        }
    }
}

pub(crate) type Answer<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Future of a call of a [`Probe`]. It is in flight until it is dropped.
pub struct ProbeFuture<T> {
    answer: Progress<T>,
    permit: Permit,
    /// Number of the call.
    number: usize,
}

enum Progress<T> {
    Held(Box<dyn FnOnce() -> Answer<T> + Send>),
    Running(Answer<T>),
    Done,
}

impl<T> Future for ProbeFuture<T> {
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Progress::Running(answer) = &mut self.answer {
            return answer.as_mut().poll(cx);
        }
        let responses = {
            let mut state = self.permit.shared.lock();
            match state.responses {
                Responses::Held if state.released.contains(&self.number) => Responses::Now,
                Responses::Held => {
                    state.wakers.push(cx.waker().clone());
                    Responses::Held
                }
                _ => state.responses.clone(),
            }
        };
        match responses {
            Responses::Now => {}
            Responses::Held => return Poll::Pending,
            Responses::Failed(error) => return Poll::Ready(Err(error.into())),
            Responses::Panic(message) => panic!("{message}"),
            Responses::Unwind => std::panic::resume_unwind(Box::new("the inner future panics")),
        }
        let Progress::Held(answer) = std::mem::replace(&mut self.answer, Progress::Done) else {
            panic!("polled after it was ready");
        };
        let mut answer = answer();
        let poll = answer.as_mut().poll(cx);
        self.answer = Progress::Running(answer);
        poll
    }
}

impl<F> Clone for Probe<F> {
    /// Returns a clone that has reserved nothing.
    fn clone(&self) -> Self {
        Self {
            f: Arc::clone(&self.f),
            core: self.core.clone(),
        }
    }
}

impl<F, R, T> Service<R> for Probe<F>
where
    F: Fn(R) -> Result<T, BoxError> + Send + Sync + 'static,
    R: Send + 'static,
    T: Send + 'static,
{
    type Response = T;
    type Error = BoxError;
    type Future = ProbeFuture<T>;

    /// Reserves a permit. The call uses it, and a drop gives it back.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.core.poll_ready(cx)
    }

    /// # Panics
    ///
    /// Panics without a ready poll before.
    fn call(&mut self, request: R) -> ProbeFuture<T> {
        let f = Arc::clone(&self.f);
        self.core.call(move || {
            let response = f(request);
            Box::pin(async { response })
        })
    }
}

impl<F> fmt::Debug for Probe<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ProbeFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeFuture")
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}
