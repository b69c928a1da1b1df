//! The time, read at most once a turn of the loop and only by turns that ask.

use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Clock(Option<Instant>);

impl Clock {
    #[inline]
    pub(crate) fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }
}
