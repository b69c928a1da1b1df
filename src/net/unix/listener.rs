//! Accepting connections over Unix stream sockets.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    task::{Context, Poll, ready},
};

use getty_core::{Address, Connection, Endpoints, TransportKind};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixSocket, UnixStream, unix::SocketAddr};

use crate::net::{
    Listener,
    bind::{BACKLOG, cannot_listen},
};

/// tokio's listener, which leaves its socket file behind; [`getty::net::UnixListener`](UnixListener) looks after it.
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

/// Accepts connections over a Unix stream socket, and looks after its file.
///
/// [`bind`](Self::bind) replaces what a former listener left behind, and the drop removes the file that it made, unless
/// another has taken its place. A listener made of tokio's or the standard library's owns no file.
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
    // before the socket: as long as that is open no other file can get this one's number
    _file: Option<SocketFile>,
    inner: tokio::net::UnixListener,
    local: Address,
}

impl UnixListener {
    /// Listens on `path`, with a backlog of 1024.
    ///
    /// Who may connect is decided by the file's permissions, which are those that the process's umask leaves.
    ///
    /// A socket file that nobody listens on is replaced. To find out, the one that is there is dialled: a live listener
    /// sees a connection that ends at once. Two processes that replace the same stale file in the same instant are not
    /// kept apart; whoever starts services should start one.
    ///
    /// # Errors
    ///
    /// They name the path. [`AddrInUse`](io::ErrorKind::AddrInUse): somebody listens there, or it cannot be told.
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists): the file there, which stays, is not a socket.
    /// Otherwise the operating system's.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
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
        let file = SocketFile::made_at(path);
        let inner = socket.listen(BACKLOG)?;
        Ok(Self {
            local: address(&inner.local_addr()?),
            _file: file,
            inner,
        })
    }

    /// tokio's listener.
    pub const fn get_ref(&self) -> &tokio::net::UnixListener {
        &self.inner
    }
}

impl Listener for UnixListener {
    type Io = UnixStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>> {
        let (stream, peer) = ready!(self.inner.poll_accept(cx))?;
        // one path is shared by all connections
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

/// For a listener that was handed over, by a service manager for example. Panics outside of a tokio runtime.
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

/// The file of a bound socket, removed when dropped.
#[derive(Debug)]
struct SocketFile {
    /// Absolute, because the working directory may change.
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The file that a bind to `path` has just made. `None` where there is none: Linux has sockets without.
    fn made_at(path: &Path) -> Option<Self> {
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
        let ours = |file: Metadata| (file.dev(), file.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a socket file stays behind");
        }
    }
}

/// Removes the file at `path`, if it is a socket that nobody listens on. An error means that it was left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else {
        // gone meanwhile, or a socket without a file: another bind will tell
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the file there is not a socket",
        ));
    }
    check_refusal(path)?;
    // whoever else found it stale may have replaced it by now; the change time tells a number used again from the old
    let identity = |file: &Metadata| (file.dev(), file.ino(), file.ctime(), file.ctime_nsec());
    match fs::symlink_metadata(path) {
        Ok(file) if identity(&file) == identity(&found) => fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Succeeds if a dial is turned down because nobody listens. Nothing else, such as a full backlog or a lack of
/// permission, is proof of that.
fn check_refusal(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // a listener whose backlog is full must not make us wait
    socket.set_nonblocking(true)?;
    let cause = match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
            format!("cannot tell whether somebody listens there: {error}")
        }
        _ => "somebody listens there".to_owned(),
    };
    Err(io::Error::new(io::ErrorKind::AddrInUse, cause))
}
