//! A message with the peer that it is from, or for.

use std::net::{IpAddr, SocketAddr};

use super::{Ecn, socket::Route};

/// A message with its peer: what the session of a [`UdpEndpoint`](super::UdpEndpoint) receives and sends.
///
/// A reply is made of the request, and so goes where that came from; any other is made with [`to`](Self::to). There is
/// no way to make one without a peer.
///
/// ```
/// use getty::net::Datagram;
///
/// let question = Datagram::to(([127, 0, 0, 1], 7000).into(), "how many?");
/// let answer = question.reply(3);
/// assert_eq!(answer.peer(), question.peer());
/// assert_eq!(*answer.message(), 3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Datagram<M> {
    peer: SocketAddr,
    local: Option<IpAddr>,
    ecn: Ecn,
    message: M,
}

impl<M> Datagram<M> {
    /// A message for `peer`.
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

    /// Another message for the same peer, from the address of ours that this one came to.
    pub const fn reply<N>(&self, message: N) -> Datagram<N> {
        Datagram {
            peer: self.peer,
            local: self.local,
            ecn: Ecn::NotCapable,
            message,
        }
    }

    /// The same from this address of ours, for one that is to be sent from a socket that has several.
    #[must_use]
    pub const fn with_local_ip(mut self, local: IpAddr) -> Self {
        self.local = Some(local);
        self
    }

    /// Whom it is from, or for.
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// To which of our addresses it was sent, where the operating system says; or from which it is to be sent.
    pub const fn local_ip(&self) -> Option<IpAddr> {
        self.local
    }

    /// The congestion bits that it came with; what is sent has none.
    pub const fn ecn(&self) -> Ecn {
        self.ecn
    }

    /// The message.
    pub const fn message(&self) -> &M {
        &self.message
    }

    /// The message.
    pub const fn message_mut(&mut self) -> &mut M {
        &mut self.message
    }

    /// The message, by value.
    pub fn into_message(self) -> M {
        self.message
    }

    /// The same with another message made of this one.
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
