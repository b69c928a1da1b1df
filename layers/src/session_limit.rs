//! Limits the number of sessions, and sends a last message to refused peers.
//!
//! - *ready*: as the inner service. A refused connection is passed to the inner service too.
//! - *call*: counts the session and calls the inner service. Beyond the limit it first queues
//!   the message and closes the session as [`Refused`](getty_core::CloseReason::Refused), with
//!   [`TooManySessions`] as the source. The session loop then flushes the message and closes
//!   the transport without a reset. It reads nothing, and the handler is not called.
//! - *drop*: drops the inner future.
//! - *close*: releases the permit of the session in a close callback. So a session counts from
//!   the call until its transport is dropped.
//!
//! Scope: process, or everything that shares the layer: all clones of the layer and of its
//! services share the count, so all listeners of a stack do. Place it inside
//! [`CodecLayer`](crate::CodecLayer), which creates the session that encodes the message. It
//! works over each transport. Over TLS and WebSocket a refused peer must complete the handshake
//! first.
//!
//! A refused session ends when its peer has received the message and closed, and at the latest
//! after a deadline ([`SessionLimitLayer::with_deadline`], 1 s by default). It is not counted.
//! To bound admitted and refused connections together, place tower's `concurrency_limit` with
//! a higher number outside this layer.
//!
//! ```
//! use getty_core::{CloseReason, Connection, HasSession, SessionIo};
//! use getty_layers::{CodecLayer, SessionLimitLayer};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let limit = SessionLimitLayer::new(1, |_session| "-ERR max number of clients".to_owned());
//! let mut stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(limit.clone())
//!     // in place of `SessionLayer`
//!     .service_fn(|connection: Connection<SessionIo<(), LinesCodec, String>>| async {
//!         Ok::<_, BoxError>(connection)
//!     });
//! let first = stack.ready().await?.call(Connection::new(())).await?;
//! let second = stack.ready().await?.call(Connection::new(())).await?;
//! assert_eq!(second.handle().reason(), Some(CloseReason::Refused));
//! assert_eq!(second.transport().session().queued(), 1);
//!
//! drop(first);
//! assert_eq!(limit.sessions(), 0);
//! # Ok(())
//! # }
//! ```

use std::{
    any::type_name,
    error::Error,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use getty_core::{
    Close, CloseReason, Connection, HasSession, Session, hooks::Contained, internal::catch_and_log,
};
use tower_layer::Layer;

use crate::configure::{Configure, Configured};

/// Default time for the last message to a refused peer.
const DEADLINE: Duration = Duration::from_secs(1);

/// Limits the number of sessions and sends a last message to refused peers; see the
/// [module](self).
#[doc(alias = "maxclients")]
pub struct SessionLimitLayer<Out, F> {
    count: Arc<AtomicUsize>,
    max: usize,
    deadline: Duration,
    message: Contained<F>,
    out: PhantomData<fn(Out)>,
}

impl<Out, F> SessionLimitLayer<Out, F> {
    /// Creates a new layer that allows at most `max` sessions at a time. `message` is called with
    /// the session of each refused peer for its last message. It must not block.
    pub fn new(max: usize, message: F) -> Self
    where
        F: Fn(&Session<Out>) -> Out + Clone,
    {
        Self {
            count: Arc::default(),
            max,
            deadline: DEADLINE,
            message: Contained::new(message),
            out: PhantomData,
        }
    }

    /// Sets the time that a refused peer may take to receive its message and close. The default
    /// is 1 s.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Returns the current number of sessions. Refused sessions are not counted.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.count.load(Relaxed)
    }
}

impl<Out, F, T> Configure<T> for SessionLimitLayer<Out, F>
where
    T: HasSession<Out = Out>,
    F: Fn(&Session<Out>) -> Out,
{
    fn configure(&self, connection: &Connection<T>) {
        if let Some(permit) = Permit::acquire(&self.count, self.max) {
            // The callback owns the permit, so it is released even if the callback is removed.
            let key = Key(Arc::clone(&self.count));
            let release = move |_: &_| drop(permit);
            connection.handle().add_close_callback(key, (), release);
            return;
        }
        let session = connection.transport().session();
        catch_and_log("sending the last message of a refused peer", || {
            // It fails only if another layer has closed the session or filled its queue.
            let _ = session.try_send((self.message)(session));
        });
        let close = Close::new(CloseReason::Refused)
            .with_source(TooManySessions { limit: self.max })
            .with_deadline(self.deadline);
        session.close_with(close);
    }
}

impl<Out, F: Clone> Clone for SessionLimitLayer<Out, F> {
    fn clone(&self) -> Self {
        Self {
            count: Arc::clone(&self.count),
            message: self.message.clone(),
            ..*self
        }
    }
}

impl<Out, F> fmt::Debug for SessionLimitLayer<Out, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLimitLayer")
            .field("sessions", &self.sessions())
            .field("max", &self.max)
            .field("deadline", &self.deadline)
            .field("message", &type_name::<F>())
            .finish()
    }
}

impl<S, Out, F: Clone> Layer<S> for SessionLimitLayer<Out, F> {
    type Service = SessionLimit<S, Out, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Configured::new(inner, self.clone())
    }
}

/// Service of [`SessionLimitLayer`].
pub type SessionLimit<S, Out, F> = Configured<S, SessionLimitLayer<Out, F>>;

/// Key of the close callback: the identity of a limit.
struct Key(Arc<AtomicUsize>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// Permit for one session, released by its drop.
struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn acquire(count: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let more = |count| (count < max).then_some(count + 1);
        // Only the number is shared, so no other memory is ordered.
        let acquired = count.fetch_update(Relaxed, Relaxed, more).is_ok();
        acquired.then(|| Self(Arc::clone(count)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Source of the close of a refused session: the limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySessions {
    limit: usize,
}

impl TooManySessions {
    /// Returns the maximum number of sessions.
    #[must_use]
    pub const fn limit(self) -> usize {
        self.limit
    }
}

impl fmt::Display for TooManySessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limit of {} sessions is reached", self.limit)
    }
}

impl Error for TooManySessions {}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use getty_core::{SessionIo, driver};
    use getty_test::assert_layer_contract;

    use super::*;

    type Framing = SessionIo<(), (), &'static str>;

    fn connection() -> Connection<Framing> {
        let connection = Connection::new(());
        let (_, driver) = driver::pair(connection.handle().clone());
        connection.map_transport(|()| SessionIo::new((), (), driver, 1))
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        let layer = SessionLimitLayer::new(1_000, |_: &Session<&'static str>| "full");
        assert_layer_contract(&layer, connection).await;
        assert_eq!(layer.sessions(), 0);
    }

    #[test]
    fn panic_for_the_message_still_refuses_the_session() {
        let layer = SessionLimitLayer::new(0, |_: &Session<&'static str>| panic!("no message"));
        let connection = connection();
        layer.configure(&connection);
        assert_eq!(connection.handle().reason(), Some(CloseReason::Refused));
        assert_eq!(connection.transport().session().queued(), 0);
    }

    #[test]
    fn limit_counts_sessions_of_all_clones_until_they_end() {
        let layer = SessionLimitLayer::new(2, |_: &Session<&'static str>| "full");
        let connections = [(); 3].map(|()| connection());
        for connection in &connections {
            layer.clone().configure(connection);
        }
        let refused = connections.each_ref().map(|one| one.handle().is_closing());
        assert_eq!(refused, [false, false, true]);
        assert_eq!(layer.sessions(), 2);
        drop(connections);
        assert_eq!(layer.sessions(), 0);
    }
}
