//! What several of these tests need.

use getty::{BoxError, Closed, Connection, ConnectionHandle, Pipeline};
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// How a connection ended.
pub(crate) type Ended = JoinHandle<Result<Closed, BoxError>>;

/// Runs one connection over `transport` through `stack`, on a task of its own.
pub(crate) fn run<T, S>(transport: T, stack: S) -> (ConnectionHandle, Ended)
where
    T: Send + 'static,
    S: Pipeline<T>,
{
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let task = tokio::spawn(async move { stack.oneshot(connection).await.map_err(Into::into) });
    (handle, task)
}
