//! A connection from accept to its last close callback: handle, close reason, timestamps,
//! statistics.

mod close;
mod close_guard;
mod close_reason;
mod closed;
mod contained;
pub(crate) mod deadlines;
mod endpoints;
mod handle;
mod log;
#[cfg(feature = "serde")]
mod serialize;
mod stats;
mod timestamps;

use std::fmt;

pub(crate) use self::handle::RequestNumber;
pub use self::{
    close::Close,
    close_guard::{CloseGuard, PanicGuard, defer_refusal, end_refusal},
    close_reason::{ApplicationClose, CloseReason},
    closed::{Closed, DrainDeadlineExceeded, SharedError},
    contained::Contained,
    endpoints::{Address, Endpoints, TransportKind},
    handle::{
        AddressesFixed, CallbackAdded, ConnectionHandle, HandleExt, OnInputEnd, OpenGuard, Setting,
        WeakHandle,
    },
    stats::Stats,
    timestamps::Timestamp,
};

/// A connection over a transport `T`: the request of the connection stack.
///
/// A listener or connector creates it. Layers replace its transport with
/// [`map_transport`](Self::map_transport) on the way to `SessionLayer`. A connection that is
/// dropped on the way runs its close callbacks with [`CloseReason::Refused`], unless another
/// reason was recorded. The transport is dropped before the callbacks run (design.md: Why is a
/// connection a request?).
///
/// ```
/// use getty_core::Connection;
///
/// let connection = Connection::new(b"bytes".as_slice());
/// let connection = connection.map_transport(<[u8]>::len);
/// assert_eq!(*connection.transport(), 5);
/// ```
// Has attributes on its handle alone (design.md: Why are there no extensions on
// `Connection`?).
pub struct Connection<T> {
    transport: Contained<T>,
    // after the transport: fields are dropped in the order of their declaration (design.md: Why
    // are fields declared in a particular order?)
    close_guard: CloseGuard,
    handle: ConnectionHandle,
}

impl<T> Connection<T> {
    /// Creates a new connection over `transport`, with unknown endpoints.
    pub fn new(transport: T) -> Self {
        Self::with_endpoints(transport, Endpoints::default())
    }

    /// Creates a new connection over `transport`, with these endpoints.
    pub fn with_endpoints(transport: T, endpoints: Endpoints) -> Self {
        let handle = ConnectionHandle::new(endpoints);
        Self {
            transport: Contained::new(transport),
            close_guard: CloseGuard::new(handle.clone()),
            handle,
        }
    }

    /// Returns the connection's handle, which can be cloned and kept.
    pub const fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// Returns a reference to the transport.
    pub const fn transport(&self) -> &T {
        self.transport.get_ref()
    }

    /// Returns a mutable reference to the transport.
    pub const fn transport_mut(&mut self) -> &mut T {
        self.transport.get_mut()
    }

    /// Returns the same connection over the transport that `f` returns.
    #[inline(always)]
    pub fn map_transport<U>(self, f: impl FnOnce(T) -> U) -> Connection<U> {
        Connection {
            transport: Contained::new(f(self.transport.into_inner())),
            close_guard: self.close_guard,
            handle: self.handle,
        }
    }

    /// Takes the transport out for work that consumes it and may fail such as a handshake.
    ///
    /// The second value is the rest of the connection. A new transport can be put into it with
    /// [`map_transport`](Self::map_transport). Dropped, it closes the connection.
    pub fn take_transport(self) -> (T, Connection<()>) {
        let Self {
            transport,
            close_guard,
            handle,
        } = self;
        (
            transport.into_inner(),
            Connection {
                transport: Contained::new(()),
                close_guard,
                handle,
            },
        )
    }

    /// Splits the connection for a session loop, into the transport and the guard that finishes
    /// the connection. The guard must be dropped after the transport.
    #[inline(always)]
    pub fn into_parts(self) -> (T, CloseGuard) {
        (self.transport.into_inner(), self.close_guard)
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
