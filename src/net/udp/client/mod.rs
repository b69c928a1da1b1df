//! A client: a socket that is connected to one peer.

mod connector;
mod transport;

pub use self::{connector::UdpConnector, transport::UdpClient};
