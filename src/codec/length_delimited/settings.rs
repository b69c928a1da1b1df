//! Settings of [`LengthDelimited`]: the header and the maximum length.

use super::{
    super::{DEFAULT_MAX_FRAME, clamp_max},
    FieldWidth, LengthDelimited, PLAIN_HEADER,
};

impl LengthDelimited {
    /// Creates a new codec whose header is a big-endian length of four bytes. The maximum is
    /// 64 KiB.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: DEFAULT_MAX_FRAME,
            adjustment: 0,
            offset: 0,
            skip: None,
            width: FieldWidth::U32,
            little_endian: false,
            plain: true,
        }
    }

    /// Sets the maximum length of a received or sent payload, in bytes. The default is 64 KiB. A
    /// maximum above 1 GiB is reduced to 1 GiB.
    ///
    /// The maximum applies to the message. It does not include the bytes that
    /// [`num_skip`](Self::num_skip) removes and is compared after
    /// [`length_adjustment`](Self::length_adjustment).
    #[must_use]
    pub const fn max_frame_length(mut self, bytes: usize) -> Self {
        self.max = clamp_max(bytes);
        self
    }

    /// Sets the number of bytes before the length field. The default is 0.
    #[must_use]
    pub const fn length_field_offset(mut self, bytes: u16) -> Self {
        self.offset = bytes;
        self.detect_plain_header()
    }

    /// Sets the width of the length field. The default is four bytes.
    #[must_use]
    pub const fn length_field_length(mut self, width: FieldWidth) -> Self {
        self.width = width;
        self.detect_plain_header()
    }

    /// Reads and writes the length field with its most significant byte first. This is the default.
    #[must_use]
    pub const fn big_endian(mut self) -> Self {
        self.little_endian = false;
        self.detect_plain_header()
    }

    /// Reads and writes the length field with its least significant byte first. The default is
    /// [`big_endian`](Self::big_endian).
    #[must_use]
    pub const fn little_endian(mut self) -> Self {
        self.little_endian = true;
        self.detect_plain_header()
    }

    /// Sets the number that is added to the length field to get the payload's length. The default
    /// is 0.
    ///
    /// It must be negative if the field also counts bytes that [`num_skip`](Self::num_skip)
    /// removes, such as the header. It must be positive if the payload has bytes that the field
    /// does not count, such as a checksum or a header that is not skipped.
    #[must_use]
    pub const fn length_adjustment(mut self, bytes: i32) -> Self {
        self.adjustment = bytes;
        self.detect_plain_header()
    }

    /// Sets the number of bytes that are removed from the start of a frame. The default is all
    /// bytes up to the end of the length field.
    ///
    /// With 0 the handler receives the whole frame. Skipped bytes are lost and are sent as zeros
    /// except for the length field. If a header contains more than a length, skip fewer bytes.
    #[must_use]
    pub const fn num_skip(mut self, bytes: u16) -> Self {
        self.skip = Some(bytes);
        self.detect_plain_header()
    }

    /// Returns the maximum length of a payload in bytes.
    #[must_use]
    pub const fn get_max_frame_length(&self) -> usize {
        self.max
    }

    /// Updates `plain` so that it is computed once and not for each frame.
    pub(super) const fn detect_plain_header(mut self) -> Self {
        self.plain = self.adjustment == 0
            && self.offset == 0
            && matches!(self.width, FieldWidth::U32)
            && !self.little_endian
            && self.skip() == PLAIN_HEADER;
        self
    }
}

impl Default for LengthDelimited {
    fn default() -> Self {
        Self::new()
    }
}
