//! Matching of responses to requests that this side sent.

mod error;
mod matching;
mod request;
mod table;

pub use self::{
    error::{Left, RequestError},
    matching::{Answered, ById, Correlate, InOrder, Matching, NoPush, Push},
    request::{Caller, Requesting},
};
#[doc(hidden)]
pub use self::{request::Shared, table::Limits};
