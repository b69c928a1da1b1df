//! An endpoint: one session for all peers of a socket.

mod datagram;
mod endpoint;
mod transport;

pub use self::{datagram::Datagram, endpoint::UdpEndpoint, transport::UdpEndpointIo};
