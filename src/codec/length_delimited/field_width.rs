//! Width of a length field.

/// Number of bytes in a length field. It is an enum so that an invalid width does not compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldWidth {
    /// One byte.
    U8 = 1,
    /// Two bytes.
    U16,
    /// Three bytes.
    U24,
    /// Four bytes.
    U32,
    /// Five bytes.
    U40,
    /// Six bytes.
    U48,
    /// Seven bytes.
    U56,
    /// Eight bytes.
    U64,
}

impl FieldWidth {
    /// Returns the number of bytes, from 1 to 8.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self as usize
    }
}
