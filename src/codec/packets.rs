//! Frames that begin with an opcode.

use std::{fmt, marker::PhantomData};

use bytes::{BufMut, Bytes, BytesMut};

use super::{Decoder, Encoder, FrameCodec, FrameLimit, Malformed, format::FormatError};
use crate::handler::{Opcode, Packet};

/// Codec for [`Packet`]s: an opcode in front of a payload in the frames of `C`.
///
/// `C` must be a codec of bytes. Over streams it can be
/// [`LengthDelimited`](super::LengthDelimited), [`VarintDelimited`](super::VarintDelimited) or
/// [`Frames`](super::Frames). Over WebSocket and UDP it should be [`Binary`](super::Binary).
/// `K` is the type of the opcode. The maximum of the frames includes the opcode.
///
/// A received payload is a part of the frame and not a copy. A packet is encoded into the write
/// buffer without an allocation.
///
/// ```
/// use getty::codec::{BytesMut, Decoder, Encoder, LengthDelimited, Packets};
/// use getty::handler::Packet;
///
/// # fn main() -> Result<(), getty::BoxError> {
/// let mut codec = Packets::new(LengthDelimited::new());
/// let mut buffer = BytesMut::new();
/// codec.encode(Packet::new(7_u16, "hi"), &mut buffer)?;
/// assert_eq!(buffer, b"\0\0\0\x04\0\x07hi"[..]);
/// assert_eq!(codec.decode(&mut buffer)?, Some(Packet::new(7, "hi")));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// A frame without an opcode is [`FormatError::Malformed`]. It closes the session as a bad
/// frame does. A malformed payload is the error of the argument that decodes it such as
/// `Postcard<T>`. A [`HandleErrorLayer`](crate::layers::HandleErrorLayer) can reply to it.
pub struct Packets<C, K = u16> {
    frames: C,
    opcode: PhantomData<fn(K) -> K>,
}

impl<C: FrameLimit, K> FrameLimit for Packets<C, K> {
    fn set_max_frame(&mut self, bytes: usize) {
        self.frames.set_max_frame(bytes);
    }
}

impl<C, K> Packets<C, K> {
    /// Creates a new codec with packets in the frames of `frames`, which also has the maximum
    /// length of a packet.
    pub const fn new(frames: C) -> Self {
        Self {
            frames,
            opcode: PhantomData,
        }
    }

    /// Returns the codec of the frames.
    pub const fn frames(&self) -> &C {
        &self.frames
    }
}

impl<C, K> Packets<C, K>
where
    C: FrameCodec<Item: Into<Bytes>>,
    K: Opcode,
{
    #[inline]
    fn packet(
        frame: Result<Option<C::Item>, C::Error>,
    ) -> Result<Option<Packet<K>>, FormatError<C::Error>> {
        let Some(frame) = frame.map_err(FormatError::Frame)? else {
            return Ok(None);
        };
        let mut payload = frame.into();
        let length = payload.len();
        match K::decode(&mut payload) {
            Some(opcode) => Ok(Some(Packet { opcode, payload })),
            None => Err(FormatError::Malformed(no_opcode(length))),
        }
    }
}

#[cold]
fn no_opcode(length: usize) -> Malformed {
    Malformed::with_summary("packet", length, "no opcode", "no opcode")
}

impl<C, K> Decoder for Packets<C, K>
where
    C: FrameCodec<Item: Into<Bytes>>,
    K: Opcode,
{
    type Item = Packet<K>;
    type Error = FormatError<C::Error>;

    #[inline]
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Packet<K>>, Self::Error> {
        Self::packet(self.frames.decode(src))
    }

    #[inline]
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Packet<K>>, Self::Error> {
        Self::packet(self.frames.decode_eof(src))
    }
}

// the only implementation, so that the type of sent messages is inferred
impl<C: FrameCodec, K: Opcode> Encoder<Packet<K>> for Packets<C, K> {
    type Error = FormatError<C::Error>;

    #[inline]
    fn encode(&mut self, packet: Packet<K>, dst: &mut BytesMut) -> Result<(), Self::Error> {
        let start = dst.len();
        self.frames.begin_frame(dst);
        packet.opcode.encode(dst);
        dst.put_slice(&packet.payload);
        let ended = self.frames.end_frame(dst, start);
        if ended.is_err() {
            dst.truncate(start);
        }
        ended.map_err(FormatError::Frame)
    }
}

impl<C: Clone, K> Clone for Packets<C, K> {
    fn clone(&self) -> Self {
        Self::new(self.frames.clone())
    }
}

impl<C: Default, K> Default for Packets<C, K> {
    fn default() -> Self {
        Self::new(C::default())
    }
}

impl<C: fmt::Debug, K> fmt::Debug for Packets<C, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packets")
            .field("frames", &self.frames)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Binary, Frames, LengthDelimited, LengthDelimitedError, testing};

    #[test]
    fn opcodes_are_big_endian() {
        fn check<K: Opcode + Copy + PartialEq + fmt::Debug>(opcode: K, bytes: &[u8]) {
            let mut codec = Packets::new(Binary::new());
            let mut buffer = BytesMut::new();
            codec
                .encode(Packet::new(opcode, "ab"), &mut buffer)
                .unwrap();
            assert_eq!(buffer, [bytes, b"ab"].concat());
            let packet = codec.decode_eof(&mut buffer).unwrap();
            assert_eq!(packet, Some(Packet::new(opcode, "ab")));
        }
        check(1_u8, b"\x01");
        check(0x0102_u16, b"\x01\x02");
        check(0x0102_0304_u32, b"\x01\x02\x03\x04");
    }

    #[test]
    fn payload_is_a_part_of_the_frame() {
        fn check<C: FrameCodec<Item: Into<Bytes>>>(frames: C) {
            let mut codec = Packets::<C>::new(frames);
            let mut buffer = BytesMut::from(&b"\0\0\0\x09\0\x07a packet"[..]);
            buffer.truncate(13);
            let payload = buffer[6..].as_ptr();
            let packet = codec.decode(&mut buffer).ok().flatten().unwrap();
            assert_eq!((packet.opcode, &packet.payload[..]), (7, &b"a packe"[..]));
            assert_eq!(packet.payload.as_ptr(), payload);
        }
        check(LengthDelimited::new());
    }

    #[test]
    fn packets_arrive_in_any_pieces() {
        let sent = [
            Packet::new(1, ()),
            Packet::new(2, "x"),
            Packet::new(u16::MAX, vec![7; 300]),
        ];
        let mut codec = Packets::new(Frames::default());
        let mut stream = BytesMut::new();
        for packet in &sent {
            codec.encode(packet.clone(), &mut stream).unwrap();
        }
        for pieces in [vec![1], vec![5, 3], vec![1000]] {
            let (received, error) = testing::decode_stream(&mut codec, &stream, &pieces);
            assert!(error.is_none());
            assert_eq!(received, sent);
        }
    }

    #[test]
    fn frame_without_an_opcode_is_malformed_and_a_long_packet_is_not_sent() {
        let mut codec = Packets::<_, u16>::new(LengthDelimited::new().max_frame_length(4));
        let mut buffer = BytesMut::from(&b"\0\0\0\x01\x07"[..]);
        let error = codec.decode(&mut buffer).unwrap_err();
        assert_eq!(error.to_string(), "malformed packet of 1 byte: no opcode");

        codec.encode(Packet::new(1, "ab"), &mut buffer).unwrap();
        let before = buffer.clone();
        let error = codec.encode(Packet::new(1, "abc"), &mut buffer);
        assert!(matches!(
            error,
            Err(FormatError::Frame(LengthDelimitedError::TooLong {
                length: 5,
                max: 4
            }))
        ));
        assert_eq!(buffer, before);
    }
}
