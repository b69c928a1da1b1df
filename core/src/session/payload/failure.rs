//! Failures of sends, with the payload if no byte was encoded.

use super::Payload;
use crate::connection::SharedError;

/// Reason why the driver could not send a payload.
#[derive(Debug)]
pub(crate) enum SendFailure<Out> {
    Closed(Option<Payload<Out>>),
    Encode(SharedError),
    Io(SharedError),
    Unsupported,
}
