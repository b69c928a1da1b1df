//! A listener for tests of servers and a connector for tests of clients.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    io,
    panic::Location,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use getty::{Address, Connection, Service, net::Listener};
use tokio::{sync::Notify, time::Instant};

use crate::{Peer, Stream, stream, wire::within};

/// Listener in memory, for servers under test. Its [`Dialer`] is the network.
#[derive(Debug)]
pub struct TestListener(Arc<Mutex<Backlog>>);

/// Dials the [`TestListener`] of the same [`listener`] call.
#[derive(Clone, Debug)]
pub struct Dialer(Arc<Mutex<Backlog>>);

#[derive(Debug, Default)]
struct Backlog {
    connections: VecDeque<io::Result<Stream>>,
    waker: Option<Waker>,
    polls: usize,
    gone: bool,
}

/// Creates a listener for a server and a dialer for the test.
///
/// ```
/// use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle, serve};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let stack = ServiceBuilder::new()
///     .concurrency_limit(1)
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::new())
///     .service(handle(async |line: String| line));
/// let (listener, dialer) = getty_test::listener();
/// tokio::spawn(async move { serve(listener, stack).await });
///
/// let (first, second) = (dialer.dial(), dialer.dial());
/// second.send("hello\n");
/// getty_test::settle().await;
/// assert_eq!(second.unread(), 6); // the limit is reached
/// first.reset();
/// assert_eq!(second.line().await, "hello");
/// # }
/// ```
#[must_use]
pub fn listener() -> (TestListener, Dialer) {
    let backlog = Arc::default();
    (TestListener(Arc::clone(&backlog)), Dialer(backlog))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dialer {
    fn push(&self, connection: io::Result<Stream>) {
        let mut backlog = lock(&self.0);
        backlog.connections.push_back(connection);
        let waker = backlog.waker.take();
        drop(backlog);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Connects to the listener and returns the client's end.
    #[must_use]
    pub fn dial(&self) -> Peer {
        let (stream, peer) = stream();
        self.push(Ok(stream));
        peer
    }

    /// Lets the next accept fail with this error.
    pub fn fail(&self, kind: io::ErrorKind) {
        self.push(Err(kind.into()));
    }

    /// Returns how many connections the server has not accepted.
    #[must_use]
    pub fn backlog(&self) -> usize {
        lock(&self.0).connections.len()
    }

    /// Returns how often the server has polled the listener.
    #[must_use]
    pub fn polls(&self) -> usize {
        lock(&self.0).polls
    }

    /// Returns `true` once the server has dropped the listener.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        lock(&self.0).gone
    }
}

impl Listener for TestListener {
    type Io = Stream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Stream>>> {
        let mut backlog = lock(&self.0);
        backlog.polls += 1;
        match backlog.connections.pop_front() {
            Some(accepted) => Poll::Ready(accepted.map(Connection::new)),
            None => {
                backlog.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Memory(0))
    }
}

impl Drop for TestListener {
    fn drop(&mut self) {
        let mut backlog = lock(&self.0);
        backlog.gone = true;
        let connections = std::mem::take(&mut backlog.connections);
        drop(backlog);
        drop(connections);
    }
}

/// Connector in memory, for clients under test. Its [`Acceptor`] is the server.
///
/// It accepts any target.
#[derive(Clone, Debug)]
pub struct TestConnector(Arc<Host>);

/// Accepts the dials of the [`TestConnector`] of the same [`connector`] call.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<Host>);

#[derive(Debug, Default)]
struct Host {
    state: Mutex<Dials>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Dials {
    accepted: VecDeque<Peer>,
    times: Vec<Instant>,
    refuses: bool,
}

/// Creates a connector for a client and an acceptor for the test, which is the server.
///
/// ```
/// use getty::{Client, CodecLayer, NoReply, ServiceBuilder, SessionLayer};
/// use getty::{codec::Lines, handle};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let (connector, acceptor) = getty_test::connector();
/// let client = Client::new(connector, (), |link| {
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(Lines::new()))
///         .layer(link)
///         .layer(SessionLayer::new())
///         .service(handle(async |_: String| NoReply))
/// });
/// acceptor.accept().await.reset(); // the first server fails
/// let server = acceptor.accept().await; // and the client connects again
/// client.send("hello".to_owned()).await.unwrap();
/// assert_eq!(server.line().await, "hello");
/// # }
/// ```
#[must_use]
pub fn connector() -> (TestConnector, Acceptor) {
    let host = Arc::<Host>::default();
    (TestConnector(Arc::clone(&host)), Acceptor(host))
}

impl Acceptor {
    /// Returns the server's end of the next dial.
    #[track_caller]
    pub fn accept(&self) -> impl Future<Output = Peer> + '_ {
        let dial = async {
            loop {
                let changed = self.0.changed.notified();
                if let Some(peer) = lock(&self.0.state).accepted.pop_front() {
                    return peer;
                }
                changed.await;
            }
        };
        within("dial", Location::caller(), dial)
    }

    /// Refuses later dials with [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), or accepts
    /// them again. The default is to accept.
    pub fn refuse(&self, refuses: bool) {
        lock(&self.0.state).refuses = refuses;
    }

    /// Returns the times of all dials, with those that were refused.
    #[must_use]
    pub fn dials(&self) -> Vec<Instant> {
        lock(&self.0.state).times.clone()
    }
}

impl<A> Service<A> for TestConnector {
    type Response = Connection<Stream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Connection<Stream>>>;

    /// Always returns ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: A) -> Self::Future {
        let mut state = lock(&self.0.state);
        state.times.push(Instant::now());
        if state.refuses {
            return ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        let (stream, peer) = stream();
        state.accepted.push_back(peer);
        drop(state);
        self.0.changed.notify_waiters();
        ready(Ok(Connection::new(stream)))
    }
}
