//! The sending half of a session: from messages to the transport.

mod pushes;
mod segments;
mod writer;

pub(super) use self::writer::Writer;
