//! Addresses of a connection: those of its socket, and the real ones behind a proxy.

use std::{error::Error, fmt};

use once_cell::race::OnceBox;

use super::{CLOSED, ConnectionHandle, OPEN};
use crate::connection::Address;

/// Addresses of both ends. The socket's are set at accept or connect.
pub(super) struct Addresses {
    local: Address,
    peer: Address,
    /// Set at most once, because `peer_addr` returns a reference. Most connections have none. A
    /// `OnceLock` would take a word more, and with it a larger block of the allocator.
    real: OnceBox<Real>,
}

/// Addresses behind a proxy.
struct Real {
    local: Address,
    peer: Address,
}

impl Addresses {
    pub(super) const fn new(local: Address, peer: Address) -> Self {
        Self {
            local,
            peer,
            real: OnceBox::new(),
        }
    }
}

/// Returned by [`ConnectionHandle::set_real_addrs`] if the addresses cannot be set any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressesFixed {
    /// The real addresses were set before.
    AlreadySet,
    /// The session is open, or the connection is closed.
    Opened,
}

impl fmt::Display for AddressesFixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadySet => "the real addresses of the connection were set before",
            Self::Opened => "the addresses of a connection are fixed once its session is open",
        })
    }
}

impl Error for AddressesFixed {}

impl ConnectionHandle {
    /// Returns the peer's address.
    ///
    /// Behind a proxy it is the client's address if a layer or the application has [set
    /// it](Self::set_real_addrs). Otherwise it is the socket's.
    #[must_use]
    pub fn peer_addr(&self) -> &Address {
        let addresses = &*self.0.addresses;
        match addresses.real.get() {
            Some(real) => &real.peer,
            None => &addresses.peer,
        }
    }

    /// Returns the address of this side.
    ///
    /// Behind a proxy it is the address that the client connected to, if a layer or the
    /// application has [set it](Self::set_real_addrs). Otherwise it is the socket's.
    #[must_use]
    pub fn local_addr(&self) -> &Address {
        let addresses = &*self.0.addresses;
        match addresses.real.get() {
            Some(real) => &real.local,
            None => &addresses.local,
        }
    }

    /// Returns the address of the socket's peer. Behind a proxy it is the proxy's address.
    #[must_use]
    pub fn socket_peer_addr(&self) -> &Address {
        &self.0.addresses.peer
    }

    /// Returns the address of this side's socket.
    #[must_use]
    pub fn socket_local_addr(&self) -> &Address {
        &self.0.addresses.local
    }

    /// Sets the addresses of a connection that came through a proxy: the one that the client
    /// connected to, and the client's.
    ///
    /// [`peer_addr`](Self::peer_addr) and [`local_addr`](Self::local_addr) return them from now
    /// on, so layers further inside check, count and log the client. The addresses of the socket
    /// stay readable. The caller must trust the source: a peer that can choose its own address
    /// passes every list and limit of addresses.
    ///
    /// A layer calls it in the connection's task before it calls the inner service. The addresses
    /// can be set once, so that all readers agree.
    ///
    /// ```
    /// use getty_core::{Address, AddressesFixed, Connection};
    ///
    /// let connection = Connection::new("any transport");
    /// let handle = connection.handle();
    /// let client = Address::Ip("192.0.2.7:4096".parse().unwrap());
    /// handle.set_real_addrs(Address::Unknown, client.clone()).unwrap();
    /// assert_eq!(handle.peer_addr(), &client);
    /// assert_eq!(handle.socket_peer_addr(), &Address::Unknown);
    ///
    /// let again = handle.set_real_addrs(Address::Unknown, Address::Unknown);
    /// assert_eq!(again, Err(AddressesFixed::AlreadySet));
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`AddressesFixed`] if they were set before, if the session is open, or if the
    /// connection is closed.
    pub fn set_real_addrs(&self, local: Address, peer: Address) -> Result<(), AddressesFixed> {
        if self.has(OPEN | CLOSED) {
            return Err(AddressesFixed::Opened);
        }
        let real = Box::new(Real { local, peer });
        let set = self.0.addresses.real.set(real);
        set.map_err(|_| AddressesFixed::AlreadySet)
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;
    use crate::connection::{Connection, Endpoints, TransportKind};

    fn ip(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    fn connection() -> Connection<()> {
        let (local, peer) = (ip("10.0.0.1:80"), ip("10.0.0.2:4096"));
        Connection::with_endpoints((), Endpoints::new(TransportKind::Tcp, local, peer))
    }

    #[test]
    fn without_real_addresses_the_sockets_are_returned() {
        let connection = connection();
        let handle = connection.handle();
        assert_eq!(handle.peer_addr(), handle.socket_peer_addr());
        assert_eq!(handle.local_addr(), handle.socket_local_addr());
        assert_eq!(handle.peer_addr(), &ip("10.0.0.2:4096"));
    }

    #[test]
    fn real_addresses_are_returned_and_printed_also_after_the_close() {
        let connection = connection();
        let handle = connection.handle().clone();
        let (local, peer) = (ip("192.0.2.1:443"), ip("192.0.2.7:4096"));
        handle.set_real_addrs(local.clone(), peer.clone()).unwrap();
        let other = handle.set_real_addrs(peer.clone(), local.clone());
        assert_eq!(other, Err(AddressesFixed::AlreadySet));
        drop(connection);
        assert!(handle.is_closed());
        assert_eq!((handle.local_addr(), handle.peer_addr()), (&local, &peer));
        assert_eq!(handle.socket_local_addr(), &ip("10.0.0.1:80"));
        assert_eq!(handle.socket_peer_addr(), &ip("10.0.0.2:4096"));
        for text in [handle.to_string(), format!("{handle:?}")] {
            assert!(text.contains("192.0.2.1:443") && text.contains("192.0.2.7:4096"));
        }
    }

    #[test]
    fn addresses_of_an_open_or_closed_connection_are_fixed() {
        let open = connection();
        let handle = open.handle();
        handle.mark_open();
        let set = handle.set_real_addrs(Address::Unknown, Address::Unknown);
        assert_eq!(set, Err(AddressesFixed::Opened));
        assert_eq!(handle.peer_addr(), &ip("10.0.0.2:4096"));

        let closed = connection().handle().clone();
        let set = closed.set_real_addrs(Address::Unknown, Address::Unknown);
        assert_eq!(set, Err(AddressesFixed::Opened));
    }

    #[test]
    fn one_of_many_threads_sets_the_addresses() {
        let connection = connection();
        let handle = connection.handle();
        let set: Vec<_> = std::thread::scope(|scope| {
            let threads = [1, 2, 3, 4].map(|id| {
                scope.spawn(move || {
                    let address = Address::Memory(id);
                    handle.set_real_addrs(address.clone(), address).is_ok()
                })
            });
            threads.map(|thread| thread.join().unwrap()).into()
        });
        assert_eq!(set.iter().filter(|set| **set).count(), 1);
        assert_eq!(handle.peer_addr(), handle.local_addr());
    }
}
