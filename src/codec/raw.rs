//! Bytes as they arrive, without frames.

use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::{DEFAULT_MAX_FRAME, Decoder, Encoder, FrameCodec, FrameLimit, clamp_max};

/// Codec for bytes as they arrive, with at most 64 KiB per message by default. It never
/// returns an empty message.
///
/// Pass it to `CodecLayer` in a stack for proxies, for echo servers, or for protocols that are
/// parsed in an inner service. Scope: session. It keeps no state and never refuses bytes, so
/// its error is the transport's.
///
/// On a byte stream the boundaries between messages have no meaning. One send may arrive as
/// several messages, and several sends may arrive as one. On a message transport a message
/// arrives as it was sent. A message that exceeds the maximum is refused there because a
/// session decodes one message from each message of the transport.
///
/// A decoded message shares the memory of the read buffer. A message that is kept keeps the
/// whole buffer alive. To keep a small part for long, keep a [`Bytes::copy_from_slice`].
///
/// ```
/// use getty::codec::{Bytes, BytesMut, Decoder, Encoder, Raw};
///
/// # fn main() -> std::io::Result<()> {
/// let mut codec = Raw::new().with_max_length(8);
/// let mut buffer = BytesMut::new();
/// codec.encode(Bytes::from("hello "), &mut buffer)?;
/// codec.encode(Bytes::from("world"), &mut buffer)?;
///
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "hello wo");
/// assert_eq!(codec.decode(&mut buffer)?.unwrap(), "rld");
/// assert_eq!(codec.decode(&mut buffer)?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Raw {
    max: usize,
}

impl Raw {
    /// Creates a new codec. The maximum is 64 KiB.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            max: DEFAULT_MAX_FRAME,
        }
    }

    /// Sets the maximum length of a received message in bytes. The default is 64 KiB. Zero is
    /// increased to 1, and a maximum above 1 GiB is reduced to 1 GiB.
    ///
    /// The maximum does not apply to sent messages. Without frames the peer cannot find them too
    /// long.
    #[must_use]
    pub const fn with_max_length(mut self, bytes: usize) -> Self {
        self.max = clamp_max(if bytes == 0 { 1 } else { bytes });
        self
    }

    /// Returns the maximum length of a received message in bytes.
    #[must_use]
    pub const fn max_length(&self) -> usize {
        self.max
    }
}

impl Default for Raw {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameLimit for Raw {
    fn set_max_frame(&mut self, bytes: usize) {
        self.max = clamp_max(bytes.max(1));
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = io::Error;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        if src.is_empty() {
            return Ok(None);
        }
        let length = src.len().min(self.max);
        Ok(Some(src.split_to(length).freeze()))
    }
}

impl Encoder<Bytes> for Raw {
    type Error = io::Error;

    #[inline]
    fn encode(&mut self, item: Bytes, dst: &mut BytesMut) -> io::Result<()> {
        dst.extend_from_slice(&item);
        Ok(())
    }
}

impl Encoder<&[u8]> for Raw {
    type Error = io::Error;

    #[inline]
    fn encode(&mut self, item: &[u8], dst: &mut BytesMut) -> io::Result<()> {
        dst.extend_from_slice(item);
        Ok(())
    }
}

/// For message transports only: on a byte stream the parts that arrive are not frames. An empty
/// message is lost. [`Binary`](super::Binary) has neither weakness.
impl FrameCodec for Raw {
    #[inline]
    fn read_frame<T>(
        &mut self,
        src: &mut BytesMut,
        read: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        if src.is_empty() {
            return Ok(None);
        }
        let length = src.len().min(self.max);
        let item = read(&src[..length]);
        src.advance(length);
        Ok(Some(item))
    }

    fn end_frame(&mut self, _: &mut BytesMut, _: usize) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{super::testing::*, *};

    #[test]
    fn message_shares_the_memory_it_arrived_in() {
        let mut buffer = BytesMut::from("hello");
        let arrived = buffer.as_ptr();
        let message = Raw::new().decode(&mut buffer).unwrap().unwrap();
        assert_eq!(message.as_ptr(), arrived);
    }

    #[test]
    fn maximum_of_zero_is_increased_to_one() {
        let codec = Raw::new().with_max_length(0);
        assert_eq!(codec.max_length(), 1);
    }

    proptest! {
        #[test]
        fn any_stream_arrives_whole_in_messages_within_the_maximum(
            stream in vec(any::<u8>(), 0..300), pieces in pieces(), max in 1_usize..64,
        ) {
            let (messages, error) =
                decode_stream(&mut Raw::new().with_max_length(max), &stream, &pieces);
            prop_assert!(error.is_none());
            prop_assert!(messages.iter().all(|message| (1..=max).contains(&message.len())));
            prop_assert_eq!(messages.concat(), stream);
        }

        #[test]
        fn sent_bytes_are_appended_unchanged(messages in vec(vec(any::<u8>(), 0..50), 0..8)) {
            let mut sent = BytesMut::new();
            for message in &messages {
                Raw::new().encode(Bytes::from(message.clone()), &mut sent).unwrap();
            }
            prop_assert_eq!(&sent[..], messages.concat());
        }
    }
}
