//! Matching of responses to requests that this side sent.

mod error;
mod matching;
mod request;
mod table;

pub use self::{
    error::{Delivery, RequestError},
    matching::{ById, Correlate, InOrder, Matching, NoPush, Push, ResponseTo},
    request::{Caller, Requesting},
};
#[doc(hidden)]
pub use self::{request::Correlator, table::Limits};
