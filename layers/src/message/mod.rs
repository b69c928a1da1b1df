//! One message: the request that a handler gets, and the reply that it gives.

pub(crate) mod lent;
mod reply;
mod request;

pub use self::{
    reply::{IntoReply, Replies, Reply},
    request::Request,
};
