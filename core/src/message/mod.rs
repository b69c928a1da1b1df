//! Messages: the request that a handler receives, and its reply.

mod reply;
mod request;

pub use self::{
    reply::{IntoReply, Replies, Reply},
    request::Request,
};
