//! Closes sessions whose peer starts a frame and does not complete it in time.
//!
//! A peer that sends one byte of a frame per minute is never idle. Without this layer it can
//! hold a session and its memory without limit.
//!
//! - *ready*: as the inner service.
//! - *call*: registers a deadline with the session and calls the inner service. It creates no
//!   timer and costs nothing per message.
//! - *drop*: drops the inner future.
//! - *close*: when a frame has been incomplete for the timeout, the session closes gracefully
//!   as [`CloseReason::ReadTimeout`].
//!
//! The timeout starts when the session loop finds a frame incomplete. Usually this is when its
//! first bytes arrive. If they arrived together with the end of the previous frame, it is when
//! that frame was handled. The timeout does not run while the session does not read. Transports
//! that keep message boundaries have no incomplete frames.
//!
//! Scope: session. It may be placed anywhere outside `SessionLayer`. For peers that send
//! nothing at all, use [`IdleTimeoutLayer`](crate::IdleTimeoutLayer).
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_core::{Connection, hooks::HandleExt};
//! use getty_layers::ReadTimeoutLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(ReadTimeoutLayer::new(Duration::from_secs(10)))
//!     // in place of the codec, `SessionLayer` and the handler
//!     .service_fn(|connection: Connection<&'static str>| async move {
//!         Ok::<_, BoxError>(connection.handle().incomplete_since())
//!     });
//! assert_eq!(stack.oneshot(Connection::new("any transport")).await?, None);
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use getty_core::{
    CloseReason, Connection, ConnectionHandle,
    hooks::{HandleExt, Setting},
};
use tokio::time::Instant;
use tower_layer::Layer;

use crate::{
    configure::{Configure, Configured},
    util::check_time,
};

/// Closes sessions whose peer does not complete a frame in time; see the [module](self).
#[doc(alias = "slowloris")]
#[derive(Clone, Debug)]
pub struct ReadTimeoutLayer {
    timeout: Duration,
}

impl ReadTimeoutLayer {
    /// Creates a new layer that requires each frame to be complete within `timeout`.
    ///
    /// Zero closes a session on every frame that does not arrive in one piece and checks every
    /// millisecond. A timeout beyond the range of the clock never closes one.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// Sets the timeout of one session while it is open. The default is the layer's.
    ///
    /// Returns `true` if the session has this layer. Without the layer, and once the session is
    /// closing, nothing changes and this function returns `false`. If the layer is stacked, all of
    /// them get the timeout.
    ///
    /// It may be called at any time and from any thread. The timeout takes effect in the next poll
    /// of the session loop, which is woken. A frame that has been incomplete for longer closes the
    /// session in that poll. Zero and large timeouts are those of [`new`](Self::new).
    pub fn set(session: &ConnectionHandle, timeout: Duration) -> bool {
        session.set_setting(Setting::ReadTimeout, timeout)
    }
}

impl<S> Layer<S> for ReadTimeoutLayer {
    type Service = ReadTimeout<S>;

    fn layer(&self, inner: S) -> ReadTimeout<S> {
        Configured::new(inner, self.clone())
    }
}

/// Service of [`ReadTimeoutLayer`].
pub type ReadTimeout<S> = Configured<S, ReadTimeoutLayer>;

impl<T> Configure<T> for ReadTimeoutLayer {
    fn configure(&self, connection: &Connection<T>) {
        let timeout = self.timeout;
        let (handle, first) = (connection.handle(), check_time(Instant::now(), timeout));
        handle.add_setting(Setting::ReadTimeout);
        handle.schedule_check(first, move |handle, now| check(handle, now, timeout));
    }
}

/// Closes the session if a frame is late. Returns the time of the next check.
fn check(handle: &ConnectionHandle, now: Instant, timeout: Duration) -> Option<Instant> {
    let timeout = handle.setting(Setting::ReadTimeout).unwrap_or(timeout);
    let (Some(incomplete), Some(reading)) = (handle.incomplete_since(), handle.reading_since())
    else {
        // A frame that starts later cannot be late before a full timeout from now.
        return Some(check_time(now, timeout));
    };
    // A received byte does not restart the timeout, or one byte per minute would be enough
    // (design.md: Why does a received byte not restart the read timeout?).
    let late = check_time(incomplete.max(reading), timeout);
    if late > now {
        return Some(late);
    }
    handle.close_with(CloseReason::ReadTimeout);
    None
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_test::assert_layer_contract;

    use super::*;
    use crate::testing::{drive, framed};

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&ReadTimeoutLayer::new(TEN), || Connection::new(())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn frame_incomplete_for_the_timeout_while_reading_closes_the_session() {
        let connection = framed();
        let opened = connection.handle().opened_at();
        connection
            .handle()
            .schedule(opened + TEN, |handle, now| check(handle, now, TEN));
        let (mut driver, _guard) = drive(connection);
        let at = |seconds| opened + Duration::from_secs(seconds);
        let reason = |driver: &getty_core::driver::Driver<String>| driver.session().reason();

        driver.set_reading(true, driver.timestamp(at(0)));
        driver.run_deadlines(at(10));
        assert_eq!(driver.next_deadline(), Some(at(20)), "no frame has started");

        driver.set_incomplete(Some(driver.timestamp(at(12))));
        driver.run_deadlines(at(20));
        assert_eq!(driver.next_deadline(), Some(at(22)));

        driver.set_reading(false, driver.timestamp(at(21)));
        driver.run_deadlines(at(22));
        assert_eq!(
            driver.next_deadline(),
            Some(at(32)),
            "the session does not read"
        );

        driver.set_reading(true, driver.timestamp(at(31)));
        driver.run_deadlines(at(32));
        assert_eq!(
            (driver.next_deadline(), reason(&driver)),
            (Some(at(41)), None)
        );

        driver.run_deadlines(at(41));
        assert_eq!(driver.next_deadline(), None);
        assert_eq!(reason(&driver), Some(CloseReason::ReadTimeout));
    }
}
