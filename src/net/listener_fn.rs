//! A listener made from an async function.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::{Address, Connection};

use super::listener::Listener;

/// Creates a listener from an async function that accepts one connection.
///
/// It serves transports whose listener getty does not know: a simulated network, a socket of
/// another library, a queue of pipes in a test. `local` is what [`Listener::local_addr`]
/// returns. The connector of such a transport is a tower
/// [`service_fn`](crate::service_fn) that returns a [`Connection`].
///
/// `accept` is called again once its future has resolved. One future is in progress at a time,
/// and its allocation is reused. `accept` must do no I/O with the peer, because a silent peer
/// would stop the listener: a layer may do this. A source that has ended must stay pending.
///
/// An error concerns a single connection or is temporary, as with [`Listener::poll_accept`].
/// After `ConnectionAborted`, the kind for an error of one connection, the next accept begins
/// at once. Other kinds may pause the listener for up to a second.
///
/// A poll that is cancelled loses no connection. The accept in progress is dropped with the
/// listener, and a connection that it has already taken is lost.
///
/// ```
/// use std::{net::SocketAddr, sync::Arc};
///
/// use getty::{BoxError, CodecLayer, Connection, Endpoints, ServiceBuilder, SessionLayer};
/// use getty::{TransportKind, codec::Lines, handle, net::listener_fn, service_fn};
/// use getty::tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// // sockets of any library whose functions have this shape
/// use tokio::net::{TcpListener, TcpStream};
///
/// let socket = Arc::new(TcpListener::bind("127.0.0.1:0").await?);
/// let local = socket.local_addr()?;
/// let listener = listener_fn(local, move || {
///     let socket = Arc::clone(&socket);
///     async move {
///         let (stream, peer) = socket.accept().await?;
///         let ends = Endpoints::new(TransportKind::Tcp, local.into(), peer.into());
///         Ok(Connection::with_endpoints(stream, ends))
///     }
/// });
/// let connector = service_fn(async |target: SocketAddr| {
///     let stream = TcpStream::connect(target).await?;
///     let ends = Endpoints::new(TransportKind::Tcp, stream.local_addr()?.into(), target.into());
///     Ok::<_, BoxError>(Connection::with_endpoints(stream, ends))
/// });
///
/// let echo = ServiceBuilder::new()
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service(handle(async |line: String| line));
/// tokio::spawn(async move { getty::serve(listener, echo).await });
/// let connection = connector.oneshot(local).await?;
/// # assert_eq!(connection.handle().peer_addr().socket_addr(), Some(local));
/// # Ok(())
/// # }
/// ```
pub fn listener_fn<F, Fut, Io>(local: impl Into<Address>, accept: F) -> ListenerFn<F, Fut>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<Connection<Io>>> + Send + 'static,
    Io: Send + 'static,
{
    ListenerFn {
        accepting: Box::pin(None),
        accept,
        local: local.into(),
    }
}

/// Listener created by [`listener_fn`].
pub struct ListenerFn<F, Fut> {
    /// Accept in progress. It is dropped before the function.
    accepting: Pin<Box<Option<Fut>>>,
    accept: F,
    local: Address,
}

impl<F, Fut, Io> Listener for ListenerFn<F, Fut>
where
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<Connection<Io>>> + Send + 'static,
    Io: Send + 'static,
{
    type Io = Io;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Io>>> {
        if self.accepting.is_none() {
            let accept = (self.accept)();
            self.accepting.set(Some(accept));
        }
        let Some(accepting) = self.accepting.as_mut().as_pin_mut() else {
            unreachable!("the future was just stored");
        };
        let accepted = ready!(accepting.poll(cx));
        self.accepting.set(None);
        Poll::Ready(accepted)
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.local.clone())
    }
}

impl<F, Fut> fmt::Debug for ListenerFn<F, Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerFn")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}
