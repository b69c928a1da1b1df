//! The accept loop and the runtime of the tokio servers.

use std::{io, net::TcpListener};

use tokio::{net::TcpStream, runtime};

/// Number of threads that serve connections.
pub const WORKERS: usize = 2;

/// Accepts connections and spawns a task for each on a default tokio runtime.
///
/// # Errors
///
/// If the runtime cannot be created or accepting fails.
pub fn accept<F>(
    listener: TcpListener,
    mut connection: impl FnMut(TcpStream) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    runtime()?.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(stream));
        }
    })
}

/// Creates the runtime of all tokio servers.
///
/// # Errors
///
/// If threads or descriptors are not available.
pub fn runtime() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
}
