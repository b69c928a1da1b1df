//! Times of checks whose timeout may change.

use std::time::Duration;

use tokio::time::Instant;

/// Time of the next check of a timeout that never expires. A change runs the check earlier.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Returns `since + time`, or a time in 30 years if that is beyond the range of the clock.
///
/// A check must stay scheduled even if its timeout never expires: it may get a shorter one.
pub(crate) fn check_time(since: Instant, time: Duration) -> Instant {
    since.checked_add(time).unwrap_or_else(|| since + NEVER)
}
