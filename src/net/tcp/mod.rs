//! TCP listener and connector.

mod connector;
mod listener;
mod options;
mod stream;

pub use self::{
    connector::TcpConnector,
    listener::{TcpListener, TcpListenerBuilder},
    options::Keepalive,
};
