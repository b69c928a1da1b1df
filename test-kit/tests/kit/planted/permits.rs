//! Layers that lose permits which they count themselves, or that keep what they should drop.

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use getty::{BoxError, Connection, Service};
use getty_test::{LayerContract, Rule, connection};
use tokio::{sync::Semaphore, time::sleep};
use tower::layer::layer_fn;

use super::{Boxed, some};

/// End of a call that loses a permit.
#[derive(Clone, Copy, PartialEq)]
enum Loses {
    Drop,
    Error,
    Panic,
}

/// Permits 10 calls at once. One kind of ends does not give the permit back.
#[derive(Clone)]
struct Counts<S> {
    inner: S,
    calls: Arc<AtomicUsize>,
    loses: Loses,
}

/// Permit of a call. The flag is set once the call has a result.
struct Counted(Arc<AtomicUsize>, Loses, bool);

impl Drop for Counted {
    fn drop(&mut self) {
        let lost = match self.1 {
            Loses::Drop => !self.2 && !std::thread::panicking(),
            Loses::Panic => std::thread::panicking(),
            Loses::Error => false,
        };
        if !lost {
            self.0.fetch_sub(1, SeqCst);
        }
    }
}

impl<S, R> Service<R> for Counts<S>
where
    S: Service<R, Error = BoxError, Future: Send + 'static>,
    S::Response: 'static,
{
    type Response = Option<S::Response>;
    type Error = BoxError;
    type Future = Boxed<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.calls.load(SeqCst) < 10 {
            return self.inner.poll_ready(cx);
        }
        Poll::Pending
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.calls.fetch_add(1, SeqCst);
        let loses = self.loses;
        let counted = Counted(Arc::clone(&self.calls), loses, false);
        let call = self.inner.call(request);
        some(async move {
            let mut counted = counted;
            let result = call.await;
            counted.2 = true;
            if result.is_err() && loses == Loses::Error {
                std::mem::forget(counted);
            }
            result
        })
    }
}

macro_rules! loses {
    ($name:ident, $loses:expr, $rule:expr) => {
        #[tokio::test(start_paused = true)]
        async fn $name() {
            let counts = |inner| Counts {
                inner,
                calls: Arc::default(),
                loses: $loses,
            };
            assert_eq!(broken!(counts), $rule);
        }
    };
}

loses!(
    permit_that_each_drop_of_a_future_loses_is_found,
    Loses::Drop,
    Rule::DropCancels
);
loses!(
    permit_that_each_error_loses_is_found,
    Loses::Error,
    Rule::Calls
);
loses!(
    permit_that_each_panic_loses_is_found,
    Loses::Panic,
    Rule::Panics
);

/// A copy of the flag lets a clone be ready that has reserved nothing.
#[derive(Clone)]
struct CopiesReady<S>(S, bool);

impl<S: Service<R>, R> Service<R> for CopiesReady<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if self.1 {
            return Poll::Ready(Ok(()));
        }
        let ready = self.0.poll_ready(cx);
        self.1 = matches!(ready, Poll::Ready(Ok(())));
        ready
    }

    fn call(&mut self, request: R) -> S::Future {
        self.1 = false;
        self.0.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn ready_state_that_is_copied_to_a_clone_is_found() {
    assert_eq!(broken!(|inner| CopiesReady(inner, false)), Rule::Clones);
}

/// A future that is dropped later, by a task.
struct Late<F: Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future + Send> Future for Late<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.0.as_mut().unwrap().as_mut().poll(cx)
    }
}

impl<F: Send + 'static> Drop for Late<F> {
    fn drop(&mut self) {
        let future = self.0.take();
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            drop(future);
        });
    }
}

wrong!(DropsLate, self, |cx| self.inner.poll_ready(cx), |request| {
    self.flag = false;
    some(Late(Some(Box::pin(self.inner.call(request)))))
});

#[tokio::test(start_paused = true)]
async fn inner_future_that_is_dropped_late_is_found() {
    assert_eq!(broken!(DropsLate::new), Rule::DropCancels);
}

/// Keeps the rest of a connection whose call has failed.
#[derive(Clone)]
struct KeepsFailed<S>(S);

impl<S, T> Service<Connection<T>> for KeepsFailed<S>
where
    S: Service<Connection<T>, Error = BoxError, Future: Send + 'static>,
    S::Response: 'static,
    T: Send + 'static,
{
    type Response = Option<S::Response>;
    type Error = BoxError;
    type Future = Boxed<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let (transport, rest) = connection.take_transport();
        let call = self.0.call(Connection::new(transport));
        some(async move {
            let result = call.await;
            if result.is_err() {
                tokio::spawn(async move {
                    let _rest = rest;
                    pending::<()>().await;
                });
            }
            result
        })
    }
}

#[tokio::test(start_paused = true)]
async fn connection_that_is_kept_after_an_error_is_found() {
    assert_eq!(broken!(KeepsFailed, connection), Rule::Closes);
}

/// Returns its permit in the last line of the call, which a drop or a panic skips.
#[derive(Clone)]
struct ReturnsLast<S>(S, Arc<Semaphore>);

impl<S, R> Service<R> for ReturnsLast<S>
where
    S: Service<R, Error = BoxError, Future: Send + 'static>,
    S::Response: 'static,
{
    type Response = Option<S::Response>;
    type Error = BoxError;
    type Future = Boxed<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (call, limit) = (self.0.call(request), Arc::clone(&self.1));
        some(async move {
            limit.acquire().await?.forget();
            let result = call.await; // a panic or a drop skips the next line
            limit.add_permits(1);
            result
        })
    }
}

#[tokio::test(start_paused = true)]
async fn permit_that_only_the_last_line_returns_is_found() {
    let returns = |inner| ReturnsLast(inner, Arc::new(Semaphore::new(20)));
    assert_eq!(broken!(returns), Rule::DropCancels);
}

/// Counts a request from its ready poll on, and does not notice a drop before the call.
struct CountsReady<S> {
    inner: S,
    requests: Arc<AtomicUsize>,
    is_ready: bool,
}

impl<S: Clone> Clone for CountsReady<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            requests: Arc::clone(&self.requests),
            is_ready: false,
        }
    }
}

impl<S, R> Service<R> for CountsReady<S>
where
    S: Service<R, Error = BoxError, Future: Send + 'static>,
    S::Response: 'static,
{
    type Response = Option<S::Response>;
    type Error = BoxError;
    type Future = Boxed<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if !self.is_ready && self.requests.load(SeqCst) >= 10 {
            return Poll::Pending;
        }
        let ready = self.inner.poll_ready(cx);
        if ready.is_ready() && !self.is_ready {
            self.requests.fetch_add(1, SeqCst);
            self.is_ready = true;
        }
        ready
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.is_ready = false;
        let counted = Counted(Arc::clone(&self.requests), Loses::Error, true);
        let call = self.inner.call(request);
        some(async move {
            let _counted = counted;
            call.await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn permit_that_a_drop_of_a_ready_clone_loses_is_found() {
    let counts = |inner| CountsReady {
        inner,
        requests: Arc::default(),
        is_ready: false,
    };
    assert_eq!(broken!(counts), Rule::DropReturnsPermit);
}

wrong!(TimesOut, self, |cx| self.inner.poll_ready(cx), |request| {
    self.flag = false;
    let call = self.inner.call(request);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(call);
    Box::pin(async move {
        let response = tokio::time::timeout(Duration::from_secs(60), task.join_next()).await;
        match response {
            Ok(response) => response.ok_or("no task")??.map(Some),
            Err(late) => {
                task.detach_all(); // it should be aborted
                Err(late.into())
            }
        }
    })
});

#[tokio::test(start_paused = true)]
async fn inner_future_that_survives_a_timeout_is_found() {
    assert_eq!(broken!(TimesOut::new), Rule::DropCancels);
}
