//! Handlers: functions that are called with messages.

mod extract;
mod function;
mod output;
mod service;
#[doc(hidden)]
pub mod via;

pub use self::{
    extract::{
        Attribute, FromRequest, FromSession, MissingAttribute, PartOf, Payload, PeerAddr,
        Rejection, State,
    },
    function::Handler,
    output::{HandlerFuture, HandlerOutput, NoReply},
    service::{HandlerService, handle, handle_with},
};
#[doc(hidden)]
pub use self::{
    function::{Arguments, Function},
    output::{Outcome, OutputFuture},
};
