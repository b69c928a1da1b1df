//! The usual hand-written tokio loop: read, answer everything that was read, write once.

use std::io;

use bytes::{Buf, BytesMut};
use getty::BoxError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::codec::{Decoder, Encoder};

use crate::frames::{HEADER, MAX_PAYLOAD};

/// Parses frames in place and copies each into the write buffer.
///
/// # Errors
///
/// If the transport fails or a frame is longer than [`MAX_PAYLOAD`].
pub async fn by_hand<T>(mut transport: T, read: usize) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = BytesMut::with_capacity(read);
    let mut output = BytesMut::with_capacity(read);
    let mut wanted = read;
    loop {
        input.reserve(wanted);
        if transport.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        let mut parsed = 0;
        wanted = read;
        while let Some((header, rest)) = input[parsed..].split_first_chunk::<HEADER>() {
            let length = u32::from_be_bytes(*header) as usize;
            if length > MAX_PAYLOAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Some(payload) = rest.get(..length) else {
                // Reserves space for the rest of a large frame at once, instead of one read at a
                // time.
                wanted = read.max(length - rest.len());
                break;
            };
            output.extend_from_slice(header);
            output.extend_from_slice(payload);
            parsed += HEADER + length;
        }
        input.advance(parsed);
        transport.write_all(&output).await?;
        output.clear();
    }
}

/// Decodes and encodes each frame with `codec`.
///
/// # Errors
///
/// If the transport or the codec fails.
pub async fn with_codec<T, C>(mut transport: T, mut codec: C, read: usize) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
    C: Decoder<Error: Into<BoxError>> + Encoder<C::Item, Error: Into<BoxError>>,
{
    let mut input = BytesMut::with_capacity(read);
    let mut output = BytesMut::with_capacity(read);
    loop {
        input.reserve(read);
        if transport.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        while let Some(message) = codec.decode(&mut input).map_err(io::Error::other)? {
            codec
                .encode(message, &mut output)
                .map_err(io::Error::other)?;
        }
        transport.write_all(&output).await?;
        output.clear();
    }
}
