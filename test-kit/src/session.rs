//! A session without sockets.

use std::{future::poll_fn, ops::Deref, panic::Location, time::Duration};

use getty::{
    BoxError, Close, CloseReason, Closed, Connection, ConnectionHandle, Pipeline, Stats,
    transport::Framing,
};
use tokio::task::JoinHandle;

use crate::{
    Messages, Peer, Stream, ValuePeer, Values, messages, stream, time, values::values, wire::within,
};

/// A session without sockets: one connection through a whole stack, in a task, and its peer.
///
/// It dereferences to the [`Peer`], whose methods send, receive and cause faults. The clock
/// must be paused: `#[tokio::test(start_paused = true)]`. When it is dropped, the task is
/// aborted.
///
/// ```
/// use getty::{CloseReason, CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
/// use getty_test::TestSession;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let session = TestSession::stream(
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(SessionLayer::new())
///         .service(handle(async |line: String| line.to_ascii_uppercase())),
/// );
/// session.send("hel");
/// session.send("lo\n");
/// assert_eq!(session.line().await, "HELLO");
///
/// session.finish(); // a half-close by the peer
/// let closed = session.closed().await;
/// assert_eq!(closed.reason, CloseReason::PeerClosed);
/// assert_eq!((closed.stats.messages_in, closed.stats.bytes_out), (1, 6));
/// # }
/// ```
#[derive(Debug)]
pub struct TestSession<P = Peer> {
    peer: P,
    handle: ConnectionHandle,
    task: JoinHandle<Result<Closed, BoxError>>,
}

impl TestSession {
    /// Starts a session over a byte stream, such as TCP and TLS are.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, and if its clock is not paused.
    #[track_caller]
    pub fn stream<S: Pipeline<Stream>>(stack: S) -> Self {
        let (transport, peer) = stream();
        Self::start(Connection::new(transport), peer, stack)
    }

    /// Starts a session over a transport that keeps message boundaries, such as WebSocket.
    ///
    /// # Panics
    ///
    /// Panics as [`stream`](Self::stream) does.
    #[track_caller]
    pub fn messages<S: Pipeline<Messages>>(stack: S) -> Self {
        let (transport, peer) = messages(Framing::Messages);
        Self::start(Connection::new(transport), peer, stack)
    }

    /// Starts a session over datagrams, such as UDP.
    ///
    /// # Panics
    ///
    /// Panics as [`stream`](Self::stream) does.
    #[track_caller]
    pub fn datagrams<S: Pipeline<Messages>>(stack: S) -> Self {
        let (transport, peer) = messages(Framing::Datagrams);
        Self::start(Connection::new(transport), peer, stack)
    }
}

impl<In: Send + 'static, Out: Send + 'static> TestSession<ValuePeer<In, Out>> {
    /// Starts a session whose messages are values of the types `In` and `Out`, without a wire
    /// format. It tests handlers and message layers. `build` creates the stack around the codec.
    /// The type of its argument has the types of the messages that are received and sent.
    ///
    /// ```
    /// use getty::{CodecLayer, ServiceBuilder, SessionLayer, handle_with};
    /// use getty_test::{TestSession, Values};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let session = TestSession::values(|codec: Values<u32, u64>| {
    ///     ServiceBuilder::new()
    ///         .layer(CodecLayer::new(codec))
    ///         .layer(SessionLayer::new())
    ///         .service(handle_with((), async |n: u32| u64::from(n) + 1))
    /// });
    /// session.send(u32::MAX);
    /// assert_eq!(session.recv().await, 1 << 32);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, and if its clock is not paused.
    #[track_caller]
    pub fn values<S: Pipeline<Messages>>(build: impl FnOnce(Values<In, Out>) -> S) -> Self {
        let (transport, codec, peer) = values();
        Self::start(Connection::new(transport), peer, build(codec))
    }
}

impl<P> TestSession<P> {
    /// Starts a session over a connection with chosen addresses or attributes. `peer` is the peer
    /// of its transport.
    ///
    /// ```
    /// use getty::{Address, CodecLayer, Connection, ConnectionHandle, Endpoints};
    /// use getty::{ServiceBuilder, SessionLayer, TransportKind, codec::Lines, handle};
    /// use getty_test::{TestSession, stream};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let stack = ServiceBuilder::new()
    ///     .layer(CodecLayer::new(Lines::new()))
    ///     .layer(SessionLayer::new())
    ///     .service(handle(async |_: String, handle: ConnectionHandle| {
    ///         handle.peer_addr().to_string()
    ///     }));
    ///
    /// let (transport, peer) = stream();
    /// let local = Address::Unknown;
    /// let from = Address::Ip("192.0.2.1:5000".parse().unwrap());
    /// let endpoints = Endpoints::new(TransportKind::Tcp, local, from);
    /// let connection = Connection::with_endpoints(transport, endpoints);
    /// let session = TestSession::start(connection, peer, stack);
    /// session.send("who am I?\n");
    /// assert_eq!(session.line().await, "192.0.2.1:5000");
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, and if its clock is not paused.
    #[track_caller]
    pub fn start<T, S>(connection: Connection<T>, peer: P, mut stack: S) -> Self
    where
        T: Send + 'static,
        S: Pipeline<T>,
    {
        time::require_paused_clock();
        let handle = connection.handle().clone();
        let task = tokio::spawn(async move {
            poll_fn(|cx| stack.poll_ready(cx))
                .await
                .map_err(Into::into)?;
            let call = stack.call(connection);
            drop(stack);
            call.await.map_err(Into::into)
        });
        Self { peer, handle, task }
    }

    /// Returns the handle of the connection.
    pub const fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// Returns the peer, whose clones can be moved to other tasks.
    pub const fn peer(&self) -> &P {
        &self.peer
    }

    /// Closes the session from this side, as an application does.
    pub fn close(&self) {
        self.handle.close();
    }

    /// Closes the session from this side with a reason.
    pub fn close_with(&self, close: impl Into<Close>) {
        self.handle.close_with(close);
    }

    /// Drops the session in its task, as a runtime that shuts down does.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// Returns the recorded reason of the close.
    #[must_use]
    pub fn reason(&self) -> Option<CloseReason> {
        self.handle.reason()
    }

    /// Returns the statistics so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }

    /// Advances the paused clock, in steps from one timer to the next. All tasks run until they
    /// wait.
    pub async fn advance(&self, time: Duration) {
        time::advance(time).await;
    }

    /// Waits for the end of the connection, however it comes, and returns its record.
    #[track_caller]
    pub fn closed(&self) -> impl Future<Output = Closed> + '_ {
        within(
            "end of the session",
            Location::caller(),
            self.handle.closed(),
        )
    }

    /// Waits for the result of the stack: the record of a session that has opened, or the error of
    /// a layer that has refused the connection.
    ///
    /// # Errors
    ///
    /// Returns the error of the stack.
    ///
    /// # Panics
    ///
    /// Panics if the stack has panicked or was [aborted](Self::abort).
    #[track_caller]
    pub fn result(&mut self) -> impl Future<Output = Result<Closed, BoxError>> + '_ {
        let caller = Location::caller();
        async move {
            match within("result of the stack", caller, &mut self.task).await {
                Ok(result) => result,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(error) => panic!("{caller}: {error}"),
            }
        }
    }
}

impl<P> Deref for TestSession<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.peer
    }
}

impl<P> Drop for TestSession<P> {
    fn drop(&mut self) {
        self.task.abort();
    }
}
