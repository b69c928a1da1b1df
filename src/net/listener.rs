//! The trait of sources that a server accepts connections from.

use std::{
    io,
    task::{Context, Poll},
};

use getty_core::{Address, Connection};

/// A source of connections for a server.
///
/// Implemented by tokio's listeners and by the listeners of this module, which have the
/// settings that a server needs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a listener",
    label = "pass a `TcpListener`, `UdpListener` or `UnixListener`, or another type that implements `getty::net::Listener`",
    note = "a socket that is bound already is converted, such as with `getty::net::UdpListener::try_from(socket)?`"
)]
pub trait Listener: Send + 'static {
    /// Transport of the accepted connections.
    type Io: Send + 'static;

    /// Accepts the next connection.
    ///
    /// An error concerns a single connection or is temporary. The server logs it and continues to
    /// accept. It pauses first if the error is the listener's, such as a lack of file descriptors.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>>;

    /// Returns the local address of the listener.
    ///
    /// # Errors
    ///
    /// Fails if the operating system cannot report the address.
    fn local_addr(&self) -> io::Result<Address>;
}
