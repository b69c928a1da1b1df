//! `serde::Serialize` for values that dashboards and logs contain.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::{Address, CloseReason, Closed, Stats, TransportKind};

/// Serialized as its text, such as `127.0.0.1:7000`.
impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Serialized as its short name, such as `tcp`.
impl Serialize for TransportKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Serialized as its [label](CloseReason::as_str), such as `idle_timeout`.
impl Serialize for CloseReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for Stats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            bytes_in,
            bytes_out,
            messages_in,
            messages_out,
            skipped,
            dropped,
            late,
        } = self;
        let mut stats = serializer.serialize_struct("Stats", 7)?;
        stats.serialize_field("bytes_in", bytes_in)?;
        stats.serialize_field("bytes_out", bytes_out)?;
        stats.serialize_field("messages_in", messages_in)?;
        stats.serialize_field("messages_out", messages_out)?;
        stats.serialize_field("skipped", skipped)?;
        stats.serialize_field("dropped", dropped)?;
        stats.serialize_field("late", late)?;
        stats.end()
    }
}

/// Serialized as a struct with the fields of [`Closed`]. `reason` is its label, `source` is a
/// text, and `lifetime` is in seconds. `code` is the code of the reason, or `None`.
impl Serialize for Closed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            reason,
            stats,
            lifetime,
            source,
            unhandled_messages,
            unhandled_bytes,
            unsent_messages,
            unsent_bytes,
            orderly,
        } = self;
        let source = source.as_ref().map(ToString::to_string);
        let mut closed = serializer.serialize_struct("Closed", 10)?;
        closed.serialize_field("reason", reason)?;
        closed.serialize_field("code", &reason.code())?;
        closed.serialize_field("source", &source)?;
        closed.serialize_field("lifetime", &lifetime.as_secs_f64())?;
        closed.serialize_field("stats", stats)?;
        closed.serialize_field("unhandled_messages", unhandled_messages)?;
        closed.serialize_field("unhandled_bytes", unhandled_bytes)?;
        closed.serialize_field("unsent_messages", unsent_messages)?;
        closed.serialize_field("unsent_bytes", unsent_bytes)?;
        closed.serialize_field("orderly", orderly)?;
        closed.end()
    }
}
