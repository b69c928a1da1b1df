//! Test helpers: connections and messages whose session is polled by hand.

use std::task::{Context, Waker};

use getty_core::{Connection, Request, SessionIo, driver};
use tokio_util::codec::LinesCodec;

/// Returns a connection of lines, as `CodecLayer` creates it.
pub(crate) fn framed() -> Connection<SessionIo<(), LinesCodec, String>> {
    let connection = Connection::new(());
    let (_, driver) = driver::pair(connection.handle().clone());
    connection.map_transport(|()| SessionIo::new((), LinesCodec::new(), driver, 1024))
}

/// Returns a message of a session without a session loop.
pub(crate) fn request<Out: Send + 'static>() -> Request<&'static str, Out> {
    let connection = Connection::new(());
    let (session, _driver) = driver::pair(connection.handle().clone());
    Request::new("hello", session)
}

/// Performs the first poll of the session loop. Returns the driver half, and the guard that
/// closes the connection when it is dropped.
pub(crate) fn drive<C>(
    connection: Connection<SessionIo<(), C, String>>,
) -> (driver::Driver<String>, driver::CloseGuard) {
    let (framed, mut guard) = connection.into_parts();
    let mut driver = framed.into_parts().driver;
    driver.register(&Context::from_waker(Waker::noop()));
    guard.open();
    (driver, guard)
}
