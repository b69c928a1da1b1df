//! Connections within the process: for tests, and for components that may move to another process later.

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
    Listener,
    bind::BACKLOG,
    connect::{CONNECT_TIMEOUT, ConnectError, Connecting, within},
};

/// A listener and its connector, whose connections are pipes within the process.
///
/// Each direction of a connection holds up to `buffer_size` bytes, at least 1, that are written and not yet read; a
/// writer that is further ahead waits. Up to 1024 connections wait to be accepted; a dial beyond that waits for room.
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
pub fn memory(buffer_size: usize) -> (MemoryListener, MemoryConnector) {
    let (dialled, incoming) = mpsc::channel(BACKLOG as usize);
    let id = next_id();
    let listener = MemoryListener { incoming, id };
    let connector = MemoryConnector {
        dialled,
        listener: id,
        // a pipe of nothing never moves
        buffer_size: buffer_size.max(1),
        connect_timeout: CONNECT_TIMEOUT,
    };
    (listener, connector)
}

/// A number for an end of a connection; no other end of this process has it.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// One end of a pipe on its way to the listener, and the address of the other end.
struct Dialled {
    io: DuplexStream,
    from: u64,
}

/// Accepts connections from within the process; made by [`memory`].
///
/// Once its last connector is gone it pends for ever, like a socket that nobody dials. Dropped, it refuses further
/// dials, and the connections that it had not accepted end.
pub struct MemoryListener {
    incoming: mpsc::Receiver<Dialled>,
    id: u64,
}

impl Listener for MemoryListener {
    type Io = DuplexStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let Some(Dialled { io, from }) = ready!(self.incoming.poll_recv(cx)) else {
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

/// Connects to one [`MemoryListener`]; made by [`memory`].
///
/// A dial fails with [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) once the listener is gone, and with
/// [`TimedOut`](io::ErrorKind::TimedOut) if the listener's queue stays full. Clones dial the same listener.
#[derive(Clone)]
pub struct MemoryConnector {
    dialled: mpsc::Sender<Dialled>,
    listener: u64,
    buffer_size: usize,
    connect_timeout: Duration,
}

impl MemoryConnector {
    /// How long a dial may wait for room in the listener's queue. Default: 3 s.
    #[must_use]
    pub const fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Connects to the listener.
    ///
    /// # Errors
    ///
    /// As the type says.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it leaves nothing for the listener to accept.
    pub async fn connect(&self) -> Result<Connection<DuplexStream>, ConnectError> {
        let listener = Address::Memory(self.listener);
        // the room comes first: a dial that is given up while it waits has not made a connection yet
        let reserved = async {
            let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "its listener is gone");
            self.dialled.reserve().await.map_err(gone)
        };
        let room = within(self.connect_timeout, reserved)
            .await
            .map_err(|source| ConnectError::new(listener.to_string(), source))?;

        let (ours, theirs) = duplex(self.buffer_size);
        let from = next_id();
        room.send(Dialled { io: theirs, from });
        Ok(Connection::with_endpoints(
            ours,
            Endpoints::new(TransportKind::Memory, Address::Memory(from), listener),
        ))
    }
}

impl Service<()> for MemoryConnector {
    type Response = Connection<DuplexStream>;
    type Error = ConnectError;
    type Future = Connecting<DuplexStream>;

    /// Always ready: nothing is reserved before a dial.
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
