//! Vocabulary of a getty pipeline: connections, sessions, messages and their replies.

pub mod budget;
mod connection;
pub mod correlate;
mod message;
mod session;
#[doc(hidden)]
pub mod sync;

pub use self::{
    budget::MemoryBudget,
    connection::{
        Address, CallbackAdded, CloseReason, Closed, Connection, ConnectionHandle,
        DrainDeadlineExceeded, Endpoints, Panic, SharedError, Stats, TransportKind, WeakHandle,
    },
    correlate::{Caller, Correlate, Left, RequestError},
    message::{IntoReply, Replies, Reply, Request},
    session::{
        Feeding, Framed, FramedParts, HasSession, Offered, SendError, Sending, Sent, Session,
        SlowConsumer, WeakSession, Writable, driver,
    },
};

/// Items that the layers of getty need and applications do not.
#[doc(hidden)]
pub mod internal {
    pub use crate::{
        connection::{Catcher, Contained, Hold, Kept, catch, contain},
        session::{Published, Waiting, payload::Weigh},
    };
}
