//! The receiving half of a session: from the transport to decoded messages.

mod messages;
mod read_ahead;
mod reader;

pub(super) use self::reader::{Decoded, Discarded, Reader};
