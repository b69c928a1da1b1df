//! Requests for services that are tested without a session loop.

use std::future::pending;

use getty::{
    BoxError, Closed, Connection, ConnectionHandle, Reply, Request, Session, SessionIo, driver,
};

use crate::probe::Answer;

/// Returns a connection without a transport, for connection layers.
#[must_use]
pub fn connection() -> Connection<()> {
    Connection::new(())
}

/// Returns a connection as `CodecLayer` creates it, for layers that need the session.
#[must_use]
pub fn session_connection<C, Out>(codec: C) -> Connection<SessionIo<(), C, Out>> {
    let connection = Connection::new(());
    let (_, driver) = driver::pair(connection.handle().clone());
    connection.map_transport(|()| SessionIo::new((), codec, driver, 64 * 1024))
}

/// Returns a session without a session loop. Its messages stay in the queue.
///
/// It is open as long as the runtime.
///
/// # Panics
///
/// Panics outside of a tokio runtime.
#[must_use]
pub fn session<Out: Send + 'static>() -> Session<Out> {
    let connection = Connection::new(());
    let (session, driver) = driver::pair(connection.handle().clone());
    let ((), mut guard) = connection.into_parts();
    guard.open();
    tokio::spawn(async move {
        let _session_loop = (driver, guard);
        pending::<()>().await;
    });
    session
}

/// Returns a message of a new [`session`], for message layers and handlers.
///
/// ```
/// use getty::{Request, service_fn, tower::ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), getty::BoxError> {
/// let handler = service_fn(async |request: Request<String>| {
///     request.session().try_send("a push".to_owned())?;
///     Ok::<_, getty::BoxError>(request.into_message())
/// });
/// let request = getty_test::request("hello".to_owned());
/// let session = request.session().clone();
/// assert_eq!(handler.oneshot(request).await?, "hello");
/// assert_eq!(session.queued(), 1);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// Panics outside of a tokio runtime.
#[must_use]
pub fn request<In, Out: Send + 'static>(message: In) -> Request<In, Out> {
    Request::new(message, session())
}

/// Request that [`assert_layer_contract`](crate::assert_layer_contract) can call a layer with.
///
/// It is implemented for connections, for messages, and for some simple types as requests of
/// other services. Implement it for the request type of a layer that accepts no other.
pub trait ContractRequest: Send + 'static {
    /// Response of the service inside the layer.
    type Response: Send + 'static;

    /// Responds to the request.
    fn respond(self) -> impl Future<Output = Result<Self::Response, BoxError>> + Send + 'static;

    /// Returns the handle of the connection that ends with the call. The default is `None`.
    fn connection(&self) -> Option<ConnectionHandle> {
        None
    }
}

impl<T: Send + 'static> ContractRequest for Connection<T> {
    type Response = Closed;

    /// Drops the connection, and returns its record.
    async fn respond(self) -> Result<Closed, BoxError> {
        let handle = self.handle().clone();
        drop(self);
        Ok(handle.closed().await)
    }

    fn connection(&self) -> Option<ConnectionHandle> {
        Some(self.handle().clone())
    }
}

impl<In: Send + 'static, Out: Send + 'static> ContractRequest for Request<In, Out> {
    type Response = Reply<Out>;

    /// Does not reply.
    async fn respond(self) -> Result<Reply<Out>, BoxError> {
        Ok(Reply::none())
    }
}

macro_rules! echo {
    ($($request:ty),*) => {$(
        impl ContractRequest for $request {
            type Response = Self;

            /// Returns the request.
            async fn respond(self) -> Result<Self, BoxError> {
                Ok(self)
            }
        }
    )*};
}

echo!((), bool, u32, u64, usize, String, &'static str, Vec<u8>);

pub(crate) fn answer<R: ContractRequest>(request: R) -> Answer<R::Response> {
    Box::pin(request.respond())
}
