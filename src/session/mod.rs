//! Drives each connection as a session: reads, decodes, calls the message stack, writes and
//! closes.
//!
//! - *ready*: always. The readiness of the message stack is polled for one message at a time.
//! - *call*: clones the message stack or has one made. Returns the future that drives the
//!   session.
//! - *close*: one order for every cause. The reason is recorded, and the first one is kept.
//!   Reading stops. Handlers in flight finish and accepted messages are flushed, until the
//!   drain deadline. The transport is closed as its protocol requires, even if a handler was
//!   cut off. Input is discarded until the peer's end, so that no reset destroys what was
//!   flushed. Waiting senders are notified, and close callbacks run.
//!   [`closed`](crate::ConnectionHandle::closed) resolves. After a reset or a failed write,
//!   received messages are handled until the drain deadline, and replies are counted as unsent.
//! - *drop*: the session ends at once, as
//!   [`CloseReason::Dropped`](crate::CloseReason::Dropped).
//!
//! Scope: every setting is per session. The layer is the innermost of the connection stack and
//! the outermost of the message stack.
//!
//! The code is divided by idea (design.md: Why is the session loop divided into input, output
//! and schedule?):
//!
//! | where | purpose |
//! |---|---|
//! | `driver` | the loop with its phases: dispatch, backpressure, deadlines, shutdown |
//! | `input` | reads from the transport, decodes, keeps messages that were decoded ahead |
//! | `output` | encodes, writes, completes sends |
//! | `schedule` | cooperative budget, watermark, buffer sizing, clock, timer |

mod calls;
mod catch;
mod config;
mod driver;
mod error;
mod framed_transport;
mod future;
mod input;
mod output;
mod per_session;
mod schedule;
mod stack;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Closed, Connection, IntoReply, MemoryBudget, Request, hooks::Contained};
use tower::{BoxError, Layer, Service};

use self::config::Config;
pub(crate) use self::{driver::CLOSE_HANDSHAKE_TIMEOUT, schedule::unconstrained};
pub use self::{
    error::{FrameTooLong, LeftoverBytes, MessageTooLong},
    framed_transport::{FramedTransport, SessionCodec},
    future::SessionFuture,
    per_session::{NotOpened, OpeningFuture, OwnedStack},
    stack::{ClonedStack, MessageStack, SharedStack, StackSource},
};

/// Turns each connection into a session: decodes its messages and calls the message stack with
/// them. See the [module](self).
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec};
///
/// let stack = ServiceBuilder::new()
///     .layer(CodecLayer::new(codec::Lines::new()))
///     .layer(SessionLayer::new().with_in_flight(16))
///     .service_fn(|request: Request<String>| async move {
///         Ok::<_, BoxError>(Some(request.into_message()))
///     });
/// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
/// # check(&stack);
/// ```
#[derive(Clone)]
pub struct SessionLayer<K = Shared> {
    kind: K,
    config: Config,
}

/// Marks a layer that clones the message stack for each session.
#[derive(Clone, Copy, Debug)]
pub struct Shared;

/// Marks a layer that has a message stack made for each session.
#[derive(Clone, Copy, Debug)]
pub struct PerSession;

impl SessionLayer {
    /// Creates a new layer that clones the message stack for each session. All sessions share the
    /// state that clones of a layer share, such as a semaphore.
    ///
    /// A session that waits for its next message holds a fresh clone, so that an idle session holds
    /// no permit of a shared limit. Each batch of messages that are handled together costs one more
    /// clone. State inside a clone, such as a counter in a closure, may be lost between two
    /// messages. Keep lasting state in an [attribute](crate::ConnectionHandle::insert) or in a
    /// stack of [`per_session`](Self::per_session).
    #[must_use]
    pub const fn new() -> Self {
        Self {
            kind: Shared,
            config: Config::DEFAULT,
        }
    }

    /// Creates a new layer that makes a message stack for each session. The inner service is a
    /// make-service, which is called with the [`Session`](crate::Session) before it opens.
    ///
    /// While the stack is made, the session loop writes, runs timeouts and closes, but reads
    /// nothing. So the make-service may await a [`send`](crate::Session::send), such as a greeting.
    /// The session opens once the stack is made.
    ///
    /// An error of the make-service refuses the connection, as
    /// [`CloseReason::Refused`](crate::CloseReason::Refused), and a panic closes it, as
    /// [`CloseReason::Panicked`](crate::CloseReason::Panicked). A close that comes first drops the
    /// make-service's future. In each case messages accepted for sending are flushed, until the
    /// drain deadline, and the pipeline's error is [`NotOpened`].
    ///
    /// The stack need not be `Clone`, and lives as long as its session. A layer that keeps a permit
    /// of a *shared* limit would keep it while the session idles: tower's `load_shed` does after a
    /// refusal. Such layers go inside a [`ClonePerCallLayer`](crate::layers::ClonePerCallLayer).
    ///
    /// Use it for limits that each session has separately, such as a rate limit for messages. A
    /// session that waits for its limit still sends, runs heartbeats and closes:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, Session, SessionLayer};
    /// use getty::{codec, service_fn};
    ///
    /// let stack = ServiceBuilder::new()
    ///     .layer(CodecLayer::new(codec::Lines::new()))
    ///     .layer(SessionLayer::per_session())
    ///     .service_fn(|_session: Session<String>| async {
    ///         let handler = |request: Request<String>| async {
    ///             Ok::<_, BoxError>(request.into_message())
    ///         };
    ///         let messages = ServiceBuilder::new()
    ///             .rate_limit(100, Duration::from_secs(1))
    ///             .service(service_fn(handler));
    ///         Ok::<_, BoxError>(messages)
    ///     });
    /// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
    /// # check(&stack);
    /// ```
    #[must_use]
    pub const fn per_session() -> SessionLayer<PerSession> {
        SessionLayer {
            kind: PerSession,
            config: Config::DEFAULT,
        }
    }
}

impl Default for SessionLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> SessionLayer<K> {
    /// Sets how many handlers of a session may run at once. The default is 1, which allocates
    /// nothing per message. 0 means 1. Replies are sent in the order of their requests unless they
    /// are [`unordered`](Self::unordered).
    #[doc(alias = "concurrency")]
    #[must_use]
    pub const fn with_in_flight(mut self, n: usize) -> Self {
        self.config.in_flight = if n == 0 { 1 } else { n };
        self
    }

    /// Sends replies as handlers finish, regardless of the order of their requests.
    #[must_use]
    pub const fn unordered(mut self) -> Self {
        self.config.ordered = false;
        self
    }

    /// Sets how many sent messages may wait for the encoder. The default is 64; 0 means 1. Messages
    /// that are broadcast to a [group](crate::layers::group#room) may exceed it: their bound is
    /// [`with_queue_bytes`](Self::with_queue_bytes).
    #[must_use]
    pub const fn with_queue(mut self, messages: u32) -> Self {
        self.config.queue = messages;
        self
    }

    /// Sets how many bytes of messages that are broadcast to [groups](crate::layers::group#room)
    /// may wait for the encoder. The default is 1 MiB; more than 4 GiB means 4 GiB.
    ///
    /// Each message counts as its size and 32 bytes for its entry. A session whose peer reads
    /// nothing holds no more than this, with one exception: a message that exceeds the bound alone
    /// is queued while no other waits. At the bound the member's policy decides. The messages
    /// themselves are shared by all members.
    #[must_use]
    pub const fn with_queue_bytes(mut self, bytes: usize) -> Self {
        self.config.queue_bytes = bytes;
        self
    }

    /// Sets the watermarks of the write buffer, in bytes. The defaults are 32 KiB for `low` and
    /// 64 KiB for `high`. A `low` above `high` means `high`.
    ///
    /// Once more than `high` bytes of pushed messages wait for the peer, no message is taken from
    /// the queue until at most `low` of these bytes wait. No message is taken either while more
    /// than `low` bytes of replies wait. Senders must then wait, and `try_send` fails as full. A
    /// single message may exceed `high` by its own size. Handling goes on meanwhile up to the
    /// [reply limit](Self::with_reply_limit).
    ///
    /// While the peer reads all that is sent, replies are gathered up to `high` before they are
    /// written. They are gathered up to 260 KiB if `high` is 64 KiB or more and the peer sends
    /// without a pause.
    #[must_use]
    pub const fn with_watermarks(mut self, low: usize, high: usize) -> Self {
        self.config.low = if low < high { low } else { high };
        self.config.high = high;
        self
    }

    /// Sets how many bytes of replies may wait for the peer before no further message is handled.
    /// The default is 256 KiB. One reply may exceed it. With several handlers in flight, one reply
    /// of each may.
    ///
    /// Messages that are pushed do not count: a session handles its peer's messages even while many
    /// pushes wait. The limit is never lower than `low + 2 * high + 4 * message`, with the
    /// [watermarks](Self::with_watermarks) and the largest message up to now that was pushed, or
    /// that was encoded while the peer did not take all that waits. Below that, two sessions whose
    /// handlers answer each other's pushes could both wait for the other to read. If such a session
    /// pushes much, set the same watermarks on both ends. Scope: session.
    ///
    /// If a session has pushed and its peer takes nothing while handling is stopped, the limit
    /// grows: by 64 KiB after 100 ms, and by twice as much after each further 100 ms, up to 4 MiB.
    /// The reason is that a TCP connection holds less once it stops than while it moves.
    #[must_use]
    pub const fn with_reply_limit(mut self, bytes: usize) -> Self {
        self.config.reply_limit = bytes;
        self
    }

    /// Sets how long small messages may be delayed so that they share a write. The default is no
    /// delay: all messages of one poll are written at its end.
    ///
    /// A delay makes writes fewer and larger at the price of latency. It applies to messages that
    /// no task awaits, such as replies. Delays of microseconds are accepted, but the runtime's
    /// timer rounds up to milliseconds.
    ///
    /// Delayed bytes are written early:
    ///
    /// - when they exceed the low [watermark](Self::with_watermarks);
    /// - when a task awaits a [`send`](crate::Session::send) or a [`flush`](crate::Session::flush);
    /// - with a ping, and at the close.
    #[must_use]
    pub fn with_flush_delay(mut self, delay: impl Into<Option<Duration>>) -> Self {
        self.config.flush_delay = delay.into().filter(|delay| !delay.is_zero());
        self
    }

    /// Sets a memory budget, which all sessions with the same budget share. The default is none.
    /// See [`MemoryBudget`].
    #[must_use]
    pub fn with_memory_budget(mut self, budget: MemoryBudget) -> Self {
        self.config.budget = Some(budget);
        self
    }

    /// Sets how long the transport may take no byte while bytes wait, before the session ends as
    /// [`CloseReason::WriteTimeout`](crate::CloseReason::WriteTimeout). The default is 30 s; `None`
    /// disables it. It is armed only while bytes wait, and every byte that the transport takes
    /// restarts it.
    ///
    /// A kernel takes bytes in steps, so the timeout requires a minimum rate. Over TCP on Linux and
    /// Android the steps are about 130 KiB
    /// ([`with_unsent_limit`](crate::net::TcpConnector::with_unsent_limit)), and 30 s require
    /// 4.4 KiB/s. On other systems a step is a part of the send buffer: with a buffer of 4 MiB,
    /// 30 s require about 48 KiB/s.
    #[must_use]
    pub fn with_write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.write_timeout = timeout.into();
        self
    }

    /// Sets how long a close waits for handlers in flight, for what was accepted to be flushed, and
    /// for the peer to end its direction. The default is 5 s. If handlers, messages or the close of
    /// the transport are cut off, the record's source is
    /// [`DrainDeadlineExceeded`](getty_core::DrainDeadlineExceeded). After handlers are cut off,
    /// the close handshake of the transport may take up to one more second. A peer that
    /// needs longer to read what was sent needs a longer deadline, or
    /// [`close_within`](crate::Close).
    #[must_use]
    pub const fn with_drain_deadline(mut self, deadline: Duration) -> Self {
        self.config.drain_deadline = deadline;
        self
    }

    /// Sets whether bad messages on message transports are skipped and counted (`true`) or close
    /// the session (`false`). The default is `true` on datagrams and `false` otherwise.
    ///
    /// A message is bad if it cannot be decoded. It is also bad if it cannot be encoded and no task
    /// awaits it. On byte streams it always closes the session, because the position of the next
    /// message is unknown.
    #[must_use]
    pub const fn with_bad_messages_skipped(mut self, skipped: bool) -> Self {
        self.config.skip_bad = Some(skipped);
        self
    }
}

impl<K: fmt::Debug> fmt::Debug for SessionLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("kind", &self.kind)
            .field("config", &self.config)
            .finish()
    }
}

impl<S, K: Clone> Layer<S> for SessionLayer<K> {
    type Service = Sessions<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Sessions {
            inner,
            kind: self.kind.clone(),
            config: Arc::new(self.config.clone()),
        }
    }
}

/// Service that [`SessionLayer`] creates: drives each connection as a session.
#[derive(Clone)]
pub struct Sessions<S, K = Shared> {
    inner: S,
    kind: K,
    config: Arc<Config>,
}

impl<S, K> Sessions<S, K> {
    /// Returns a reference to the inner service: the message stack, or the make-service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service: the message stack, or the make-service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service: the message stack, or the make-service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: fmt::Debug, K: fmt::Debug> fmt::Debug for Sessions<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("inner", &self.inner)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl<S, W> Service<Connection<W>> for Sessions<S, Shared>
where
    W: FramedTransport,
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>
        + SharedStack,
{
    type Response = Closed;
    type Error = BoxError;
    type Future = SessionFuture<S, W, ClonedStack<S>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection<W>) -> Self::Future {
        // The clone comes before the connection is split, because a clone may panic.
        let service = Contained::new(self.inner.for_session());
        let source = ClonedStack::new(self.inner.for_session());
        let (wire, guard) = connection.into_parts();
        let (service, config) = (Some(service.into_inner()), Arc::clone(&self.config));
        SessionFuture::new(service, source, wire, guard, config)
    }
}
