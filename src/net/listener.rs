//! Where a server's connections come from.

use std::{
    io,
    task::{Context, Poll},
};

use getty_core::{Address, Connection};

/// Where a server's connections come from.
///
/// tokio's listeners are ones; so are those of this module, which have the settings that a server wants.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a listener",
    label = "pass a `TcpListener`, a `UnixListener`, or a type of your own that implements `getty::net::Listener`"
)]
pub trait Listener: Send + 'static {
    /// The transport of the connections that it accepts.
    type Io: Send + 'static;

    /// Accepts the next connection. An error concerns one connection, or passes: it is logged and accepting goes on,
    /// after a pause where the error is of the listener's own, such as having run out of file descriptors.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection<Self::Io>>>;

    /// The address that it accepts on.
    ///
    /// # Errors
    ///
    /// The operating system's, which knows the address.
    fn local_addr(&self) -> io::Result<Address>;
}
