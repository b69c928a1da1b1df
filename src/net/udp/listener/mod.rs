//! A listener that opens a session for each peer of its sockets.
//!
//! ```text
//! builder -> listener -> reader -> batch ----> AcceptQueue, inline_scheduler
//!                                    |
//!                                    v
//!            transport -> listener_socket -> table -> peer -> flow
//! ```
//!
//! One [`reader`] task per socket receives batches of datagrams. A [`batch`] puts each datagram
//! into the queue of its [`peer`], which the [`table`] finds, and opens a session for a new
//! peer. The session's [`transport`] reads that queue, and sends through the socket itself.

mod batch;
mod builder;
mod flow;
mod inline_scheduler;
mod listener;
mod listener_socket;
mod peer;
mod reader;
mod settings;
mod shared;
mod table;
mod transport;

pub use self::{
    builder::UdpListenerBuilder,
    listener::UdpListener,
    peer::UdpInfo,
    settings::{Evicted, Eviction, FirstDatagram, UdpAdmission, UdpOverflow},
    transport::UdpPeer,
};
