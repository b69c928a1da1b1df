//! What flows through a getty pipeline, and the layers that it is made of.

pub mod codec;
mod connection;
mod message;
mod session;
mod sync;

pub use self::{
    codec::CodecLayer,
    connection::{
        Address, CallbackAdded, CloseReason, Closed, Connection, ConnectionHandle,
        DrainDeadlineExceeded, Endpoints, Panic, SharedError, Stats, TransportKind,
    },
    message::{IntoReply, Replies, Reply, Request},
    session::{
        Feeding, Framed, FramedParts, HasSession, SendError, Sending, Sent, Session, driver,
    },
};
