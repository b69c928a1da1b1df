//! Shared helpers: one second, and a connection that runs in a task.

use std::{future::Future, time::Duration};

use getty::{BoxError, Closed, Connection, ConnectionHandle, Pipeline};
use tokio::task::JoinHandle;
use tower::ServiceExt;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Calls `stack` in a new task with a connection over `transport`.
pub(crate) fn run<T, S>(
    transport: T,
    stack: S,
) -> (ConnectionHandle, JoinHandle<Result<Closed, BoxError>>)
where
    T: Send + 'static,
    S: Pipeline<T>,
{
    let (handle, call) = call(transport, stack);
    (handle, tokio::spawn(call))
}

/// Like [`run`], but the stack must not refuse the connection.
pub(crate) fn run_session<T, S>(transport: T, stack: S) -> (ConnectionHandle, JoinHandle<Closed>)
where
    T: Send + 'static,
    S: Pipeline<T>,
{
    let (handle, call) = call(transport, stack);
    (handle, tokio::spawn(async { call.await.unwrap() }))
}

fn call<T, S>(
    transport: T,
    stack: S,
) -> (
    ConnectionHandle,
    impl Future<Output = Result<Closed, BoxError>> + Send + 'static,
)
where
    T: Send + 'static,
    S: Pipeline<T>,
{
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let call = async move { stack.oneshot(connection).await.map_err(Into::into) };
    (handle, call)
}
