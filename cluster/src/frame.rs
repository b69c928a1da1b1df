//! Frames between nodes.
//!
//! ```text
//! version  kind  flags  origin  number  sequence  key length  key  payload
//!    1       1     1       8       8        8         2        n     rest
//! ```
//!
//! All numbers are big-endian.

use std::{error::Error, fmt};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::NodeId;

/// Version that this node writes. It also reads the previous version, once there is one.
const VERSION: u8 = 1;
/// Length of a frame without key and payload, in bytes.
pub(crate) const HEADER: usize = 29;
/// The publisher has just created the counter of `sequence`.
const FRESH: u8 = 1;

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A message to the members of a topic.
    Message = 0,
    /// Closes the members of a topic, on all nodes.
    CloseTopic = 1,
    /// Closes the session of a claim on one node.
    CloseClaim = 2,
    /// The session of a claim has closed.
    ClaimClosed = 3,
    /// Requests the members of a topic from all nodes.
    Ask = 4,
    /// Members of a topic on one node.
    Answer = 5,
    /// The origin is alive.
    Beat = 6,
    /// The origin has started and requests a beat from all nodes.
    Hello = 7,
    /// The origin ends.
    Goodbye = 8,
    /// Requests the members of a topic from now on.
    Watch = 9,
    /// Ends such a request.
    Unwatch = 10,
    /// A part of the members of a topic on one node.
    List = 11,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Message,
        Self::CloseTopic,
        Self::CloseClaim,
        Self::ClaimClosed,
        Self::Ask,
        Self::Answer,
        Self::Beat,
        Self::Hello,
        Self::Goodbye,
        Self::Watch,
        Self::Unwatch,
        Self::List,
    ];
}

/// Everything in a frame but its key and its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// `true` if the publisher has just created the counter of `sequence`.
    pub(crate) fresh: bool,
    pub(crate) origin: NodeId,
    /// Number of the frame among all of its origin. Each is greater than the one before.
    pub(crate) number: u64,
    /// Number of the message among those of its origin and topic, from 1. Messages that the bus
    /// refused count.
    pub(crate) sequence: u64,
}

/// A frame between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) key: Bytes,
    pub(crate) payload: Bytes,
}

/// Error of a frame that another program or another version has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    Short,
    Version(u8),
    Kind(u8),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("the frame is too short"),
            Self::Version(version) => write!(f, "the frame has the unknown version {version}"),
            Self::Kind(kind) => write!(f, "the frame has the unknown kind {kind}"),
        }
    }
}

impl Error for FrameError {}

impl Header {
    /// Appends everything but the payload, which the caller appends.
    pub(crate) fn write(&self, key: &[u8], to: &mut BytesMut) {
        let mut header = [0; HEADER];
        header[0] = VERSION;
        header[1] = self.kind as u8;
        header[3..11].copy_from_slice(&self.origin.0.to_be_bytes());
        let len = u16::try_from(key.len()).expect("the length of a key was checked");
        header[27..].copy_from_slice(&len.to_be_bytes());
        Self::set_numbers(&mut header, self.number, self.sequence, self.fresh);
        to.put_slice(&header);
        to.put_slice(key);
    }

    /// Sets the numbers of a frame whose header was written without them.
    pub(crate) fn set_numbers(frame: &mut [u8], number: u64, sequence: u64, fresh: bool) {
        frame[2] = if fresh { FRESH } else { 0 };
        frame[11..19].copy_from_slice(&number.to_be_bytes());
        frame[19..HEADER - 2].copy_from_slice(&sequence.to_be_bytes());
    }

    /// Reads the header of a frame. Also returns the length of the key that follows.
    pub(crate) fn read(frame: &[u8]) -> Result<(Self, usize), FrameError> {
        let (mut header, rest) = frame.split_at_checked(HEADER).ok_or(FrameError::Short)?;
        let version = header.get_u8();
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = header.get_u8();
        let kind = *Kind::ALL
            .get(usize::from(kind))
            .ok_or(FrameError::Kind(kind))?;
        let fresh = header.get_u8() & FRESH != 0;
        let origin = NodeId(header.get_u64());
        let number = header.get_u64();
        let sequence = header.get_u64();
        let len = usize::from(header.get_u16());
        if rest.len() < len {
            return Err(FrameError::Short);
        }
        let header = Self {
            kind,
            fresh,
            origin,
            number,
            sequence,
        };
        Ok((header, len))
    }
}

impl Frame {
    /// Returns the memory that it needs while it waits, in bytes.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.payload.len()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(HEADER + self.key.len() + self.payload.len());
        self.header.write(&self.key, &mut to);
        to.put_slice(&self.payload);
        to.freeze()
    }

    /// Decodes a frame.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, FrameError> {
        let (header, len) = Header::read(&bytes)?;
        bytes.advance(HEADER);
        let key = bytes.split_to(len);
        Ok(Self {
            header,
            key,
            payload: bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frame_is_the_same_after_its_bytes(
            kind in 0..Kind::ALL.len(), fresh: bool, origin: u64, number: u64, sequence: u64,
            key in proptest::collection::vec(any::<u8>(), 0..300),
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let header = Header {
                kind: Kind::ALL[kind],
                fresh,
                origin: NodeId(origin),
                number,
                sequence,
            };
            let frame = Frame {
                header,
                key: key.into(),
                payload: payload.into(),
            };
            let bytes = frame.encode();
            let decoded = Frame::decode(bytes.clone());
            prop_assert_eq!(decoded.as_ref(), Ok(&frame));
            for end in 0..(HEADER + frame.key.len()).min(bytes.len()) {
                prop_assert_eq!(Frame::decode(bytes.slice(..end)), Err(FrameError::Short));
            }
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            if let Ok(frame) = Frame::decode(bytes.clone().into()) {
                let mut canonical = bytes;
                canonical[2] &= FRESH;
                prop_assert_eq!(frame.encode(), canonical);
            }
        }
    }

    #[test]
    fn numbers_are_set_where_they_are_read() {
        let header = Header {
            kind: Kind::Message,
            fresh: false,
            origin: NodeId(7),
            number: 0,
            sequence: 0,
        };
        let mut frame = Frame {
            header,
            key: Bytes::from_static(b"key"),
            payload: Bytes::from_static(b"payload"),
        };
        let mut bytes = BytesMut::from(&frame.encode()[..]);
        Header::set_numbers(&mut bytes, 0x0102_0304, 0x0506_0708, true);
        let header = &mut frame.header;
        (header.number, header.sequence, header.fresh) = (0x0102_0304, 0x0506_0708, true);
        assert_eq!(Frame::decode(bytes.freeze()), Ok(frame));
    }

    #[test]
    fn kinds_have_the_number_of_their_place() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }
}
