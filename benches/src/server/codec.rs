//! Codecs of the servers. A frame is a 4-byte big-endian length and a payload of at most
//! 16 MiB.

use ::getty::codec::{Frames, LengthDelimited};
use tokio_util::codec::LengthDelimitedCodec;

use crate::frames::{HEADER, MAX_PAYLOAD};

/// Returns getty's `LengthDelimited` codec.
#[must_use]
pub const fn length_delimited() -> LengthDelimited {
    LengthDelimited::new().max_frame_length(MAX_PAYLOAD)
}

/// Returns getty's `Frames` codec for many small frames. Its servers use it.
#[must_use]
pub const fn frames() -> Frames {
    Frames::with_header(length_delimited())
}

/// Returns tokio-util's codec.
#[must_use]
pub fn tokio_util() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_length(HEADER)
        .max_frame_length(MAX_PAYLOAD)
        .new_codec()
}
