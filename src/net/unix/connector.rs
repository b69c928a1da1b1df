//! Dialling a Unix socket.

use std::{
    io,
    path::{Path, PathBuf},
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Address, Connection, Endpoints, TransportKind};
use tokio::{net::UnixStream, time::sleep};
use tower_service::Service;

use crate::net::connect::{CONNECT_TIMEOUT, ConnectError, Connecting, within};

/// How long to wait before another try when the listener's backlog is full; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// Dials Unix stream sockets: a service from a path to a connection.
///
/// While the listener's backlog is full, where TCP would wait, a Unix socket fails at once; the connector tries again
/// until the connect timeout is up. Nothing else is tried twice.
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
    /// A connector with the defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// How long a dial may wait for room in the listener's backlog. Default: 3 s.
    #[must_use]
    pub const fn with_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Dials the socket at `path`.
    ///
    /// # Errors
    ///
    /// The path, and why: no file ([`NotFound`](io::ErrorKind::NotFound)), nobody listens
    /// ([`ConnectionRefused`](io::ErrorKind::ConnectionRefused)), no permission, no room in time
    /// ([`TimedOut`](io::ErrorKind::TimedOut)), or whatever else the operating system says.
    ///
    /// # Cancel safety
    ///
    /// As [`Connecting`].
    pub async fn connect(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Connection<UnixStream>, ConnectError> {
        let path = path.as_ref();
        let stream = within(self.connect_timeout, dial(path))
            .await
            .map_err(|source| ConnectError::new(path.display().to_string(), source))?;
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
                pause = LONGEST_PAUSE.min(pause * 2);
            }
            done => return done,
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

    /// Always ready: nothing is reserved before a dial.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, path: A) -> Self::Future {
        let connector = self.clone();
        let path = PathBuf::from(path.as_ref());
        Connecting::new(async move { connector.connect(path).await })
    }
}
