//! Compression levels.

/// Compression level of deflate, from 0 to 9.
///
/// Higher levels take more time and produce fewer bytes. The decompressor accepts all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// Level 0: the bytes are stored. The Go library getty calls it `CompressNone`.
    pub const NONE: Self = Self(0);
    /// Level 1, the fastest. The Go library getty calls it `CompressBestSpeed`.
    pub const FAST: Self = Self(1);
    /// Level 6, the default of zlib and of Go's `compress/flate`.
    pub const DEFAULT: Self = Self(6);
    /// Level 9, the smallest output.
    pub const BEST: Self = Self(9);

    /// Creates a level. A value above 9 is reduced to 9.
    #[must_use]
    pub const fn new(level: u8) -> Self {
        Self(if level > 9 { 9 } else { level })
    }
}

impl Default for Level {
    /// Returns [`Level::DEFAULT`].
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl From<Level> for i32 {
    fn from(level: Level) -> Self {
        level.0.into()
    }
}
