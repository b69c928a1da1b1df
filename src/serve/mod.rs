//! Servers: accept connections, run each through the stack on a separate task, and drain them
//! at a shutdown.

mod acceptor;
mod connections;
mod signal;

use std::{
    error::Error,
    fmt,
    future::{Future, IntoFuture, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Close, hooks::Contained};
use getty_layers::clone_per_call::ClonePerCall;
use tokio::time::Instant;
use tower::BoxError;

pub use self::signal::shutdown_signal;
use self::{
    acceptor::{Accept, Acceptor},
    connections::Connections,
};
use crate::{net::Listener, pipeline::Pipeline, session::CLOSE_HANDSHAKE_TIMEOUT};

/// Serves the connections of `listener` with `stack` until a shutdown. The result must be
/// awaited.
///
/// The loop accepts one connection, polls the stack ready, then calls it. At most one accepted
/// connection waits, so limits push back into the kernel's backlog. Each connection runs on a
/// separate task.
///
/// An idle listener holds no permit, with one exception. `stack` is not cloned, so a permit
/// that a layer reserved and did not use stays with it until the next connection. This may
/// happen after a refusal by tower's `load_shed`. It matters if other listeners share the
/// limit. [`serve_all`] avoids it, also for a single listener.
///
/// # Errors
///
/// Accept errors are logged and retried. Errors of the listener, such as exhausted file
/// descriptors, are retried after a growing pause of 5 ms to 1 s. A readiness error of the
/// stack is final: accepting ends, open connections are drained, and the future returns a
/// [`ServeError`].
///
/// # Cancel safety
///
/// Dropping the future ends all connections at once.
///
/// ```no_run
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), BoxError> {
/// let echo = ServiceBuilder::new()
///     .layer(CodecLayer::new(codec::Lines::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<String>| async move {
///         Ok::<_, BoxError>(request.into_message())
///     });
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:7000").await?;
/// getty::serve(listener, echo).with_graceful_shutdown(getty::shutdown_signal()).await?;
/// # Ok(())
/// # }
/// ```
pub fn serve<L: Listener, S: Pipeline<L::Io>>(listener: L, stack: S) -> Serve {
    Serve::new(vec![Box::new(Acceptor::new(listener, stack))])
}

/// Serves the connections of several listeners with clones of one stack, as [`serve`] does for
/// one listener.
///
/// Each connection has a fresh clone, as with
/// [`ClonePerCallLayer`](crate::layers::ClonePerCallLayer). An idle listener therefore holds no
/// permit of a shared limit, even after a refusal. State inside a clone does not last from one
/// connection to the next.
///
/// The listeners are a tuple, an array or a `Vec`. In a tuple their transports may differ if
/// the stack serves each of them. [`Serve::and`] joins listeners that need different stacks.
///
/// ```no_run
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Lines};
/// use getty::net::{TcpListener, UdpListener};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), BoxError> {
/// let stack = ServiceBuilder::new()
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<String>| async move {
///         let kind = request.session().transport(); // "tcp", or "udp"
///         Ok::<_, BoxError>(format!("{kind}: {}", request.message()))
///     });
/// let tcp = TcpListener::bind("127.0.0.1:7000").await?;
/// let udp = UdpListener::bind("127.0.0.1:7000").await?;
/// getty::serve_all((tcp, udp), stack)
///     .with_graceful_shutdown(getty::shutdown_signal())
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn serve_all<L, S>(listeners: L, stack: S) -> Serve
where
    L: Listeners<S>,
{
    listeners.serve_with(stack)
}

/// Listeners that one stack can serve: the argument of [`serve_all`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` are not listeners whose connections this stack can serve",
    label = "a tuple, an array or a `Vec` of listeners; the stack must be `Clone` and serve the transport of each"
)]
pub trait Listeners<S> {
    /// Serves the connections of all listeners with clones of `stack`.
    fn serve_with(self, stack: S) -> Serve;
}

impl<L, S> Listeners<S> for Vec<L>
where
    L: Listener,
    S: Pipeline<L::Io> + Clone,
{
    fn serve_with(self, stack: S) -> Serve {
        Serve::new(
            self.into_iter()
                .map(|listener| {
                    // (design.md: Why does `serve_all` clone the stack for each connection?)
                    let stack = ClonePerCall::new(stack.clone());
                    Box::new(Acceptor::new(listener, stack)) as Box<dyn Accept>
                })
                .collect(),
        )
    }
}

impl<L, S, const N: usize> Listeners<S> for [L; N]
where
    Vec<L>: Listeners<S>,
{
    fn serve_with(self, stack: S) -> Serve {
        Vec::from(self).serve_with(stack)
    }
}

macro_rules! tuple_of_listeners {
    ($($listener:ident)+) => {
        impl<S, $($listener),+> Listeners<S> for ($($listener,)+)
        where
            S: Clone $(+ Pipeline<$listener::Io>)+,
            $($listener: Listener,)+
        {
            fn serve_with(self, stack: S) -> Serve {
                #[allow(non_snake_case, reason = "variables are named after type parameters")]
                let ($($listener,)+) = self;
                Serve::new(vec![$(
                    Box::new(Acceptor::new($listener, ClonePerCall::new(stack.clone())))
                ),+])
            }
        }
    };
}

tuple_of_listeners!(A);
tuple_of_listeners!(A B);
tuple_of_listeners!(A B C);
tuple_of_listeners!(A B C D);
tuple_of_listeners!(A B C D E);
tuple_of_listeners!(A B C D E F);

/// Server with its settings, returned by [`serve`]. It runs when it is awaited.
#[must_use = "nothing is served unless it is awaited"]
pub struct Serve {
    acceptors: Vec<Box<dyn Accept>>,
    shutdown: Contained<Pin<Box<dyn Future<Output = ()> + Send>>>,
    drain_deadline: Duration,
    stagger: Duration,
}

impl Serve {
    fn new(acceptors: Vec<Box<dyn Accept>>) -> Self {
        Self {
            acceptors,
            shutdown: Contained::new(Box::pin(std::future::pending())),
            drain_deadline: Duration::from_secs(5),
            stagger: Duration::ZERO,
        }
    }

    /// Sets the future that starts a graceful shutdown. By default there is no shutdown.
    ///
    /// When `signal` resolves, the listeners are dropped, and connections whose session is not open
    /// yet are ended. Every open session is closed gracefully, as
    /// [`CloseReason::Shutdown`](crate::CloseReason::Shutdown).
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.shutdown = Contained::new(Box::pin(signal));
        self
    }

    /// Sets the time that sessions may take to finish after the shutdown, before they are aborted.
    /// It replaces the drain deadline of each session. The default is 5 s.
    pub const fn with_drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain_deadline = deadline;
        self
    }

    /// Sets the time over which the closes of a shutdown are spread evenly, so that clients do not
    /// all reconnect at once. The drain deadline of a session counts from its close. The default is
    /// zero: all close at once.
    pub const fn with_staggered_close(mut self, over: Duration) -> Self {
        self.stagger = over;
        self
    }

    /// Adds the listeners of `other`, each with the stack it was created with. The settings of
    /// `self` apply to all.
    ///
    /// If stacks differ only in their outer layers, build them around clones of one inner stack.
    /// They then share its state, such as the permits of a limit. Use [`serve_all`] for each, so
    /// that no idle listener holds a permit:
    ///
    /// ```no_run
    /// # #[cfg(feature = "ws")]
    /// # async fn run() -> Result<(), getty::BoxError> {
    /// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Lines};
    /// use getty::net::TcpListener;
    /// use getty::ws::{Messages, WsLayer};
    ///
    /// let sessions = ServiceBuilder::new()
    ///     .layer(CodecLayer::new(Lines::new()))
    ///     .layer(SessionLayer::new())
    ///     .service_fn(|request: Request<String>| async move {
    ///         Ok::<_, BoxError>(request.into_message())
    ///     });
    /// let web = ServiceBuilder::new()
    ///     .layer(WsLayer::new().with_messages(Messages::Text)) // and for `wss` a `TlsLayer` before it
    ///     .service(sessions.clone());
    ///
    /// getty::serve_all([TcpListener::bind("127.0.0.1:7000").await?], sessions)
    ///     .and(getty::serve_all([TcpListener::bind("127.0.0.1:7080").await?], web))
    ///     .with_graceful_shutdown(getty::shutdown_signal())
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    // (design.md: Why is there `Serve::and` beside `serve_all`?)
    pub fn and(mut self, other: Self) -> Self {
        self.acceptors.extend(other.acceptors);
        self
    }

    async fn run(self) -> Result<Drained, ServeError> {
        let Self {
            mut acceptors,
            mut shutdown,
            drain_deadline,
            stagger,
        } = self;
        let mut connections = Connections::default();
        let failed = poll_fn(|cx| {
            if shutdown.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            for acceptor in &mut acceptors {
                if let Poll::Ready(error) = acceptor.poll(cx, &mut connections) {
                    return Poll::Ready(Some(error));
                }
            }
            Poll::Pending
        })
        .await;
        drop((acceptors, shutdown));
        let drained = drain(connections, drain_deadline, stagger).await;
        match failed {
            None => Ok(drained),
            Some(source) => Err(ServeError { source, drained }),
        }
    }
}

/// Time after the drain deadline before connections are aborted. Sessions end earlier. They end
/// at the deadline or, if a handler was cut off, after the transport's close handshake.
const GRACE: Duration = CLOSE_HANDSHAKE_TIMEOUT.saturating_add(Duration::from_millis(100));

async fn drain(connections: Connections, deadline: Duration, stagger: Duration) -> Drained {
    let begin = Instant::now();
    let mut open = connections.abort_unopened();
    let pause = stagger
        .checked_div(u32::try_from(open.len()).unwrap_or(u32::MAX))
        .unwrap_or_default();
    let mut next_close = Some(begin);
    while let Some(handle) = open.pop() {
        connections.wait_until(next_close).await;
        // (design.md: Why does `serve` pass its drain deadline to the sessions?)
        handle.close_with(Close::new(crate::CloseReason::Shutdown).with_deadline(deadline));
        next_close = next_close.and_then(|close| close.checked_add(pause));
    }
    let end = begin.checked_add(stagger);
    let end = end.and_then(|end| end.checked_add(deadline)?.checked_add(GRACE));
    connections.wait_until(end).await;
    connections.abort_all();
    connections.wait().await;
    connections.drained()
}

impl IntoFuture for Serve {
    type Output = Result<Drained, ServeError>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        ServeFuture(Box::pin(self.run()))
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("listeners", &self.acceptors.len())
            .field("drain_deadline", &self.drain_deadline)
            .field("stagger", &self.stagger)
            .finish_non_exhaustive()
    }
}

/// Future of [`Serve`].
#[must_use = "futures do nothing unless polled"]
pub struct ServeFuture(Pin<Box<dyn Future<Output = Result<Drained, ServeError>> + Send>>);

impl Future for ServeFuture {
    type Output = Result<Drained, ServeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ServeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeFuture").finish_non_exhaustive()
    }
}

/// Numbers of connections that a shutdown ended, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Number of connections that finished. Their handlers were done, their output was flushed, and
    /// they were properly closed.
    pub finished: usize,
    /// Number of connections that were cut off. The cause is the drain deadline, a transport that
    /// failed during the drain, or a session that was not open yet.
    pub aborted: usize,
}

impl Drained {
    const fn count(&mut self, finished: bool) {
        if finished {
            self.finished += 1;
        } else {
            self.aborted += 1;
        }
    }
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} finished, {} aborted", self.finished, self.aborted)
    }
}

/// Error of a server whose stack failed in `poll_ready`, which is final for a tower service.
///
/// The server stopped accepting, and drained the connections that were open.
#[derive(Debug)]
pub struct ServeError {
    source: BoxError,
    drained: Drained,
}

impl ServeError {
    /// Returns the outcomes of the connections that were open.
    #[must_use]
    pub const fn drained(&self) -> Drained {
        self.drained
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stack cannot serve further connections")
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}
