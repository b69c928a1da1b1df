//! A server on tokio, but for what it does with a connection.

use std::{io, net::TcpListener};

use tokio::{net::TcpStream, runtime};

/// Threads that serve connections.
pub const WORKERS: usize = 2;

/// A task for each connection, on a runtime like that of an ordinary tokio server.
///
/// # Errors
///
/// If the runtime cannot be made or accepting fails.
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

/// The runtime of all servers that are tokio's.
///
/// # Errors
///
/// If there are no threads or descriptors to be had.
pub fn runtime() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
}
