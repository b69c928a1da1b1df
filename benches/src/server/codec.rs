//! A 4-byte big-endian length, then the payload, of 16 MiB at most.

use ::getty::codec::{Frames, Length};
use tokio_util::codec::LengthDelimitedCodec;

use crate::frames::{HEADER, MAX_PAYLOAD};

/// getty's.
#[must_use]
pub const fn length() -> Length {
    Length::new().with_max_length(MAX_PAYLOAD)
}

/// getty's for many small frames, which its servers use.
#[must_use]
pub const fn frames() -> Frames {
    Frames::new(length())
}

/// tokio-util's.
#[must_use]
pub fn tokio_util() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_length(HEADER)
        .max_frame_length(MAX_PAYLOAD)
        .new_codec()
}
