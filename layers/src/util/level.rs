//! Spans and events with a level that is known at run time.

/// Creates a span or event at a level. tracing requires a separate call site for each level.
macro_rules! at_level {
    ($level:expr, $macro:ident!($($arguments:tt)*)) => {
        match $level {
            tracing::Level::ERROR => tracing::$macro!(tracing::Level::ERROR, $($arguments)*),
            tracing::Level::WARN => tracing::$macro!(tracing::Level::WARN, $($arguments)*),
            tracing::Level::INFO => tracing::$macro!(tracing::Level::INFO, $($arguments)*),
            tracing::Level::DEBUG => tracing::$macro!(tracing::Level::DEBUG, $($arguments)*),
            tracing::Level::TRACE => tracing::$macro!(tracing::Level::TRACE, $($arguments)*),
        }
    };
}

/// Level in one byte. Each connection stores two, and a [`Level`](tracing::Level) has eight
/// bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompactLevel(u8);

impl CompactLevel {
    pub(crate) const fn new(level: tracing::Level) -> Self {
        Self(match level {
            tracing::Level::ERROR => 0,
            tracing::Level::WARN => 1,
            tracing::Level::INFO => 2,
            tracing::Level::DEBUG => 3,
            tracing::Level::TRACE => 4,
        })
    }

    pub(crate) const fn get(self) -> tracing::Level {
        match self.0 {
            0 => tracing::Level::ERROR,
            1 => tracing::Level::WARN,
            2 => tracing::Level::INFO,
            3 => tracing::Level::DEBUG,
            _ => tracing::Level::TRACE,
        }
    }
}
