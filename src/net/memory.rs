//! Connections within the process, for tests and for components that may move to another
//! process.

use std::{
    fmt, io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use getty_core::{Address, Connection, Endpoints, TransportKind};
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};
use tower_service::Service;

use super::{
    bind::BACKLOG,
    connect::{CONNECT_TIMEOUT, ConnectError, Connecting, dial_one},
    listener::Listener,
};

/// Creates a listener and its connector, whose connections are pipes within the process.
///
/// Each direction of a connection buffers up to `buffer_size` bytes, and at least 1. A writer
/// waits while the buffer is full. Up to 1024 connections wait to be accepted. A further dial
/// waits for room.
///
/// ```
/// use getty::net::{Listener, memory};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), getty::BoxError> {
/// let (mut listener, connector) = memory(1024);
/// let mut client = connector.connect().await?;
/// let mut server = std::future::poll_fn(|cx| listener.poll_accept(cx)).await?;
///
/// client.transport_mut().write_all(b"hello").await?;
/// let mut read = [0; 5];
/// server.transport_mut().read_exact(&mut read).await?;
/// assert_eq!(&read, b"hello");
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn memory(buffer_size: usize) -> (MemoryListener, MemoryConnector) {
    let (dialed, incoming) = mpsc::channel(BACKLOG as usize);
    let id = next_id();
    let listener = MemoryListener { incoming, id };
    let connector = MemoryConnector {
        dialed,
        listener: id,
        // A pipe without room would never move a byte.
        buffer_size: buffer_size.max(1),
        connect_timeout: CONNECT_TIMEOUT,
    };
    (listener, connector)
}

/// Returns an address for one end of a connection, unique in this process.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// One end of a pipe on its way to the listener, with the address of the other end.
struct Dialed {
    io: DuplexStream,
    from: u64,
}

/// Accepts connections from within the process. Created by [`memory`].
///
/// After its last connector is dropped it stays pending, like a socket that no client dials.
/// Dropping the listener refuses further dials and closes the connections that it has not
/// accepted.
pub struct MemoryListener {
    incoming: mpsc::Receiver<Dialed>,
    id: u64,
}

impl Listener for MemoryListener {
    type Io = DuplexStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let Some(Dialed { io, from }) = ready!(self.incoming.poll_recv(cx)) else {
            return Poll::Pending;
        };
        Poll::Ready(Ok(Connection::with_endpoints(
            io,
            Endpoints::new(
                TransportKind::Memory,
                Address::Memory(self.id),
                Address::Memory(from),
            ),
        )))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(Address::Memory(self.id))
    }
}

impl fmt::Debug for MemoryListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryListener")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Connects to one [`MemoryListener`]. Created by [`memory`].
///
/// A dial fails with [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if the listener is
/// gone, and with [`TimedOut`](io::ErrorKind::TimedOut) if the listener's queue stays full.
/// Clones connect to the same listener.
#[derive(Clone)]
pub struct MemoryConnector {
    dialed: mpsc::Sender<Dialed>,
    listener: u64,
    buffer_size: usize,
    connect_timeout: Duration,
}

impl MemoryConnector {
    /// Sets the maximum time that a dial may wait for room in the listener's queue. The default is
    /// 3 s.
    #[must_use]
    pub const fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Connects to the listener.
    ///
    /// # Errors
    ///
    /// Fails if the listener is gone or if its queue stays full, as described at the type.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it is ready leaves no connection in the listener's queue.
    pub async fn connect(&self) -> Result<Connection<DuplexStream>, ConnectError> {
        let listener = Address::Memory(self.listener);
        // Reserved first: a dial that is cancelled while it waits must leave no connection.
        let reserved = async {
            let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "its listener is gone");
            self.dialed.reserve().await.map_err(gone)
        };
        let slot = dial_one(self.connect_timeout, &listener, reserved).await?;

        let (local, remote) = duplex(self.buffer_size);
        let from = next_id();
        slot.send(Dialed { io: remote, from });
        Ok(Connection::with_endpoints(
            local,
            Endpoints::new(TransportKind::Memory, Address::Memory(from), listener),
        ))
    }
}

impl Service<()> for MemoryConnector {
    type Response = Connection<DuplexStream>;
    type Error = ConnectError;
    type Future = Connecting<DuplexStream>;

    /// Always returns ready because a dial reserves nothing.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let connector = self.clone();
        Connecting::new(async move { connector.connect().await })
    }
}

impl fmt::Debug for MemoryConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryConnector")
            .field("listener", &self.listener)
            .field("buffer_size", &self.buffer_size)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}
