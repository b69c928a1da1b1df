//! Messages that were decoded before their turn.

use std::collections::VecDeque;

use super::future::quietly;

/// They wait for the service to be ready, the first of them; and those behind it, each with the bytes that it took,
/// because an answer of the peer's is waited for. Takes one word until the first has to wait.
#[derive(Debug)]
pub(crate) struct Waiting<In>(Option<Box<Inner<In>>>);

#[derive(Debug)]
struct Inner<In> {
    first: Option<In>,
    /// Empty unless there is a `first`.
    others: VecDeque<(In, usize)>,
}

impl<In> Waiting<In> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.first.is_none())
    }

    /// Returns how many messages wait.
    #[cold]
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| {
            usize::from(inner.first.is_some()) + inner.others.len()
        })
    }

    /// Another one, that took so many bytes: they are only kept where it is not the first.
    pub(crate) fn push_back(&mut self, message: In, bytes: usize) {
        let inner = self.inner();
        if inner.first.is_none() {
            inner.first = Some(message);
        } else {
            inner.others.push_back((message, bytes));
        }
    }

    /// One whose turn it was, but for the service.
    pub(crate) fn push_front(&mut self, message: In) {
        let inner = self.inner();
        if let Some(second) = inner.first.replace(message) {
            inner.others.push_front((second, 0));
        }
    }

    /// The first of them, and how many bytes the one took that is the first now.
    pub(crate) fn pop_front(&mut self) -> Option<(In, usize)> {
        let inner = self.0.as_mut()?;
        let (second, bytes) = inner.others.pop_front().unzip();
        let first = std::mem::replace(&mut inner.first, second);
        Some((first?, bytes.unwrap_or(0)))
    }

    /// All of them.
    pub(crate) const fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Drops the messages one after another.
    pub(crate) fn discard(mut self) {
        while let Some((message, _)) = self.pop_front() {
            quietly(|| drop(message));
        }
    }

    fn inner(&mut self) -> &mut Inner<In> {
        self.0.get_or_insert_with(|| {
            Box::new(Inner {
                first: None,
                others: VecDeque::new(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_keep_their_order_and_only_those_behind_the_first_count_their_bytes() {
        let mut waiting = Waiting::new();
        assert!(waiting.is_empty() && waiting.pop_front().is_none());
        for (message, bytes) in [('b', 2), ('c', 3), ('d', 4)] {
            waiting.push_back(message, bytes);
        }
        waiting.push_front('a');
        // it was the first once, and its bytes counted then
        assert_eq!(waiting.pop_front(), Some(('a', 0)));
        assert_eq!(waiting.pop_front(), Some(('b', 3)));
        waiting.push_front('b');
        assert_eq!(waiting.pop_front(), Some(('b', 0)));
        assert_eq!(waiting.pop_front(), Some(('c', 4)));
        assert!(!waiting.is_empty());
        assert_eq!(waiting.pop_front(), Some(('d', 0)));
        assert!(waiting.is_empty() && waiting.pop_front().is_none());
    }
}
