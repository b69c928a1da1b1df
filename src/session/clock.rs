//! The time, read at most once a turn of the loop and only by turns that ask.

use getty_core::driver::{Driver, Moment};
use tokio::time::Instant;

#[derive(Debug, Default)]
pub(crate) struct Clock {
    now: Option<Instant>,
    moment: Option<Moment>,
}

impl Clock {
    #[inline]
    pub(crate) fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// The same for the marks of activity.
    #[inline]
    pub(crate) fn moment<Out>(&mut self, driver: &Driver<Out>) -> Moment {
        if let Some(moment) = self.moment {
            return moment;
        }
        let now = self.now();
        *self.moment.insert(driver.moment(now))
    }
}
