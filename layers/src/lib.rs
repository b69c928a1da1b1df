//! What flows through a getty pipeline, and the layers that it is made of.

pub mod codec;
mod connection;
pub mod handle_error;
mod message;
mod session;
mod sync;

pub use self::{
    codec::CodecLayer,
    connection::{
        Address, CallbackAdded, CloseReason, Closed, Connection, ConnectionHandle,
        DrainDeadlineExceeded, Endpoints, Panic, SharedError, Stats, TransportKind,
    },
    handle_error::HandleErrorLayer,
    message::{IntoReply, Replies, Reply, Request},
    session::{
        Feeding, Framed, FramedParts, HasSession, SendError, Sending, Sent, Session, driver,
    },
};
