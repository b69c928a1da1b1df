//! Says goodbye to people who type nothing.
//!
//! - *ready*: the inner service's.
//! - *call*: runs the inner service and, beside it, a timer that is set anew only when it fires too early.
//! - *close*: with [`CloseReason::IdleTimeout`], after a last line.
//!
//! Scope: session. It stands between `CodecLayer`, which makes the session that it sends to, and `SessionLayer`.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use getty::{CloseReason, Connection, ConnectionHandle, Layer, Service, layers::HasSession};

use crate::rooms::Line;

#[derive(Clone, Debug)]
pub(crate) struct IdleLayer {
    after: Duration,
    farewell: Line,
}

impl IdleLayer {
    pub(crate) fn new(after: Duration, farewell: &str) -> Self {
        Self {
            after,
            farewell: farewell.into(),
        }
    }
}

impl<S> Layer<S> for IdleLayer {
    type Service = Idle<S>;

    fn layer(&self, inner: S) -> Idle<S> {
        Idle {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Idle<S> {
    inner: S,
    layer: IdleLayer,
}

impl<S, T> Service<Connection<T>> for Idle<S>
where
    T: HasSession<Out = Line>,
    S: Service<Connection<T>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    // boxed, which is once a connection; a future of one's own would spare that
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let IdleLayer { after, farewell } = self.layer.clone();
        let session = connection.transport().session().clone();
        let life = self.inner.call(connection);
        Box::pin(async move {
            let mut life = pin!(life);
            tokio::select! {
                ended = &mut life => return ended,
                () = silence(&session, after) => {}
            }
            // no room for it means that the person does not read, either
            let _ = session.try_send(farewell);
            session.close_with(CloseReason::IdleTimeout);
            life.await
        })
    }
}

/// Until there was no message for so long.
async fn silence(handle: &ConnectionHandle, after: Duration) {
    loop {
        let active = handle.last_active();
        let Some(until) = active.checked_add(after) else {
            return std::future::pending().await; // that far no clock goes
        };
        tokio::time::sleep_until(until).await;
        if handle.last_active() == active {
            return;
        }
    }
}
