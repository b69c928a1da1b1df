//! The Unix socket listener and its socket file.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
};

use getty_core::{Address, Connection, Endpoints, TransportKind, internal::log};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixSocket, UnixStream, unix::SocketAddr};

use crate::net::{
    bind::{BACKLOG, cannot_listen},
    listener::Listener,
};

/// tokio's listener, which does not remove its socket file.
/// [`getty::net::UnixListener`](UnixListener) does.
impl Listener for tokio::net::UnixListener {
    type Io = UnixStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let (stream, peer) = ready!(tokio::net::UnixListener::poll_accept(self, cx))?;
        let local = stream
            .local_addr()
            .map_or(Address::Unknown, |a| address(&a));
        Poll::Ready(Ok(connection(stream, local, &peer)))
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.local_addr().map(|local| address(&local))
    }
}

/// Accepts connections over a Unix stream socket, and manages its socket file.
///
/// [`bind`](Self::bind) replaces the stale file of an earlier listener. The drop removes the
/// file, unless another one has replaced it. A listener that is converted from tokio's or the
/// standard library's removes no file.
///
/// ```
/// use getty::net::UnixListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), getty::BoxError> {
/// # let directory = tempfile::tempdir()?;
/// let path = directory.path().join("app.sock");
/// let listener = UnixListener::bind(&path)?;
/// assert!(path.exists());
/// drop(listener);
/// assert!(!path.exists());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UnixListener {
    // Must be dropped before the socket: while the socket is open, no other file can get its inode
    // number.
    _file: Option<SocketFile>,
    inner: tokio::net::UnixListener,
    local: Address,
}

impl UnixListener {
    /// Listens on `path`, with a backlog of 1024.
    ///
    /// The permissions of the file control access. The process's umask sets them.
    ///
    /// A socket file without a listener is replaced. To detect that, the existing socket is dialed:
    /// a live listener sees a connection that ends at once. Two processes must not replace the same
    /// stale file at the same time because they are not synchronized.
    ///
    /// # Errors
    ///
    /// The error names the path. Its kind is [`AddrInUse`](io::ErrorKind::AddrInUse) if a process
    /// listens there or if that cannot be determined. It is
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if the existing file is not a socket; the
    /// file is kept. Otherwise it is the operating system's.
    ///
    /// # Panics
    ///
    /// Panics if called outside of a tokio runtime.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let bound = match Self::listen(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path).and_then(|()| Self::listen(path))
            }
            bound => bound,
        };
        bound.map_err(|error| cannot_listen(path.display(), error))
    }

    fn listen(path: &Path) -> io::Result<Self> {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = SocketFile::created_at(path);
        let inner = socket.listen(BACKLOG)?;
        Ok(Self {
            local: address(&inner.local_addr()?),
            _file: file,
            inner,
        })
    }

    /// Returns a reference to tokio's listener.
    pub const fn get_ref(&self) -> &tokio::net::UnixListener {
        &self.inner
    }
}

impl Listener for UnixListener {
    type Io = UnixStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let (stream, peer) = ready!(self.inner.poll_accept(cx))?;
        // All connections share one path.
        Poll::Ready(Ok(connection(stream, self.local.clone(), &peer)))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.local.clone())
    }
}

impl From<tokio::net::UnixListener> for UnixListener {
    fn from(inner: tokio::net::UnixListener) -> Self {
        Self {
            local: inner
                .local_addr()
                .map_or(Address::Unknown, |local| address(&local)),
            _file: None,
            inner,
        }
    }
}

/// Converts a listener that was inherited, for example from a service manager. Panics if called
/// outside of a tokio runtime.
impl TryFrom<std::os::unix::net::UnixListener> for UnixListener {
    type Error = io::Error;

    fn try_from(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener).map(Self::from)
    }
}

fn address(address: &SocketAddr) -> Address {
    Address::Unix(address.as_pathname().map(Into::into))
}

fn connection(stream: UnixStream, local: Address, peer: &SocketAddr) -> Connection<UnixStream> {
    Connection::with_endpoints(
        stream,
        Endpoints::new(TransportKind::Unix, local, address(peer)),
    )
}

/// File of a bound socket, removed on drop.
#[derive(Debug)]
struct SocketFile {
    /// Absolute path because the working directory may change.
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Returns the file that a bind to `path` has just created. `None` if there is none: Linux has
    /// abstract sockets.
    fn created_at(path: &Path) -> Option<Self> {
        let path = std::path::absolute(path).ok()?;
        let file = fs::symlink_metadata(&path).ok()?;
        Some(Self {
            path,
            device: file.dev(),
            inode: file.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_same = |file: Metadata| (file.dev(), file.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(is_same)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log(
                || tracing::debug!(path = %self.path.display(), %error, "cannot remove a socket file"),
            );
        }
    }
}

/// Removes the file at `path` if it is a socket without a listener. Returns an error if it must
/// be kept.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        // The file may have been removed meanwhile, or a socket may have no file. The next bind
        // decides.
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the file there is not a socket",
        ));
    }
    check_refusal(path)?;
    // Another process may have replaced the stale file meanwhile. The change time distinguishes a
    // reused inode number.
    let identity = |file: &Metadata| (file.dev(), file.ino(), file.ctime(), file.ctime_nsec());
    match fs::symlink_metadata(path) {
        Ok(file) if identity(&file) == identity(&found) => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Succeeds if a dial is refused because no process listens. No other outcome proves that, such
/// as a full backlog or a lack of permission.
fn check_refusal(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener with a full backlog must not block this thread.
    socket.set_nonblocking(true)?;
    let cause = match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            format!("cannot determine whether a process listens there: {error}")
        }
        _ => "a process listens there".to_owned(),
    };
    Err(io::Error::new(io::ErrorKind::AddrInUse, cause))
}
