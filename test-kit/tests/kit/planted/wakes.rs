//! Layers that lose a wake.

use std::{
    future::poll_fn,
    mem::take,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use getty::{BoxError, Service};
use getty_test::{LayerContract, Rule};
use tower::layer::layer_fn;

use super::{Boxed, some};

/// Waits with the waker of its first poll.
struct KeepsFirstWaker<S>(S, Option<Waker>);

impl<S: Clone> Clone for KeepsFirstWaker<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), None)
    }
}

impl<S: Service<R>, R> Service<R> for KeepsFirstWaker<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let first = self.1.get_or_insert_with(|| cx.waker().clone());
        self.0.poll_ready(&mut Context::from_waker(first))
    }

    fn call(&mut self, request: R) -> S::Future {
        self.1 = None;
        self.0.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn waker_of_the_first_ready_poll_that_is_kept_is_found() {
    let keeps = |inner| KeepsFirstWaker(inner, None);
    assert_eq!(broken!(keeps), Rule::Wakes);
}

wrong!(
    KeepsFirstResponseWaker,
    self,
    |cx| self.inner.poll_ready(cx),
    |request| {
        self.flag = false;
        let mut call = Box::pin(self.inner.call(request));
        let mut first = None;
        some(poll_fn(move |cx| {
            let first = first.get_or_insert_with(|| cx.waker().clone());
            call.as_mut().poll(&mut Context::from_waker(first))
        }))
    }
);

#[tokio::test(start_paused = true)]
async fn waker_of_the_first_response_poll_that_is_kept_is_found() {
    assert_eq!(broken!(KeepsFirstResponseWaker::new), Rule::Wakes);
}

wrong!(
    RegistersLate,
    self,
    |cx| {
        // the first poll does not register the waker
        let mut noop = Context::from_waker(Waker::noop());
        let is_first = !std::mem::replace(&mut self.flag, true);
        self.inner.poll_ready(if is_first { &mut noop } else { cx })
    },
    |request| {
        self.flag = false;
        some(self.inner.call(request))
    }
);

#[tokio::test(start_paused = true)]
async fn waker_that_only_the_second_poll_registers_is_found() {
    assert_eq!(broken!(RegistersLate::new), Rule::Wakes);
}

/// Wakes the task that has polled any of its clones last.
#[derive(Clone)]
struct SharesWaker<S>(S, Arc<Slot>);

#[derive(Default)]
struct Slot(Mutex<Option<Waker>>);

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        let waker = self.0.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<S: Service<R>, R> Service<R> for SharesWaker<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        *self.1.0.lock().unwrap() = Some(cx.waker().clone());
        let shared = Waker::from(Arc::clone(&self.1));
        self.0.poll_ready(&mut Context::from_waker(&shared))
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn waker_that_clones_share_is_found() {
    let shares = |inner| SharesWaker(inner, Arc::default());
    assert_eq!(broken!(shares), Rule::Wakes);
}

/// Wakes the task that has polled any of its calls last.
#[derive(Clone)]
struct CallsShareWaker<S>(S, Arc<Slot>);

impl<S, R> Service<R> for CallsShareWaker<S>
where
    S: Service<R, Error = BoxError, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Boxed<S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let slot = Arc::clone(&self.1);
        let mut call = Box::pin(self.0.call(request));
        Box::pin(poll_fn(move |cx| {
            *slot.0.lock().unwrap() = Some(cx.waker().clone());
            let shared = Waker::from(Arc::clone(&slot));
            call.as_mut().poll(&mut Context::from_waker(&shared))
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn waker_that_calls_share_is_found() {
    let shares = |inner| CallsShareWaker(inner, Arc::default());
    assert_eq!(broken!(shares), Rule::Wakes);
}

wrong!(
    SwallowsLateReadinessErrors,
    self,
    |cx| match self.inner.poll_ready(cx) {
        Poll::Pending => {
            self.flag = true;
            Poll::Pending
        }
        // an error is passed on, but not to a task that has waited
        Poll::Ready(Err(_)) if take(&mut self.flag) => Poll::Pending,
        ready => ready,
    },
    |request| some(self.inner.call(request))
);

#[tokio::test(start_paused = true)]
async fn readiness_error_that_waiting_tasks_do_not_see_is_found() {
    let rule = broken!(SwallowsLateReadinessErrors::new);
    assert_eq!(rule, Rule::ReadinessErrors);
}
