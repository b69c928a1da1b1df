//! Settings of the layers for both sides.

use super::{Contexts, Level};

/// Format of the compressed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Deflate(Level),
    Zlib(Level),
    Snappy,
    #[cfg(feature = "zstd")]
    Zstd(i32),
}

impl Format {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Deflate(_) => "deflate",
            Self::Zlib(_) => "zlib",
            Self::Snappy => "snappy",
            #[cfg(feature = "zstd")]
            Self::Zstd(_) => "zstd",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) format: Format,
    /// Maximum plain bytes for each compressed byte.
    pub(super) ratio: u64,
    /// Plain bytes that are permitted in addition.
    pub(super) free: u64,
    pub(super) contexts: Contexts,
}

impl Settings {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            ratio: 250,
            free: 1 << 20,
            contexts: Contexts::default(),
        }
    }
}

/// Defines the constructors and setters that both layers have.
macro_rules! settings {
    () => {
        /// Creates a new layer for raw deflate (RFC 1951), which the Go library getty sends.
        ///
        /// Each flush of the session is a sync flush. The stream never has a final block. It ends
        /// after the last flush, with the end of the connection's direction.
        #[must_use]
        pub fn deflate(level: Level) -> Self {
            Self::with_format(Format::Deflate(level))
        }

        /// Creates a new layer for zlib (RFC 1950): deflate with a header of two bytes and a
        /// checksum. The end of this side's direction is a final block.
        #[must_use]
        pub fn zlib(level: Level) -> Self {
            Self::with_format(Format::Zlib(level))
        }

        /// Creates a new layer for snappy in its framing format. It is several times faster than
        /// deflate and saves less. It needs no context and holds no memory between messages.
        #[must_use]
        pub fn snappy() -> Self {
            Self::with_format(Format::Snappy)
        }

        /// Creates a new layer for zstd at this level, which zstd reduces to its own range. 0 is
        /// zstd's default, which is 3.
        ///
        /// A session sends one frame with a window of 128 KiB. It accepts frames with windows of
        /// up to 1 MiB. A peer with other software must set its window (`windowLog` 20), because
        /// zstd's default for a stream is 2 MiB.
        #[cfg(feature = "zstd")]
        #[must_use]
        pub fn zstd(level: i32) -> Self {
            Self::with_format(Format::Zstd(level))
        }

        /// Sets the limit on inflated input: `free + ratio * compressed` bytes of each connection.
        /// The default is a `ratio` of 250 and 1 MiB `free`.
        ///
        /// A connection that exceeds it closes as [`CloseReason::Decode`] with an
        /// [`InflateBomb`](super::InflateBomb) as its source. The codec's maximum applies in
        /// addition. Ordinary text has a ratio of 3 to 20. Messages that repeat each other may
        /// have 100. The limit of deflate itself is 1032.
        ///
        /// [`CloseReason::Decode`]: crate::CloseReason::Decode
        #[must_use]
        pub fn with_max_ratio(mut self, ratio: u32, free: u64) -> Self {
            let settings = Arc::make_mut(&mut self.settings);
            (settings.ratio, settings.free) = (ratio.into(), free);
            self
        }

        /// Sets the pool of contexts, which may be shared with other layers. The default is a
        /// separate pool of 256 contexts. Snappy does not use it.
        #[must_use]
        pub fn with_contexts(mut self, contexts: Contexts) -> Self {
            Arc::make_mut(&mut self.settings).contexts = contexts;
            self
        }

        fn with_format(format: Format) -> Self {
            Self {
                settings: Arc::new(Settings::new(format)),
            }
        }
    };
}

pub(super) use settings;
