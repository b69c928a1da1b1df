//! The codec that getty's servers and the loops around a codec share.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

use crate::frames::{HEADER, MAX_PAYLOAD};

/// A 4-byte big-endian length, then the payload, of 16 MiB at most.
#[must_use]
pub fn length() -> Length {
    Length(tokio_util())
}

/// The same, as tokio-util has it.
#[must_use]
pub fn tokio_util() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_length(HEADER)
        .max_frame_length(MAX_PAYLOAD)
        .new_codec()
}

/// Stand-in until getty's own has landed.
#[derive(Clone, Debug)]
pub struct Length(LengthDelimitedCodec);

impl Decoder for Length {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok(self.0.decode(input)?.map(BytesMut::freeze))
    }
}

impl Encoder<Bytes> for Length {
    type Error = io::Error;

    fn encode(&mut self, payload: Bytes, output: &mut BytesMut) -> io::Result<()> {
        self.0.encode(payload, output)
    }
}
