//! From bytes to messages: frames that arrive, taken apart and put together. No I/O.
//!
//! A frame's header is parsed once all of it is there, by tungstenite unless its frame is short. A whole message in one
//! frame, which is the common case, is copied once, into the session's buffer, and unmasked there. What comes in pieces
//! is gathered aside, unmasked and checked piece by piece: memory grows with what has arrived, never with what a header
//! promises.

use std::{io::Cursor, ops::Range};

use bytes::{Buf, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::{Limits, Role, WsClose, WsError, mask, message::Kind};

/// The longest payload of a control frame.
pub(super) const MAX_CONTROL: usize = 125;
/// What is gathered aside grows by no less than this, as far as its frame goes.
const LEAST_GROWTH: usize = 2 * 1024;

#[derive(Debug)]
pub(super) struct Incoming {
    /// The frame whose payload is arriving.
    open: Option<Open>,
    /// The kind of the message of which a part has arrived.
    message: Option<Kind>,
    /// That part; what the session is told of the kind goes before it.
    partial: BytesMut,
    /// Up to where `partial` is known to be UTF-8.
    checked: usize,
    /// Bytes in `partial` that the session was not told of.
    unreported: usize,
}

#[derive(Debug)]
struct Open {
    left: u64,
    mask: Option<[u8; 4]>,
    is_final: bool,
}

/// What has arrived.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// Nothing until more arrives.
    Nothing,
    /// So many bytes of a message that is not complete.
    Progress(usize),
    /// A message was appended, of which so many bytes were not told of before.
    Message(usize),
    /// A ping, to be answered with what it carries.
    Ping(Payload),
    /// A pong, whose frame took so many bytes.
    Pong(usize),
    Close(WsClose),
}

/// What a control frame carries.
#[derive(Debug, PartialEq)]
pub(super) struct Payload {
    bytes: [u8; MAX_CONTROL],
    length: u8,
}

impl Payload {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length.into()]
    }
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            open: None,
            message: None,
            partial: BytesMut::new(),
            checked: 0,
            unreported: 0,
        }
    }

    /// Whether a message has begun and is not complete.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.message.is_some()
    }

    /// Where the rest of a large frame is to be read to, without passing through a buffer, and how much of it.
    pub(super) fn rest(&mut self) -> Option<(&mut BytesMut, usize)> {
        let left = self.open.as_ref()?.left;
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if left < LEAST_GROWTH {
            return None;
        }
        grow(&mut self.partial, left);
        Some((&mut self.partial, left))
    }

    /// So many bytes were read to [`rest`](Self::rest).
    pub(super) fn has_read(&mut self, bytes: usize) -> Result<(), WsError> {
        let from = self.partial.len() - bytes;
        self.arrived(from)
    }

    /// The next event in `input`. A message is appended to `out`, behind its kind where `tags` says so.
    #[inline]
    pub(super) fn next(
        &mut self,
        role: Role,
        limits: Limits,
        tags: bool,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Event, WsError> {
        if self.open.is_none()
            && self.message.is_none()
            && let Some((kind, mask, payload)) = short(role, limits, input)
        {
            return whole(kind, mask, payload, tags, input, out);
        }
        loop {
            if let Some(open) = &self.open {
                let part = input
                    .len()
                    .min(usize::try_from(open.left).unwrap_or(usize::MAX));
                if part > 0 {
                    let from = self.partial.len();
                    grow(&mut self.partial, part);
                    self.partial.extend_from_slice(&input[..part]);
                    input.advance(part);
                    self.arrived(from)?;
                }
                if let Some(length) = self.completed(out)? {
                    return Ok(Event::Message(length));
                }
                if self.open.is_some() {
                    return Ok(self.progress());
                }
            }
            let mut cursor = Cursor::new(&input[..]);
            let parsed = match input.is_empty() {
                true => None,
                false => FrameHeader::parse(&mut cursor)
                    .map_err(|_| WsError::Protocol("an unknown opcode"))?,
            };
            let Some((header, length)) = parsed else {
                return Ok(self.progress());
            };
            let size = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            check(&header, role)?;
            let data = match header.opcode {
                OpCode::Data(data) => data,
                OpCode::Control(control) => {
                    return Self::control(&header, control, length, size, input);
                }
            };
            let kind = match (data, self.message) {
                (Data::Continue, None) => {
                    return Err(WsError::Protocol("a continuation of no message"));
                }
                (Data::Continue, Some(kind)) => kind,
                (_, Some(_)) => return Err(WsError::Protocol("a message within another")),
                (Data::Text, None) => Kind::Text,
                (Data::Binary, None) => Kind::Binary,
                (Data::Reserved(_), None) => return Err(WsError::Protocol("an unknown opcode")),
            };
            let length = self.allowed(length, limits, tags)?;
            if data != Data::Continue && header.is_final && input.len() - size >= length {
                return whole(kind, header.mask, size..size + length, tags, input, out);
            }
            if data != Data::Continue {
                self.message = Some(kind);
                if tags {
                    self.partial.extend_from_slice(&[kind.tag()]);
                }
                self.checked = self.partial.len();
            }
            input.advance(size);
            self.open = Some(Open {
                left: length as u64,
                mask: header.mask,
                is_final: header.is_final,
            });
        }
    }

    /// What there is to say while nothing is complete.
    const fn progress(&mut self) -> Event {
        match std::mem::replace(&mut self.unreported, 0) {
            0 => Event::Nothing,
            bytes => Event::Progress(bytes),
        }
    }

    /// The length of a frame's payload, if it is within the bounds.
    fn allowed(&self, length: u64, limits: Limits, tags: bool) -> Result<usize, WsError> {
        let before = self.partial.len().saturating_sub(tags.into());
        match usize::try_from(length) {
            Ok(length) if length > limits.frame => Err(WsError::TooLong {
                limit: limits.frame,
            }),
            Ok(length) if length <= limits.message.saturating_sub(before) => Ok(length),
            _ => Err(WsError::TooLong {
                limit: limits.message,
            }),
        }
    }

    /// Unmasks and checks what has arrived of the open frame.
    fn arrived(&mut self, from: usize) -> Result<(), WsError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let part = self.partial.len() - from;
        open.left -= part as u64;
        self.unreported += part;
        if let Some(mask) = &mut open.mask {
            mask::apply(&mut self.partial[from..], *mask);
            mask.rotate_left(part % 4);
        }
        if self.message == Some(Kind::Text) {
            match std::str::from_utf8(&self.partial[self.checked..]) {
                Ok(_) => self.checked = self.partial.len(),
                // the end may be the beginning of a character
                Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
                Err(_) => return Err(WsError::NotUtf8),
            }
        }
        Ok(())
    }

    /// Ends the open frame, if all of it is there; and with its last frame the message, which goes to `out`.
    fn completed(&mut self, out: &mut BytesMut) -> Result<Option<usize>, WsError> {
        let Some(Open {
            left: 0, is_final, ..
        }) = self.open
        else {
            return Ok(None);
        };
        self.open = None;
        if !is_final {
            return Ok(None);
        }
        if self.message == Some(Kind::Text) && self.checked < self.partial.len() {
            return Err(WsError::NotUtf8);
        }
        self.message = None;
        self.checked = 0;
        if out.is_empty() {
            std::mem::swap(out, &mut self.partial);
        } else {
            out.extend_from_slice(&self.partial);
        }
        crate::session::buffers::give(std::mem::take(&mut self.partial));
        Ok(Some(std::mem::take(&mut self.unreported)))
    }

    fn control(
        header: &FrameHeader,
        control: Control,
        length: u64,
        size: usize,
        input: &mut BytesMut,
    ) -> Result<Event, WsError> {
        if !header.is_final {
            return Err(WsError::Protocol("a control frame in fragments"));
        }
        let Some(length) = u8::try_from(length)
            .ok()
            .filter(|&length| usize::from(length) <= MAX_CONTROL)
        else {
            return Err(WsError::Protocol("a control frame of more than 125 bytes"));
        };
        let end = size + usize::from(length);
        if input.len() < end {
            return Ok(Event::Nothing);
        }
        let mut payload = Payload {
            bytes: [0; MAX_CONTROL],
            length,
        };
        let bytes = &mut payload.bytes[..length.into()];
        bytes.copy_from_slice(&input[size..end]);
        if let Some(mask) = header.mask {
            mask::apply(bytes, mask);
        }
        input.advance(end);
        match control {
            Control::Ping => Ok(Event::Ping(payload)),
            Control::Pong => Ok(Event::Pong(end)),
            Control::Close => WsClose::parse(payload.as_slice()).map(Event::Close),
            Control::Reserved(_) => Err(WsError::Protocol("an unknown opcode")),
        }
    }
}

/// A message of up to 125 bytes in one frame, all of it there and nothing wrong with it: the commonest by far, and told
/// from its first two bytes. Its kind, its mask, and where its payload lies.
#[inline]
fn short(
    role: Role,
    limits: Limits,
    input: &[u8],
) -> Option<(Kind, Option<[u8; 4]>, Range<usize>)> {
    let [first, second, rest @ ..] = input else {
        return None;
    };
    let kind = match first {
        0x81 => Kind::Text,
        0x82 => Kind::Binary,
        _ => return None,
    };
    let (mask, start, marked) = match (role, rest) {
        (Role::Server, &[a, b, c, d, ..]) => (Some([a, b, c, d]), 6, 0x80),
        (Role::Server, _) => return None,
        (Role::Client, _) => (None, 2, 0),
    };
    let length = usize::from(second ^ marked);
    let fits = length <= MAX_CONTROL.min(limits.frame).min(limits.message);
    (fits && input.len() - start >= length).then(|| (kind, mask, start..start + length))
}

/// A whole message in one frame, whose payload lies in `input` behind its header.
#[inline]
fn whole(
    kind: Kind,
    mask: Option<[u8; 4]>,
    payload: Range<usize>,
    tags: bool,
    input: &mut BytesMut,
    out: &mut BytesMut,
) -> Result<Event, WsError> {
    let before = out.len();
    if tags {
        out.extend_from_slice(&[kind.tag()]);
    }
    let from = out.len();
    let (length, end) = (payload.len(), payload.end);
    out.extend_from_slice(&input[payload]);
    if end == input.len() {
        input.clear(); // unlike an advance, this leaves the whole block to be used again
    } else {
        input.advance(end);
    }
    if let Some(mask) = mask {
        mask::apply(&mut out[from..], mask);
    }
    if kind == Kind::Text && std::str::from_utf8(&out[from..]).is_err() {
        out.truncate(before);
        return Err(WsError::NotUtf8);
    }
    Ok(Event::Message(length))
}

fn check(header: &FrameHeader, role: Role) -> Result<(), WsError> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(WsError::Protocol(
            "bits of an extension that was not agreed",
        ));
    }
    match (role, header.mask) {
        (Role::Server, None) => Err(WsError::Protocol("a client's frame without a mask")),
        (Role::Client, Some(_)) => Err(WsError::Protocol("a server's frame with a mask")),
        _ => Ok(()),
    }
}

/// Room for `part` more: what is asked for, and not much more unless the whole is large.
fn grow(partial: &mut BytesMut, part: usize) {
    if partial.capacity() - partial.len() < part.min(LEAST_GROWTH) {
        partial.reserve(part.min(partial.len().max(LEAST_GROWTH)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `pieces` become, as far as it is messages.
    fn messages(
        role: Role,
        tags: bool,
        limits: Limits,
        pieces: &[&[u8]],
    ) -> Result<Vec<u8>, String> {
        let (mut incoming, mut input) = (Incoming::new(), BytesMut::new());
        let mut out = BytesMut::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                let event = incoming.next(role, limits, tags, &mut input, &mut out);
                match event.map_err(|error| error.to_string())? {
                    Event::Nothing => break,
                    Event::Message(_) | Event::Progress(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        Ok(out.to_vec())
    }

    fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let header = FrameHeader {
            mask,
            ..FrameHeader::default()
        };
        header.format(payload.len() as u64, &mut frame).unwrap();
        frame[0] = first;
        let start = frame.len();
        frame.extend_from_slice(payload);
        if let Some(mask) = mask {
            mask::apply(&mut frame[start..], mask);
        }
        frame
    }

    #[test]
    fn frame_is_the_same_message_in_one_piece_and_in_two() {
        let limits = Limits {
            message: 120,
            frame: 110,
        };
        let text = "é".repeat(64);
        let mask = Some([0xfe, 3, 0x80, 7]);
        for (role, mask) in [(Role::Server, mask), (Role::Client, None)] {
            for (first, length, tags) in [0x81, 0x82, 0x01, 0xc2, 0x83]
                .into_iter()
                .flat_map(|first| (0..=128).map(move |length| (first, length)))
                .flat_map(|(first, length)| [(first, length, false), (first, length, true)])
            {
                let frame = frame(first, mask, &text.as_bytes()[..length]);
                let together = messages(role, tags, limits, &[&frame, &frame]);
                for cut in 1..frame.len() {
                    let (one, other) = frame.split_at(cut);
                    let apart = messages(role, tags, limits, &[one, other, one, other]);
                    assert_eq!(together, apart, "{first:x}, {length} bytes, cut at {cut}");
                }
                let said = together.map_or(0, |bytes| bytes.len());
                if first == 0x82 && length <= 110 {
                    assert_eq!(said, 2 * (length + usize::from(tags)));
                }
            }
            // without a mask from a client, or with one from a server, nothing is a message
            let wrong = frame(0x82, mask.xor(Some([1, 2, 3, 4])), b"hello");
            assert!(messages(role, false, limits, &[&wrong]).is_err());
        }
    }
}
