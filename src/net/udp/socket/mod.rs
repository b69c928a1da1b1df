//! A UDP socket that receives and sends datagrams in batches, shared by any number of sessions.

mod datagram_queue;
mod ecn;
mod options;
mod payload;
mod send_batch;
mod socket;

pub use self::ecn::Ecn;
pub(super) use self::{
    datagram_queue::{DatagramQueue, PeerQueue, recycle, take_queue},
    options::SocketOptions,
    payload::{MAX_PAYLOAD, at_most_max_payload, max_payload_to},
    send_batch::SendBatch,
    socket::{IncomingDatagram, Route, Socket},
};
