//! Bytes of one input.

/// Reads the settings of a run from the front of an input. Behind its end all values are 0.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    /// Returns a limit: small ones are more likely, because more happens at them.
    pub(crate) fn limit(&mut self) -> usize {
        match self.byte() {
            small @ 0..=199 => usize::from(small),
            large => (usize::from(large) - 199) * 300,
        }
    }

    /// Returns up to `n` bytes.
    pub(crate) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Returns the next part: a length in one byte, then the bytes.
    pub(crate) fn part(&mut self) -> &'a [u8] {
        let n = self.byte();
        self.take(n.into())
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
