//! Frame parser: received bytes become messages and control frames. It does no I/O.
//!
//! A header is parsed once it is complete. tungstenite parses it unless the frame is short. A
//! message in a single frame is the common case. It is copied once into the session's buffer
//! and unmasked there. A message in several pieces is gathered in a separate buffer, and each
//! piece is unmasked and checked. Memory grows with the bytes that have arrived, not with the
//! length in a header (design.md: Why are tungstenite's frames used and not its sockets?).

use std::{io::Cursor, ops::Range};

use bytes::{Buf, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::{
    mask,
    settings::{Limits, Role},
};
use crate::{
    buffer_pool,
    ws::{close::WsClose, deflate::PerMessage, error::WsError, message::Kind},
};

/// Maximum payload of a control frame in bytes.
pub(super) const MAX_CONTROL: usize = 125;
/// Minimum growth in bytes of the buffer for a partial message, up to the length of its frame.
const MIN_GROWTH: usize = 2 * 1024;

/// Parser of received frames. It gathers the frames of a fragmented message.
#[derive(Debug)]
pub(super) struct MessageAssembler {
    /// The frame whose payload is arriving.
    open: Option<OpenFrame>,
    /// Kind of the partial message, if there is one.
    message: Option<Kind>,
    /// The partial message, after its tag byte if the session receives one.
    partial: BytesMut,
    /// Number of bytes in `partial` that are known to be UTF-8.
    checked: usize,
    /// Number of bytes in `partial` that no event has reported.
    unreported: usize,
}

#[derive(Debug)]
struct OpenFrame {
    /// Number of payload bytes that have not arrived.
    remaining: u64,
    mask: Option<[u8; 4]>,
    is_final: bool,
}

/// Parsed input.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// No event until more bytes arrive.
    NeedsInput,
    /// This many bytes of an incomplete message have arrived.
    Progress(usize),
    /// A message was appended. This many of its bytes had not been reported before.
    Message(usize),
    /// This many bytes of an incomplete message were inflated. More may follow without further
    /// input.
    Inflating(usize),
    /// A compressed message was appended, as for [`Message`](Self::Message).
    Inflated(usize),
    /// A ping, which must be answered with the same payload.
    Ping(ControlPayload),
    /// A pong, whose frame had this many bytes.
    Pong(usize),
    /// A close frame.
    Close(WsClose),
}

/// Payload of a control frame.
#[derive(Debug, PartialEq)]
pub(super) struct ControlPayload {
    bytes: [u8; MAX_CONTROL],
    length: u8,
}

impl ControlPayload {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length.into()]
    }
}

impl MessageAssembler {
    pub(super) fn new() -> Self {
        Self {
            open: None,
            message: None,
            partial: BytesMut::new(),
            checked: 0,
            unreported: 0,
        }
    }

    /// Returns `true` if a message has begun and is incomplete.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.message.is_some()
    }

    /// Ignores the rest of a compressed message, so that it is not inflated.
    pub(super) fn discard_compressed(&mut self) {
        self.message = self.message.and(Some(Kind::Binary));
        self.partial.clear();
        self.checked = 0;
    }

    /// Returns the buffer for the rest of a large frame, and the length of that rest. It is read
    /// without passing through the input buffer. A compressed frame has no such buffer.
    pub(super) fn large_remainder(
        &mut self,
        deflate: &Option<PerMessage>,
    ) -> Option<(&mut BytesMut, usize)> {
        let remaining = self.open.as_ref()?.remaining;
        if deflate.as_ref().is_some_and(PerMessage::is_inflating) {
            return None;
        }
        let remaining = usize::try_from(remaining).unwrap_or(usize::MAX);
        if remaining < MIN_GROWTH {
            return None;
        }
        grow(&mut self.partial, remaining);
        Some((&mut self.partial, remaining))
    }

    /// Adds `bytes` of an event that was not reported to the next one.
    pub(super) const fn report_later(&mut self, bytes: usize) {
        self.unreported += bytes;
    }

    /// Records `bytes` that were read to [`large_remainder`](Self::large_remainder).
    pub(super) fn record_read(&mut self, bytes: usize) -> Result<(), WsError> {
        let from = self.partial.len() - bytes;
        self.receive(from)
    }

    /// Returns the next event in `input`. A message is appended to `out`, after a tag byte with its
    /// kind if `tags` is set.
    #[inline]
    pub(super) fn next(
        &mut self,
        role: Role,
        limits: Limits,
        tags: bool,
        deflate: &mut Option<PerMessage>,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Event, WsError> {
        if self.open.is_none()
            && self.message.is_none()
            && let Some((kind, mask, payload)) = parse_short_frame(role, limits, input)
        {
            return take_message(kind, mask, payload, tags, input, out);
        }
        loop {
            if self.open.is_some()
                && let Some(deflate) = deflate
                && deflate.is_inflating()
            {
                if let Some(event) = self.inflate(deflate, limits, tags, input, out)? {
                    return Ok(event);
                }
            } else if let Some(open) = &self.open {
                let part = input
                    .len()
                    .min(usize::try_from(open.remaining).unwrap_or(usize::MAX));
                if part > 0 {
                    let from = self.partial.len();
                    grow(&mut self.partial, part);
                    self.partial.extend_from_slice(&input[..part]);
                    input.advance(part);
                    self.receive(from)?;
                }
                if let Some(length) = self.complete_frame(out)? {
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
                    .map_err(|_| WsError::Protocol("unknown opcode"))?,
            };
            let Some((header, length)) = parsed else {
                return Ok(self.progress());
            };
            let size = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            check_header(&header, role, deflate.is_some())?;
            let data = match header.opcode {
                OpCode::Data(data) => data,
                OpCode::Control(control) => {
                    return Self::control(&header, control, length, size, input);
                }
            };
            let mut kind = match (data, self.message) {
                (Data::Continue, None) => {
                    return Err(WsError::Protocol("continuation without a message"));
                }
                (Data::Continue, Some(kind)) => kind,
                (_, Some(_)) => return Err(WsError::Protocol("new message within a message")),
                (Data::Text, None) => Kind::Text,
                (Data::Binary, None) => Kind::Binary,
                (Data::Reserved(_), None) => return Err(WsError::Protocol("unknown opcode")),
            };
            let mut is_compressed = false;
            if let Some(deflate) = deflate {
                if header.rsv1 && !deflate.begin() {
                    kind = Kind::Binary;
                }
                is_compressed = deflate.is_inflating();
            }
            let length = match deflate {
                Some(deflate) if is_compressed => deflate.check_length(length, limits)?,
                _ => self.check_length(length, limits, tags)?,
            };
            let is_whole =
                data != Data::Continue && header.is_final && input.len() - size >= length;
            if is_whole && is_compressed {
                buffer_pool::take_into(&mut self.partial);
            } else if is_whole {
                return take_message(kind, header.mask, size..size + length, tags, input, out);
            }
            if data != Data::Continue {
                self.message = Some(kind);
                if tags {
                    self.partial.extend_from_slice(&[kind.tag()]);
                }
                self.checked = self.partial.len();
            }
            input.advance(size);
            self.open = Some(OpenFrame {
                remaining: length as u64,
                mask: header.mask,
                is_final: header.is_final,
            });
        }
    }

    /// Returns the event for an incomplete frame or message.
    const fn progress(&mut self) -> Event {
        match std::mem::replace(&mut self.unreported, 0) {
            0 => Event::NeedsInput,
            bytes => Event::Progress(bytes),
        }
    }

    /// Returns the length of a frame's payload if it is within the limits.
    fn check_length(&self, length: u64, limits: Limits, tags: bool) -> Result<usize, WsError> {
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

    /// Unmasks and checks the part of the open frame that begins at `from` in `partial`.
    fn receive(&mut self, from: usize) -> Result<(), WsError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let part = self.partial.len() - from;
        open.remaining -= part as u64;
        self.unreported += part;
        if let Some(mask) = &mut open.mask {
            mask::apply(&mut self.partial[from..], *mask);
            mask.rotate_left(part % 4);
        }
        self.check_text()
    }

    /// Checks that the bytes that were added to a text message are UTF-8.
    fn check_text(&mut self) -> Result<(), WsError> {
        if self.message == Some(Kind::Text) {
            match std::str::from_utf8(&self.partial[self.checked..]) {
                Ok(_) => self.checked = self.partial.len(),
                // The part may end within a character.
                Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
                Err(_) => return Err(WsError::NotUtf8),
            }
        }
        Ok(())
    }

    /// Inflates what has arrived of the open frame. Returns `None` if the frame is complete and is
    /// not the last of its message.
    #[inline(never)]
    fn inflate(
        &mut self,
        deflate: &mut PerMessage,
        limits: Limits,
        tags: bool,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<Event>, WsError> {
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        let part = input
            .len()
            .min(usize::try_from(open.remaining).unwrap_or(usize::MAX));
        if let Some(mask) = &mut open.mask {
            let unmasked = deflate.unmasked();
            mask::apply(&mut input[unmasked..part], *mask);
            mask.rotate_left((part - unmasked) % 4);
        }
        let max = limits.message.saturating_add(tags.into());
        let room = max - self.partial.len();
        let inflated = deflate.inflate(&input[..part], &mut self.partial, room, limits)?;
        open.remaining -= inflated.taken as u64;
        let (is_complete, is_final) = (open.remaining == 0, open.is_final);
        if inflated.taken == input.len() {
            input.clear(); // Unlike `advance`, this keeps the whole buffer for reuse.
        } else {
            input.advance(inflated.taken);
        }
        self.unreported += inflated.appended;
        self.check_text()?;
        if inflated.has_more || !is_complete {
            let has_progress = inflated.taken > 0 || inflated.appended > 0;
            let reported = std::mem::replace(&mut self.unreported, 0);
            return Ok(Some(match has_progress || inflated.has_more {
                true => Event::Inflating(reported),
                false => Event::NeedsInput,
            }));
        }
        self.open = None;
        if !is_final {
            return Ok(None);
        }
        let room = max - self.partial.len();
        self.unreported += deflate.finish(&mut self.partial, room, limits)?;
        self.check_text()?;
        self.complete_message(out)
            .map(|length| Some(Event::Inflated(length)))
    }

    /// Ends the open frame if it is complete. After the last frame, the message is moved to `out`.
    fn complete_frame(&mut self, out: &mut BytesMut) -> Result<Option<usize>, WsError> {
        let Some(OpenFrame {
            remaining: 0,
            is_final,
            ..
        }) = self.open
        else {
            return Ok(None);
        };
        self.open = None;
        if !is_final {
            return Ok(None);
        }
        self.complete_message(out).map(Some)
    }

    /// Moves a complete message to `out`. Returns how many of its bytes were not reported before.
    fn complete_message(&mut self, out: &mut BytesMut) -> Result<usize, WsError> {
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
        buffer_pool::put(std::mem::take(&mut self.partial));
        Ok(std::mem::take(&mut self.unreported))
    }

    fn control(
        header: &FrameHeader,
        control: Control,
        length: u64,
        size: usize,
        input: &mut BytesMut,
    ) -> Result<Event, WsError> {
        if !header.is_final {
            return Err(WsError::Protocol("fragmented control frame"));
        }
        let Some(length) = u8::try_from(length)
            .ok()
            .filter(|&length| usize::from(length) <= MAX_CONTROL)
        else {
            return Err(WsError::Protocol("control frame of more than 125 bytes"));
        };
        let end = size + usize::from(length);
        if input.len() < end {
            return Ok(Event::NeedsInput);
        }
        let mut payload = ControlPayload {
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
            Control::Close => Ok(Event::Close(WsClose::parse(payload.as_slice())?)),
            Control::Reserved(_) => Err(WsError::Protocol("unknown opcode")),
        }
    }
}

/// Parses a complete and valid message of up to 125 bytes in one frame. It is by far the most
/// frequent input and is recognized by its first two bytes. Returns its kind, its mask, and the
/// range of its payload.
#[inline]
fn parse_short_frame(
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

/// Takes a message in one frame, whose payload is in `input` after its header.
#[inline]
fn take_message(
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
        input.clear(); // Unlike `advance`, this keeps the whole buffer for reuse.
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

/// Checks the bits of a header. If the extension was agreed, `rsv1` marks a compressed message
/// in its first frame.
fn check_header(header: &FrameHeader, role: Role, has_deflate: bool) -> Result<(), WsError> {
    if header.rsv1 || header.rsv2 || header.rsv3 {
        let is_first = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if !has_deflate || header.rsv2 || header.rsv3 {
            return Err(WsError::Protocol("extension bits without an extension"));
        }
        if !is_first {
            return Err(WsError::Protocol(
                "the bit for compression after the first frame of a message",
            ));
        }
    }
    match (role, header.mask) {
        (Role::Server, None) => Err(WsError::Protocol("client frame without a mask")),
        (Role::Client, Some(_)) => Err(WsError::Protocol("server frame with a mask")),
        _ => Ok(()),
    }
}

/// Makes room for `part` more bytes, and for few beyond them unless the message is already
/// large.
fn grow(partial: &mut BytesMut, part: usize) {
    if partial.capacity() - partial.len() < part.min(MIN_GROWTH) {
        partial.reserve(part.min(partial.len().max(MIN_GROWTH)));
    }
}

#[cfg(test)]
impl ControlPayload {
    pub(super) const fn empty() -> Self {
        Self {
            bytes: [0; MAX_CONTROL],
            length: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the messages in `pieces`, joined.
    fn messages(
        role: Role,
        tags: bool,
        limits: Limits,
        pieces: &[&[u8]],
    ) -> Result<Vec<u8>, String> {
        let (mut assembler, mut input) = (MessageAssembler::new(), BytesMut::new());
        let mut out = BytesMut::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                let event = assembler.next(role, limits, tags, &mut None, &mut input, &mut out);
                match event.map_err(|error| error.to_string())? {
                    Event::NeedsInput => break,
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
            // A client frame must have a mask, and a server frame must not. Otherwise it is not a
            // message.
            let wrong = frame(0x82, mask.xor(Some([1, 2, 3, 4])), b"hello");
            assert!(messages(role, false, limits, &[&wrong]).is_err());
        }
    }
}
