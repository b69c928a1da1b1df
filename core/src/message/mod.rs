//! One message: the request that a handler gets, and the reply that it gives.

mod reply;
mod request;

pub use self::{
    reply::{IntoReply, Replies, Reply},
    request::Request,
};
