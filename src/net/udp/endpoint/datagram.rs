//! A message with its peer.

use std::net::{IpAddr, SocketAddr};

use crate::net::udp::socket::{Ecn, Route};

/// A message with its peer, as the session of a [`UdpEndpoint`](super::UdpEndpoint) receives
/// and sends it.
///
/// A reply is created from the request, and goes to its peer. Any other datagram is created
/// with [`to`](Self::to). Every datagram has a peer.
///
/// ```
/// use getty::net::Datagram;
///
/// let request = Datagram::to(([127, 0, 0, 1], 7000).into(), "how many?");
/// let reply = request.reply(3);
/// assert_eq!(reply.peer(), request.peer());
/// assert_eq!(*reply.message(), 3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram<M> {
    peer: SocketAddr,
    local: Option<IpAddr>,
    ecn: Ecn,
    message: M,
}

impl<M> Datagram<M> {
    /// Creates a datagram to `peer`.
    pub const fn to(peer: SocketAddr, message: M) -> Self {
        Self {
            peer,
            local: None,
            ecn: Ecn::NotCapable,
            message,
        }
    }

    pub(super) const fn received(route: Route, ecn: Ecn, message: M) -> Self {
        Self {
            peer: route.peer,
            local: route.local,
            ecn,
            message,
        }
    }

    /// Creates a datagram to the same peer, from the local address that this one was sent to.
    pub const fn reply<N>(&self, message: N) -> Datagram<N> {
        Datagram {
            peer: self.peer,
            local: self.local,
            ecn: Ecn::NotCapable,
            message,
        }
    }

    /// Sets the local address to send from, for a socket with several addresses.
    #[must_use]
    pub const fn with_local_ip(mut self, local: IpAddr) -> Self {
        self.local = Some(local);
        self
    }

    /// Returns the source of a received datagram, or the destination of one to send.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Returns the local address that the datagram was sent to, where the operating system reports
    /// it, or the address to send from.
    pub const fn local_ip(&self) -> Option<IpAddr> {
        self.local
    }

    /// Returns the ECN bits of a received datagram. Sent datagrams have none.
    pub const fn ecn(&self) -> Ecn {
        self.ecn
    }

    /// Returns a reference to the message.
    pub const fn message(&self) -> &M {
        &self.message
    }

    /// Returns a mutable reference to the message.
    pub const fn message_mut(&mut self) -> &mut M {
        &mut self.message
    }

    /// Returns the message.
    pub fn into_message(self) -> M {
        self.message
    }

    /// Converts the message with `f` and keeps the peer.
    pub fn map<N>(self, f: impl FnOnce(M) -> N) -> Datagram<N> {
        Datagram {
            peer: self.peer,
            local: self.local,
            ecn: self.ecn,
            message: f(self.message),
        }
    }

    pub(super) fn into_parts(self) -> (Route, M) {
        let route = Route {
            peer: self.peer,
            local: self.local,
        };
        (route, self.message)
    }
}
