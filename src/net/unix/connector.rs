//! The Unix socket connector.

use std::{
    io,
    path::{Path, PathBuf},
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Address, Connection, Endpoints, TransportKind};
use tokio::{net::UnixStream, time::sleep};
use tower_service::Service;

use crate::net::connect::{CONNECT_TIMEOUT, ConnectError, Connecting, dial_one};

/// First pause before a retry while the listener's backlog is full. It doubles up to
/// [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(64);

/// Connects over Unix stream sockets: a service from a path to a connection.
///
/// While the listener's backlog is full, a TCP dial waits, but a Unix dial fails at once. The
/// connector therefore retries until the connect timeout. It retries no other error.
///
/// ```no_run
/// use getty::net::UnixConnector;
///
/// # async fn dial() -> Result<(), getty::BoxError> {
/// let connection = UnixConnector::new().connect("/run/app.sock").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct UnixConnector {
    connect_timeout: Duration,
}

impl UnixConnector {
    /// Creates a new connector with the default settings.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Sets the maximum time that a dial may wait for room in the listener's backlog. The default
    /// is 3 s.
    #[must_use]
    pub const fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Connects to the socket at `path`.
    ///
    /// # Errors
    ///
    /// The error names the path. Its kind is [`NotFound`](io::ErrorKind::NotFound) if there is no
    /// file, [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if no process listens, and
    /// [`TimedOut`](io::ErrorKind::TimedOut) if the backlog stays full. Other errors of the
    /// operating system, such as a lack of permission, keep their kind.
    ///
    /// # Cancel safety
    ///
    /// As for [`Connecting`].
    pub async fn connect(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Connection<UnixStream>, ConnectError> {
        let path = path.as_ref();
        let stream = dial_one(self.connect_timeout, path.display(), dial(path)).await?;
        Ok(Connection::with_endpoints(
            stream,
            Endpoints::new(
                TransportKind::Unix,
                Address::Unix(None),
                Address::Unix(Some(path.into())),
            ),
        ))
    }
}

async fn dial(path: &Path) -> io::Result<UnixStream> {
    let mut pause = FIRST_PAUSE;
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(pause).await;
                pause = MAX_PAUSE.min(pause * 2);
            }
            dialed => return dialed,
        }
    }
}

impl Default for UnixConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: AsRef<Path>> Service<A> for UnixConnector {
    type Response = Connection<UnixStream>;
    type Error = ConnectError;
    type Future = Connecting<UnixStream>;

    /// Always returns ready because a dial reserves nothing.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, path: A) -> Self::Future {
        let connector = self.clone();
        let path = PathBuf::from(path.as_ref());
        Connecting::new(async move { connector.connect(path).await })
    }
}
