//! Messages that were decoded before they could be handled.

use std::collections::VecDeque;

use getty_core::sync::Lazy;

use crate::session::catch::drop_catching_panics;

/// Queue of decoded messages. The first waits until the service is ready. Others are behind it
/// only while a request of this session awaits a response (design.md: Why does the session loop
/// decode ahead while a request waits?).
///
/// Messages behind the first count toward the bound on undecoded bytes, by their length on the
/// wire.
#[derive(Debug)]
pub(crate) struct ReadAhead<In>(Lazy<Inner<In>>);

#[derive(Debug)]
struct Inner<In> {
    first: Option<In>,
    /// Messages with their lengths. Empty unless there is a `first`.
    others: VecDeque<(In, usize)>,
    /// Sum of the lengths in `others`.
    bytes: usize,
}

impl<In> Default for Inner<In> {
    fn default() -> Self {
        Self {
            first: None,
            others: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<In> ReadAhead<In> {
    /// Creates an empty queue.
    pub(crate) const fn new() -> Self {
        Self(Lazy::new())
    }

    /// Returns `true` if no message waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.get().is_none_or(|inner| inner.first.is_none())
    }

    /// Returns the number of messages that wait.
    #[cold]
    pub(crate) fn len(&self) -> usize {
        self.0.get().map_or(0, |inner| {
            usize::from(inner.first.is_some()) + inner.others.len()
        })
    }

    /// Returns how many bytes count as undecoded.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.0.get().map_or(0, |inner| inner.bytes)
    }

    /// Appends a message that had `bytes` bytes on the wire.
    pub(crate) fn push_back(&mut self, message: In, bytes: usize) {
        let inner = self.0.get_or_default();
        if inner.first.is_none() {
            inner.first = Some(message);
        } else {
            inner.others.push_back((message, bytes));
            inner.bytes += bytes;
        }
    }

    /// Puts back the message that was taken last, because the service is not ready.
    pub(crate) fn push_front(&mut self, message: In) {
        let inner = self.0.get_or_default();
        if let Some(second) = inner.first.replace(message) {
            // The bytes of this message stopped counting when it became the first.
            inner.others.push_front((second, 0));
        }
    }

    /// Takes the first message. The bytes of the next one no longer count.
    pub(crate) fn pop_front(&mut self) -> Option<In> {
        let inner = self.0.get_mut()?;
        let (second, bytes) = inner.others.pop_front().unzip();
        inner.bytes -= bytes.unwrap_or(0);
        std::mem::replace(&mut inner.first, second)
    }

    /// Takes all messages.
    pub(crate) const fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Drops the messages one at a time. A panic in a destructor is logged.
    pub(crate) fn discard(mut self) {
        while let Some(message) = self.pop_front() {
            drop_catching_panics(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_order_and_only_those_behind_the_first_count_their_bytes() {
        let mut ahead = ReadAhead::new();
        assert!(ahead.is_empty() && ahead.pop_front().is_none());
        for (message, bytes) in [('b', 2), ('c', 3), ('d', 4)] {
            ahead.push_back(message, bytes);
        }
        ahead.push_front('a');
        // 'b' was the first before, so its bytes no longer count.
        assert_eq!((ahead.len(), ahead.bytes()), (4, 7));
        assert_eq!((ahead.pop_front(), ahead.bytes()), (Some('a'), 7));
        assert_eq!((ahead.pop_front(), ahead.bytes()), (Some('b'), 4));
        ahead.push_front('b');
        assert_eq!((ahead.pop_front(), ahead.bytes()), (Some('b'), 4));
        assert_eq!((ahead.pop_front(), ahead.bytes()), (Some('c'), 0));
        assert!(!ahead.is_empty());
        assert_eq!((ahead.pop_front(), ahead.bytes()), (Some('d'), 0));
        assert!(ahead.is_empty() && ahead.pop_front().is_none());
    }
}
