//! What a header may look like, and how long a payload may be.

use super::{
    super::{MAX_FRAME, clamp_max},
    Length, PLAIN_HEADER,
};

/// How many bytes a length field has: a type instead of a number, so that there is no width that cannot be.
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
    /// The number of bytes: 1 to 8.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self as usize
    }
}

impl Length {
    /// A header of four bytes, big-endian, that holds the length of what follows; at most 64 KiB of it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: MAX_FRAME,
            adjustment: 0,
            offset: 0,
            skip: None,
            width: FieldWidth::U32,
            little_endian: false,
            plain: true,
        }
    }

    /// How long a payload may be, received or sent, in bytes. 64 KiB by default; more than 1 GiB is taken as 1 GiB.
    ///
    /// What counts is the message: not the bytes that are [skipped](Self::with_skip), nor what the field says before
    /// its [adjustment](Self::with_adjustment).
    #[must_use]
    pub const fn with_max_length(mut self, bytes: usize) -> Self {
        self.max = clamp_max(bytes);
        self
    }

    /// How many bytes of the header stand before the length field. 0 by default.
    #[must_use]
    pub const fn with_field_offset(mut self, bytes: u16) -> Self {
        self.offset = bytes;
        self.settled()
    }

    /// How many bytes the length field has. 4 by default.
    #[must_use]
    pub const fn with_field_width(mut self, width: FieldWidth) -> Self {
        self.width = width;
        self.settled()
    }

    /// The length field's most significant byte comes first. This is the default.
    #[must_use]
    pub const fn with_big_endian(mut self) -> Self {
        self.little_endian = false;
        self.settled()
    }

    /// The length field's least significant byte comes first. By default it is the most significant one.
    #[must_use]
    pub const fn with_little_endian(mut self) -> Self {
        self.little_endian = true;
        self.settled()
    }

    /// What to add to the length field to get the payload's length. 0 by default.
    ///
    /// It is negative where the field also counts bytes that are [skipped](Self::with_skip), such as the header;
    /// positive where the payload has bytes that the field does not count, such as a checksum, or a header that is not
    /// skipped.
    #[must_use]
    pub const fn with_adjustment(mut self, bytes: i32) -> Self {
        self.adjustment = bytes;
        self.settled()
    }

    /// How many bytes of a frame to leave out of its payload, from its beginning. By default all up to the end of the
    /// length field.
    ///
    /// With 0 the handler sees the whole frame. What is left out is lost, and sent as zeros but for the length field:
    /// where a header says more than a length, leave out less.
    #[must_use]
    pub const fn with_skip(mut self, bytes: u16) -> Self {
        self.skip = Some(bytes);
        self.settled()
    }

    /// How long a payload may be, in bytes.
    #[must_use]
    pub const fn max_length(&self) -> usize {
        self.max
    }

    /// Whether the header can be read at a glance is found out here, once, and not with each frame.
    pub(super) const fn settled(mut self) -> Self {
        self.plain = self.adjustment == 0
            && self.offset == 0
            && matches!(self.width, FieldWidth::U32)
            && !self.little_endian
            && self.skip() == PLAIN_HEADER;
        self
    }
}

impl Default for Length {
    fn default() -> Self {
        Self::new()
    }
}
