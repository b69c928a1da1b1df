//! The session layer: connections in, messages out.
//!
//! - *ready*: always. Readiness of the message stack is asked for a message at a time.
//! - *call*: clones the message stack (or has one made) and drives the session: reads, decodes, calls, encodes, writes.
//! - *close*: one path for every cause. The reason is recorded, the first wins; reading stops;
//!   handlers in flight finish and what was accepted for sending is flushed, until the drain
//!   deadline; the transport is closed the way its protocol wants, even where a handler was cut
//!   off; input is discarded until the peer's end, so that no reset destroys what was flushed;
//!   senders that wait are notified; close callbacks run;
//!   [`closed`](crate::ConnectionHandle::closed) resolves. After a reset or a failed write, what
//!   was received is handled until the drain deadline, and replies are counted as unsent.
//! - *drop*: the session ends at once, as [`CloseReason::Dropped`](crate::CloseReason::Dropped).
//!
//! Scope: everything set here is per session. It is the innermost layer of the connection stack and the outermost of the
//! message stack.

pub(crate) mod buffers;
mod bulk;
mod calls;
mod clock;
mod config;
mod future;
mod per_session;
mod queue;
mod read;
pub(crate) mod ready;
mod renew;
mod segments;
mod timer;
mod too_long;
mod undecodable;
mod waiting;
mod wire;
mod write;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use getty_core::{Closed, Connection, IntoReply, MemoryBudget, Request, driver::Contained};
use tower::{BoxError, Layer, Service};

use self::config::Config;
pub(crate) use self::future::GOODBYE;
pub use self::{
    future::SessionFuture,
    per_session::{Making, NotOpened, OpeningFuture},
    renew::{Pristine, Renew, SharedStack},
    too_long::MessageTooLong,
    undecodable::{FrameTooLong, LeftoverBytes},
    wire::{SessionCodec, Wire},
};

/// Turns connections into messages: drives each session and calls the message stack with what it decodes; see the
/// [module](self).
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec};
///
/// let stack = ServiceBuilder::new()
///     .layer(CodecLayer::new(codec::Lines::new()))
///     .layer(SessionLayer::new().in_flight(16))
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

/// The message stack is shared: each session has a clone of it.
#[derive(Clone, Copy, Debug)]
pub struct Shared;

/// The message stack is made for each session.
#[derive(Clone, Copy, Debug)]
pub struct PerSession;

impl SessionLayer {
    /// Each session has a clone of the message stack: state that a layer's clones share, such as a semaphore, is shared
    /// by all sessions.
    ///
    /// A session that waits for its next message has a fresh clone, so that an idle session holds
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

    /// Each session has a message stack of its own: the inner service is a make-service, called with the
    /// [`Session`](crate::Session) before it opens.
    ///
    /// While the stack is made, the session loop writes, runs timeouts and closes, but reads
    /// nothing. So the make-service may await a [`send`](crate::Session::send), such as a greeting.
    /// The session opens once the stack is there.
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
    /// It is the way to a limit of each session's own, such as a pace for its messages; a session that waits for its turn
    /// still sends, beats and closes:
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, Session, SessionLayer, codec, service_fn};
    ///
    /// let stack = ServiceBuilder::new()
    ///     .layer(CodecLayer::new(codec::Lines::new()))
    ///     .layer(SessionLayer::per_session())
    ///     .service_fn(|_session: Session<String>| async {
    ///         let handler = |request: Request<String>| async { Ok::<_, BoxError>(request.into_message()) };
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
    /// Up to `n` handlers at once, replies in the order of their requests. 1 by default, which allocates nothing a
    /// message; 0 means 1.
    #[must_use]
    pub const fn in_flight(mut self, n: usize) -> Self {
        self.config.in_flight = if n == 0 { 1 } else { n };
        self
    }

    /// Replies leave as handlers finish, whatever the order of their requests.
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

    /// Sets the watermarks of the write buffer, in bytes. The defaults are 32 KiB for `low` and 64
    /// KiB for `high`. A `low` above `high` means `high`.
    ///
    /// Once more than `high` bytes of pushed messages wait for the peer, no message is taken from
    /// the queue until at most `low` of these bytes wait. No message is taken either while more
    /// than `low` bytes of replies wait. Senders then wait, and `try_send` fails as full. A single
    /// message may exceed `high` by its own size. Handling goes on meanwhile, up to the [reply
    /// limit](Self::with_reply_limit).
    ///
    /// While the peer reads all that is sent, replies are gathered up to `high` before they are
    /// written. If `high` is 64 KiB or more and the peer sends without a pause, they are gathered
    /// up to 260 KiB.
    #[must_use]
    pub const fn with_watermarks(mut self, low: usize, high: usize) -> Self {
        self.config.low = if low < high { low } else { high };
        self.config.high = high;
        self
    }

    /// Sets how many bytes of replies may wait for the peer before no further message is handled.
    /// The default is 256 KiB. One reply, or one for each handler in flight, may exceed it.
    ///
    /// Messages that are pushed do not count: a session handles its peer's messages even while many
    /// pushes wait. The limit is never lower than `low + 2 * high + 4 * message`, with the
    /// [watermarks](Self::with_watermarks) and the largest message of the session up to now. Below
    /// that, two sessions whose handlers answer each other's pushes could both wait for the other
    /// to read. If such a session pushes much, set the same watermarks on both ends. Scope:
    /// session.
    ///
    /// A session that has pushed, and whose peer takes nothing for 100 ms while handling is
    /// stopped, is allowed 64 KiB more, and twice as much each further 100 ms, up to 4 MiB: a TCP
    /// connection holds less once it stops than while it moves.
    #[must_use]
    pub const fn with_reply_limit(mut self, bytes: usize) -> Self {
        self.config.reply_limit = bytes;
        self
    }

    /// How long small messages that nobody waits for, such as replies, are held back to leave together with others: fewer
    /// and larger writes at the price of latency. None by default, and then what was gathered in one turn leaves at its
    /// end. Delays count in microseconds; the runtime's timer, which ends them, in milliseconds, to which it rounds up.
    ///
    /// Held bytes leave early when there are more of them than the low [watermark](Self::with_watermarks), when somebody
    /// awaits a [`send`](crate::Session::send) or a [`flush`](crate::Session::flush), with a ping, and at the close.
    #[must_use]
    pub fn with_flush_delay(mut self, delay: impl Into<Option<Duration>>) -> Self {
        self.config.flush_delay = delay.into().filter(|delay| !delay.is_zero());
        self
    }

    /// Shares `budget` with all other sessions that it is given to: see [`MemoryBudget`]. None by default.
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
    /// Android the steps are some 130 KiB
    /// ([`with_unsent_limit`](crate::net::TcpConnector::with_unsent_limit)), and 30 s require 4.4
    /// KiB/s. On other systems a step is a part of the send buffer: with a buffer of 4 MiB, 30 s
    /// require some 48 KiB/s.
    #[must_use]
    pub fn with_write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.config.write_timeout = timeout.into();
        self
    }

    /// Sets how long a close waits for handlers in flight, for what was accepted to be flushed, and
    /// for the peer to end its direction. The default is 5 s. If handlers, messages or the close of
    /// the transport are cut off, the record's source is
    /// [`DrainDeadlineExceeded`](getty_core::DrainDeadlineExceeded). After handlers are cut off,
    /// the transport's goodbye, such as a close frame, may take up to one more second. A peer that
    /// needs longer to read what was sent needs a longer deadline, or
    /// [`close_within`](crate::ConnectionHandle::close_within).
    #[must_use]
    pub const fn with_drain_deadline(mut self, deadline: Duration) -> Self {
        self.config.drain_deadline = deadline;
        self
    }

    /// On message transports, whether a message that cannot be decoded, or an unattended one that cannot be encoded, is
    /// skipped and counted (`true`) or closes the session (`false`). Skipped on datagrams by default, else closed. On
    /// byte streams it always closes: what follows bad data is unknown.
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

/// The service that [`SessionLayer`] makes.
#[derive(Clone)]
pub struct Sessions<S, K = Shared> {
    inner: S,
    kind: K,
    config: Arc<Config>,
}

impl<S, K> Sessions<S, K> {
    /// The message stack, or what makes it.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The message stack, or what makes it.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The message stack, or what makes it.
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
    W: Wire,
    S: Service<Request<W::In, W::Out>, Response: IntoReply<W::Out>, Error: Into<BoxError>>
        + SharedStack,
{
    type Response = Closed;
    type Error = BoxError;
    type Future = SessionFuture<S, W, Pristine<S>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, connection: Connection<W>) -> Self::Future {
        // before the connection is taken apart, because a clone may panic
        let service = Contained::new(self.inner.for_session());
        let pristine = Pristine(self.inner.for_session());
        let (wire, lease) = connection.into_parts();
        let (service, config) = (Some(service.into_inner()), Arc::clone(&self.config));
        SessionFuture::new(service, pristine, wire, lease, config)
    }
}
