//! A connection, from accept to its last callback.

pub(crate) mod checks;
mod close;
mod contained;
mod endpoints;
mod handle;
mod lease;
mod log;
mod marks;
mod stats;

use std::fmt;

pub use self::{
    close::{CloseReason, Closed, DrainDeadlineExceeded, Panic, SharedError},
    contained::Contained,
    endpoints::{Address, Endpoints, TransportKind},
    handle::{CallbackAdded, ConnectionHandle, Hold, WeakHandle},
    lease::{Lease, defer_refusal, end_refusal},
    stats::Stats,
};
pub use self::{
    close::{catch, contain},
    handle::Kept,
    lease::Catcher,
};

/// A connection whose transport is `T`: the request of the connection stack.
///
/// A listener or connector makes it; layers change its transport with [`map_transport`](Self::map_transport) on its way
/// to `SessionLayer`. It owns the duty to run the close callbacks: dropped on the way, it closes with
/// [`CloseReason::Refused`], unless another reason was recorded. The transport is dropped before the callbacks run.
///
/// ```
/// use getty_core::Connection;
///
/// let connection = Connection::new(b"bytes".as_slice());
/// let connection = connection.map_transport(<[u8]>::len);
/// assert_eq!(*connection.transport(), 5);
/// ```
pub struct Connection<T> {
    transport: Contained<T>,
    // after the transport: fields are dropped in the order of their declaration
    lease: Lease,
    handle: ConnectionHandle,
}

impl<T> Connection<T> {
    /// A new connection over `transport`, with unknown endpoints.
    pub fn new(transport: T) -> Self {
        Self::with_endpoints(transport, Endpoints::default())
    }

    /// A new connection over `transport`, which runs between these endpoints.
    pub fn with_endpoints(transport: T, endpoints: Endpoints) -> Self {
        let handle = ConnectionHandle::new(endpoints);
        Self {
            transport: Contained::new(transport),
            lease: Lease::new(handle.clone()),
            handle,
        }
    }

    /// The connection's handle, to clone and keep.
    pub const fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// The transport.
    pub const fn transport(&self) -> &T {
        self.transport.get_ref()
    }

    /// The transport.
    pub const fn transport_mut(&mut self) -> &mut T {
        self.transport.get_mut()
    }

    /// The same connection over a transport made of this one.
    #[inline(always)]
    pub fn map_transport<U>(self, f: impl FnOnce(T) -> U) -> Connection<U> {
        Connection {
            transport: Contained::new(f(self.transport.into_inner())),
            lease: self.lease,
            handle: self.handle,
        }
    }

    /// Takes the transport out, for work that consumes it and may fail, such as a handshake. The rest of the connection
    /// is what [`map_transport`](Self::map_transport) then puts the new transport into; dropped, it closes the
    /// connection.
    pub fn take_transport(self) -> (T, Connection<()>) {
        let Self {
            transport,
            lease,
            handle,
        } = self;
        (
            transport.into_inner(),
            Connection {
                transport: Contained::new(()),
                lease,
                handle,
            },
        )
    }

    /// Takes the connection apart, for what drives it: the transport, and the duty to finish the connection once the
    /// transport is gone.
    #[inline(always)]
    pub fn into_parts(self) -> (T, Lease) {
        (self.transport.into_inner(), self.lease)
    }
}

impl<T: fmt::Debug> fmt::Debug for Connection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("transport", &self.transport)
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
