//! Layers that mix up responses, or whose calls need their service.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use getty::{BoxError, Service};
use getty_test::{LayerContract, Rule};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
};
use tower::layer::layer_fn;

use super::Boxed;

type Waiting<T> = Arc<Mutex<VecDeque<oneshot::Sender<Result<T, BoxError>>>>>;

/// Gives each response to the request that has waited longest.
struct Swaps<S, T> {
    inner: S,
    waiting: Waiting<T>,
}

impl<S: Clone, T> Clone for Swaps<S, T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            waiting: Arc::default(),
        }
    }
}

impl<S, R, T> Service<R> for Swaps<S, T>
where
    S: Service<R, Response = T, Error = BoxError, Future: Send + 'static>,
    T: Send + 'static,
{
    type Response = T;
    type Error = BoxError;
    type Future = Boxed<T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Boxed<T> {
        let (send, response) = oneshot::channel();
        self.waiting.lock().unwrap().push_back(send);
        let (call, waiting) = (self.inner.call(request), Arc::clone(&self.waiting));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let response = call.await;
            let first = waiting.lock().unwrap().pop_front();
            let _ = first.map(|first| first.send(response));
        });
        Box::pin(async move {
            // the task ends with this future
            let _task = task;
            response.await?
        })
    }
}

#[tokio::test(start_paused = true)]
async fn response_to_another_request_is_found() {
    let swaps = |inner| Swaps {
        inner,
        waiting: Waiting::<u32>::default(),
    };
    assert_eq!(broken!(swaps), Rule::Calls);
}

/// Ends its calls when the service is dropped.
struct Owns<S>(S, Vec<AbortHandle>);

impl<S: Clone> Clone for Owns<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), Vec::new())
    }
}

impl<S> Drop for Owns<S> {
    fn drop(&mut self) {
        self.1.iter().for_each(AbortHandle::abort);
    }
}

impl<S, R> Service<R> for Owns<S>
where
    S: Service<R, Error = BoxError, Future: Send + 'static>,
    S::Response: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Boxed<S::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let mut task = JoinSet::new();
        self.1.push(task.spawn(self.0.call(request)));
        Box::pin(async move { task.join_next().await.ok_or("no task")?? })
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_ends_with_its_service_is_found() {
    assert_eq!(broken!(|inner| Owns(inner, Vec::new())), Rule::Calls);
}
