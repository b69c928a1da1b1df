//! Closes a session whose peer begins a frame and does not complete it in time.
//!
//! A peer that sends a frame a byte a minute is never silent, and holds a session and its memory for as long as it likes.
//! This is the guard against it: however slowly, a frame must be complete within a time.
//!
//! - *ready*: the inner service's.
//! - *call*: registers a look at the session's clock, calls the inner service; no I/O, no allocation a message, no timer
//!   of its own.
//! - *drop*: drops the inner future.
//! - *close*: when a frame has been incomplete for too long, the session closes gracefully, as
//!   [`CloseReason::ReadTimeout`].
//!
//! The time runs from when the session loop found a frame incomplete: mostly since its first bytes arrived; where they
//! came along with the end of a frame before it, since that was handled. While we do not read it does not run. Transports
//! that keep message boundaries have no incomplete frames.
//!
//! Scope: session. It may stand anywhere outside `SessionLayer`. A peer that sends nothing at all is
//! [`IdleTimeoutLayer`](crate::IdleTimeoutLayer)'s.
//!
//! ```
//! use std::time::Duration;
//!
//! use getty_core::Connection;
//! use getty_layers::ReadTimeoutLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(ReadTimeoutLayer::new(Duration::from_secs(10)))
//!     // here go the codec, the session loop and the handler
//!     .service_fn(|connection: Connection<&'static str>| async move {
//!         Ok::<_, BoxError>(connection.handle().incomplete_since())
//!     });
//! assert_eq!(stack.oneshot(Connection::new("any transport")).await?, None);
//! # Ok(())
//! # }
//! ```

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use getty_core::{CloseReason, Connection, ConnectionHandle};

/// Closes a session whose peer does not complete a frame in time; see the [module](self).
#[derive(Clone, Debug)]
pub struct ReadTimeoutLayer {
    timeout: Duration,
}

impl ReadTimeoutLayer {
    /// A frame must be complete within `timeout`. Zero closes on every frame that does not arrive in one piece, and
    /// looks for one every millisecond; a time too long to be told never closes.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl<S> Layer<S> for ReadTimeoutLayer {
    type Service = ReadTimeout<S>;

    fn layer(&self, inner: S) -> ReadTimeout<S> {
        ReadTimeout::new(inner, self.timeout)
    }
}

/// The service that [`ReadTimeoutLayer`] makes.
#[derive(Clone, Debug)]
pub struct ReadTimeout<S> {
    inner: S,
    timeout: Duration,
}

impl<S> ReadTimeout<S> {
    /// Wraps `inner`, as [`ReadTimeoutLayer::new`] does.
    pub const fn new(inner: S, timeout: Duration) -> Self {
        Self { inner, timeout }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, T> Service<Connection<T>> for ReadTimeout<S>
where
    S: Service<Connection<T>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        let timeout = self.timeout;
        if let Some(at) = Instant::now().checked_add(timeout) {
            connection
                .handle()
                .check_at(at, move |handle, now| look(handle, now, timeout));
        }
        self.inner.call(connection)
    }
}

fn look(handle: &ConnectionHandle, now: Instant, timeout: Duration) -> Option<Instant> {
    let (Some(incomplete), Some(reading)) = (handle.incomplete_since(), handle.reading_since())
    else {
        // a frame that has not begun yet is not late before a whole time from now
        return now.checked_add(timeout);
    };
    let late = incomplete.max(reading).checked_add(timeout)?;
    if late > now {
        return Some(late);
    }
    handle.close_with(CloseReason::ReadTimeout);
    None
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use super::*;
    use crate::testing::{assert_transparent, drive, framed};

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn around_a_service_it_is_transparent() {
        assert_transparent(&ReadTimeoutLayer::new(TEN), || Connection::new(()));
    }

    #[tokio::test(start_paused = true)]
    async fn it_closes_when_a_frame_is_incomplete_for_so_long_while_we_read() {
        let connection = framed();
        let opened = connection.handle().opened_at();
        connection
            .handle()
            .check_at(opened + TEN, |handle, now| look(handle, now, TEN));
        let (mut driver, _lease) = drive(connection);
        let at = |seconds| opened + Duration::from_secs(seconds);
        let reason = |driver: &getty_core::driver::Driver<String>| driver.session().reason();

        driver.reading(true, driver.moment(at(0)));
        driver.run_checks(at(10));
        assert_eq!(driver.next_check(), Some(at(20)), "there is no frame");

        driver.incomplete(Some(driver.moment(at(12))));
        driver.run_checks(at(20));
        assert_eq!(driver.next_check(), Some(at(22)));

        driver.reading(false, driver.moment(at(21)));
        driver.run_checks(at(22));
        assert_eq!(driver.next_check(), Some(at(32)), "we do not read");

        driver.reading(true, driver.moment(at(31)));
        driver.run_checks(at(32));
        assert_eq!((driver.next_check(), reason(&driver)), (Some(at(41)), None));

        driver.run_checks(at(41));
        assert_eq!(driver.next_check(), None);
        assert_eq!(reason(&driver), Some(CloseReason::ReadTimeout));
    }
}
