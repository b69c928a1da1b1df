//! Errors of typed codecs.

use std::{error::Error, fmt, io};

use tower::BoxError;

use crate::codec::Malformed;

/// Returned when a typed message cannot be decoded or encoded. `E` is the error of the
/// [`FrameCodec`](crate::codec::FrameCodec).
#[derive(Debug)]
#[non_exhaustive]
pub enum FormatError<E> {
    /// The frame cannot be decoded or encoded, or the transport failed. `Display` and `source` are
    /// those of `E`.
    Frame(E),
    /// The payload of a received frame is not a message.
    Malformed(Malformed),
    /// A message cannot be expressed in the format. The source is the format's error.
    Encode(BoxError),
}

impl<E: fmt::Display> fmt::Display for FormatError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Malformed(error) => error.fmt(f),
            Self::Encode(_) => f.write_str("message cannot be encoded"),
        }
    }
}

impl<E: Error + 'static> Error for FormatError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Frame(error) => error.source(),
            Self::Malformed(error) => error.source(),
            Self::Encode(error) => Some(&**error),
        }
    }
}

impl<E: From<io::Error>> From<io::Error> for FormatError<E> {
    fn from(error: io::Error) -> Self {
        Self::Frame(error.into())
    }
}
