//! Wrong layers. The contract must find the broken rule of each.

use std::{
    convert::identity,
    future::{pending, poll_fn},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use getty::{BoxError, Connection, Service};
use getty_test::{LayerContract, Rule, connection};
use tower::layer::layer_fn;

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Checks a layer with requests of the type `u32` and returns the rule that it breaks.
macro_rules! broken {
    ($layer:expr) => {
        broken!($layer, || 1_u32)
    };
    ($layer:expr, $request:expr) => {{
        let broken = LayerContract::new()
            .check(&layer_fn($layer), $request)
            .await;
        let broken = broken.expect_err("the layer is wrong");
        println!("{broken}");
        assert!(broken.to_string().contains(broken.rule().text()));
        broken.rule()
    }};
}

/// Declares a wrong layer as a service over `inner`, with its `poll_ready` and `call`.
macro_rules! wrong {
    (
        $name:ident,
        $self:ident,
        |$cx:ident| $ready:expr,
        |$request:ident| $call:expr
    ) => {
        #[derive(Clone)]
        struct $name<S> {
            inner: S,
            flag: bool,
        }

        impl<S> $name<S> {
            fn new(inner: S) -> Self {
                Self { inner, flag: false }
            }
        }

        impl<S, R> Service<R> for $name<S>
        where
            S: Service<R, Error = BoxError, Future: Send + 'static> + Clone + Send + 'static,
            S::Response: Send,
            R: Clone + Send + 'static,
        {
            type Response = Option<S::Response>;
            type Error = BoxError;
            type Future = Boxed<Self::Response>;

            fn poll_ready(&mut $self, $cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
                $ready
            }

            fn call(&mut $self, $request: R) -> Self::Future {
                $call
            }
        }
    };
}

mod permits;
mod responses;
mod wakes;

fn some<T: 'static>(
    call: impl Future<Output = Result<T, BoxError>> + Send + 'static,
) -> Boxed<Option<T>> {
    Box::pin(async { call.await.map(Some) })
}

wrong!(
    Transparent,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        some(self.inner.call(request))
    }
);

#[tokio::test(start_paused = true)]
async fn layer_that_changes_nothing_passes() {
    let contract = LayerContract::new();
    contract.assert(&layer_fn(Transparent::new), || 1_u32).await;
    contract.assert(&layer_fn(identity), connection).await;
}

wrong!(
    WaitsBeforeCall,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        some(async move {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            inner.call(request).await
        })
    }
);

#[tokio::test(start_paused = true)]
async fn layer_that_waits_with_the_ready_service_passes() {
    let contract = LayerContract::new();
    contract
        .assert(&layer_fn(WaitsBeforeCall::new), || 1_u32)
        .await;
}

wrong!(
    CallsClone,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let mut clone = self.inner.clone();
        Box::pin(async move { clone.call(request).await.map(Some) })
    }
);

#[tokio::test(start_paused = true)]
async fn call_of_a_clone_that_is_not_ready_is_found() {
    assert_eq!(broken!(CallsClone::new), Rule::ReadyBeforeCall);
}

wrong!(AlwaysReady, self, |_cx| Poll::Ready(Ok(())), |request| {
    self.flag = false;
    some(self.inner.call(request))
});

#[tokio::test(start_paused = true)]
async fn readiness_that_is_not_forwarded_is_found() {
    assert_eq!(broken!(AlwaysReady::new), Rule::ReadyBeforeCall);
}

wrong!(
    ForgetsReady,
    self,
    |cx| {
        let ready = self.inner.poll_ready(cx);
        if ready.is_ready() && !self.flag {
            self.flag = true;
            self.inner = self.inner.clone();
        }
        ready
    },
    |request| some(self.inner.call(request))
);

#[tokio::test(start_paused = true)]
async fn ready_service_that_is_replaced_is_found() {
    // the first poll is lost with the replaced service, and the next ones are not
    assert_eq!(broken!(ForgetsReady::new), Rule::ReadyBeforeCall);
}

wrong!(
    CachesReady,
    self,
    |cx| {
        if self.flag {
            return Poll::Ready(Ok(()));
        }
        let ready = self.inner.poll_ready(cx);
        self.flag = ready.is_ready();
        ready
    },
    |request| some(self.inner.call(request))
);

#[tokio::test(start_paused = true)]
async fn ready_state_that_outlives_the_call_is_found() {
    assert_eq!(broken!(CachesReady::new), Rule::ReadyBeforeCall);
}

wrong!(
    ReadyOnce,
    self,
    |cx| {
        self.flag = !self.flag;
        let ready = self.inner.poll_ready(cx);
        if self.flag { ready } else { Poll::Pending }
    },
    |request| {
        self.flag = false;
        some(self.inner.call(request))
    }
);

#[tokio::test(start_paused = true)]
async fn readiness_that_ends_without_a_call_is_found() {
    assert_eq!(broken!(ReadyOnce::new), Rule::ReadyStaysReady);
}

wrong!(
    LosesReadyWake,
    self,
    |_cx| {
        self.flag = false;
        self.inner
            .poll_ready(&mut Context::from_waker(Waker::noop()))
    },
    |request| some(self.inner.call(request))
);

#[tokio::test(start_paused = true)]
async fn lost_wake_of_readiness_is_found() {
    assert_eq!(broken!(LosesReadyWake::new), Rule::Wakes);
}

wrong!(
    LosesResponseWake,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let mut call = Box::pin(self.inner.call(request));
        some(poll_fn(move |_| {
            call.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }))
    }
);

#[tokio::test(start_paused = true)]
async fn lost_wake_of_a_response_is_found() {
    assert_eq!(broken!(LosesResponseWake::new), Rule::Wakes);
}

wrong!(Detaches, self, |cx| self.inner.poll_ready(cx), |request| {
    self.flag = false;
    let task = tokio::spawn(self.inner.call(request));
    Box::pin(async { task.await?.map(Some) })
});

#[tokio::test(start_paused = true)]
async fn permit_that_is_kept_after_a_drop_of_the_future_is_found() {
    assert_eq!(broken!(Detaches::new), Rule::DropCancels);
}

wrong!(
    DetachesUnpolled,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let (mut polled, was_polled) = tokio::sync::oneshot::channel::<()>();
        let call = self.inner.call(request);
        // the task ends with the future, but only if that was polled once
        let task = tokio::spawn(async move {
            let _ = was_polled.await;
            call.await
        });
        Box::pin(async move {
            let task = tokio_task_guard(task);
            let _ = &mut polled;
            drop(polled);
            task.await.map(Some)
        })
    }
);

/// Aborts the task when the future is dropped.
async fn tokio_task_guard<T>(
    task: tokio::task::JoinHandle<Result<T, BoxError>>,
) -> Result<T, BoxError> {
    struct Abort(tokio::task::AbortHandle);
    impl Drop for Abort {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let _abort = Abort(task.abort_handle());
    task.await?
}

#[tokio::test(start_paused = true)]
async fn permit_that_is_kept_after_a_drop_of_an_unpolled_future_is_found() {
    assert_eq!(broken!(DetachesUnpolled::new), Rule::DropCancels);
}

wrong!(
    SwallowsErrors,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let call = self.inner.call(request);
        Box::pin(async { Ok(call.await.ok()) })
    }
);

#[tokio::test(start_paused = true)]
async fn swallowed_error_is_found() {
    assert_eq!(broken!(SwallowsErrors::new), Rule::Errors);
}

wrong!(
    ReplacesErrors,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let call = self.inner.call(request);
        Box::pin(async { call.await.map(Some).map_err(|_| "something failed".into()) })
    }
);

#[tokio::test(start_paused = true)]
async fn error_without_its_cause_is_found() {
    assert_eq!(broken!(ReplacesErrors::new), Rule::Errors);
}

wrong!(
    SwallowsReadinessErrors,
    self,
    |cx| match self.inner.poll_ready(cx) {
        Poll::Ready(Err(_)) => {
            self.flag = true;
            Poll::Ready(Ok(()))
        }
        ready => ready,
    },
    |request| {
        if std::mem::take(&mut self.flag) {
            return Box::pin(async { Ok(None) });
        }
        some(self.inner.call(request))
    }
);

wrong!(
    WakesForEver,
    self,
    |cx| match self.inner.poll_ready(cx) {
        Poll::Ready(Err(_)) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        poll => poll,
    },
    |request| {
        self.flag = false;
        some(self.inner.call(request))
    }
);

#[tokio::test(start_paused = true)]
async fn readiness_that_wakes_itself_for_ever_is_found() {
    assert_eq!(broken!(WakesForEver::new), Rule::ReadinessErrors);
}

wrong!(
    ReservesEarly,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let call = self.inner.call(request);
        // the permit of a request that may never come
        let _ = self
            .inner
            .poll_ready(&mut Context::from_waker(Waker::noop()));
        some(call)
    }
);

#[tokio::test(start_paused = true)]
async fn permit_that_is_kept_between_requests_is_found() {
    assert_eq!(broken!(ReservesEarly::new), Rule::DropReturnsPermit);
}

#[tokio::test(start_paused = true)]
async fn swallowed_readiness_error_is_found() {
    assert_eq!(broken!(SwallowsReadinessErrors::new), Rule::ReadinessErrors);
}

wrong!(
    BreaksAfterError,
    self,
    |cx| {
        let ready = self.inner.poll_ready(cx);
        if self.flag { Poll::Pending } else { ready }
    },
    |request| {
        // a flag of the service stands for the error of a call
        self.flag = true;
        some(self.inner.call(request))
    }
);

#[tokio::test(start_paused = true)]
async fn service_that_ends_after_its_first_call_is_found() {
    assert_eq!(broken!(BreaksAfterError::new), Rule::Wakes);
}

wrong!(
    CallsTwice,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let first = self.inner.call(request.clone());
        let mut inner = self.inner.clone();
        Box::pin(async move {
            first.await?;
            poll_fn(|cx| inner.poll_ready(cx)).await?;
            inner.call(request).await.map(Some)
        })
    }
);

#[tokio::test(start_paused = true)]
async fn second_call_of_the_inner_service_is_found() {
    assert_eq!(broken!(CallsTwice::new), Rule::Calls);
}

wrong!(
    DropsRequests,
    self,
    |cx| self.inner.poll_ready(cx),
    |_request| {
        self.flag = false;
        Box::pin(async { Ok(None) })
    }
);

#[tokio::test(start_paused = true)]
async fn request_that_is_dropped_is_found() {
    assert_eq!(broken!(DropsRequests::new), Rule::Calls);
}

wrong!(
    SwallowsPanics,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let mut call = Box::pin(self.inner.call(request));
        Box::pin(poll_fn(move |cx| {
            let poll = AssertUnwindSafe(|| call.as_mut().poll(cx));
            match std::panic::catch_unwind(poll) {
                Ok(poll) => poll.map_ok(Some),
                Err(_) => Poll::Ready(Ok(None)),
            }
        }))
    }
);

#[tokio::test(start_paused = true)]
async fn swallowed_panic_is_found() {
    assert_eq!(broken!(SwallowsPanics::new), Rule::Panics);
}

/// All clones share one inner service.
#[derive(Clone)]
struct Shared<S>(Arc<Mutex<S>>);

impl<S: Service<R>, R> Service<R> for Shared<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.lock().unwrap().poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        // a panic inside must not poison the mutex
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn state_that_clones_share_is_found() {
    let shared = |inner| Shared(Arc::new(Mutex::new(inner)));
    assert_eq!(broken!(shared), Rule::Clones);
}

/// Keeps the inner service alive after the drop of a clone.
struct KeepsService<S: Send + 'static>(Option<S>);

impl<S: Clone + Send> Clone for KeepsService<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Send + 'static> Drop for KeepsService<S> {
    fn drop(&mut self) {
        let inner = self.0.take();
        tokio::spawn(async move {
            let _inner = inner;
            pending::<()>().await;
        });
    }
}

impl<S: Service<R> + Send, R> Service<R> for KeepsService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.as_mut().unwrap().poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.as_mut().unwrap().call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn permit_that_is_kept_after_a_drop_of_the_service_is_found() {
    let keeps = |inner| KeepsService(Some(inner));
    assert_eq!(broken!(keeps), Rule::DropReturnsPermit);
}

/// Passes another connection on and keeps the first.
#[derive(Clone)]
struct KeepsConnection<S>(S);

impl<S: Service<Connection<T>>, T: Send + 'static> Service<Connection<T>> for KeepsConnection<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        let (transport, rest) = connection.take_transport();
        tokio::spawn(async move {
            let _rest = rest;
            pending::<()>().await;
        });
        self.0.call(Connection::new(transport))
    }
}

#[tokio::test(start_paused = true)]
async fn connection_that_is_kept_open_is_found() {
    assert_eq!(broken!(KeepsConnection, connection), Rule::Closes);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the inner service must be called by the clone that was polled ready")]
async fn failed_assertion_cites_the_rule() {
    getty_test::assert_layer_contract(&layer_fn(CallsClone::new), || 1_u32).await;
}

#[tokio::test]
#[should_panic(expected = "the test kit needs a paused clock")]
async fn running_clock_is_refused() {
    getty_test::assert_layer_contract(&layer_fn(identity), || 1_u32).await;
}
