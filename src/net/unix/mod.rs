//! Listener and connector for Unix stream sockets.

mod connector;
mod listener;

pub use self::{connector::UnixConnector, listener::UnixListener};
