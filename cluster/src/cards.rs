//! Cards of members, in frames of bounded length.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Writes cards into frames of at most `max` bytes each, one at least. A longer card has a longer
/// frame to itself. `head` writes what precedes the cards of the frame with this number. A byte
/// behind it is 1 in the last frame.
pub(crate) fn write_cards(
    cards: impl IntoIterator<Item: AsRef<str>>,
    max: usize,
    head: impl Fn(&mut BytesMut, u16),
) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let mut frame = BytesMut::new();
    let mut number = 0_u16;
    let begin = |frame: &mut BytesMut, number: u16| {
        head(frame, number);
        frame.put_u8(0);
    };
    begin(&mut frame, number);
    let start = frame.len();
    for card in cards {
        let card = card.as_ref();
        let Ok(len) = u32::try_from(card.len()) else {
            continue;
        };
        if frame.len() > start && frame.len() + size(card) > max {
            frames.push(frame.split().freeze());
            number = number.saturating_add(1);
            begin(&mut frame, number);
        }
        frame.put_u32(len);
        frame.put_slice(card.as_bytes());
    }
    frame[start - 1] = 1;
    frames.push(frame.freeze());
    frames
}

/// Returns the number of bytes of a card in a frame.
pub(crate) fn size(card: &str) -> usize {
    4 + card.len()
}

/// Reads what follows the head of a frame: `true` if it is the last one, and its cards.
pub(crate) fn read_cards(mut bytes: Bytes) -> Option<(bool, Vec<String>)> {
    let is_last = bytes.try_get_u8().ok()? != 0;
    let mut cards = Vec::new();
    while bytes.has_remaining() {
        let len = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        if len > bytes.len() {
            return None;
        }
        cards.push(String::from_utf8(bytes.split_to(len).to_vec()).ok()?);
    }
    Some((is_last, cards))
}
