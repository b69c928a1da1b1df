//! How a connection ended: its reason, and the record that outlives it.

use std::{
    borrow::Cow,
    error::Error,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use super::Stats;

/// An error that several holders can keep: what [`Closed::source`] carries.
pub type SharedError = Arc<dyn Error + Send + Sync>;

/// Why a connection was closed. The first reason recorded wins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer ended its direction, and all it had sent was answered.
    PeerClosed,
    /// Our side called [`close`](super::ConnectionHandle::close).
    Local,
    /// The server is shutting down.
    Shutdown,
    /// Nothing moved for the idle timeout.
    IdleTimeout,
    /// The peer did not answer a heartbeat in time.
    HeartbeatMissed,
    /// The peer did not answer a request in time, and its answers come in order: later answers
    /// could belong to other requests. Or requests that were given
    /// up (`CorrelateLayer::in_order`) took all places, and the peer answered none.
    AnswerMissed,
    /// A frame was begun and not completed in time.
    ReadTimeout,
    /// Bytes waited to be written, and the peer took none of them in time.
    WriteTimeout,
    /// A handshake before the session did not complete in time.
    HandshakeTimeout,
    /// The session reached its maximum age.
    LifetimeExpired,
    /// The peer reads more slowly than is written to it, and the policy was to close.
    SlowConsumer,
    /// The codec could not make sense of what the peer sent; the source is the codec's error.
    Decode,
    /// The codec could not encode an unattended message: a reply, or one sent with `feed` or `try_send`. The source is the
    /// codec's error.
    Encode,
    /// The message stack, or another function of the application's such as a periodic one, returned an error; it is the
    /// source.
    Handler,
    /// The transport failed; the source is its error.
    Io,
    /// Code of the stack panicked; the source says with what message.
    Panicked,
    /// The connection was refused before its session opened; the source says by whom and why.
    Refused,
    /// A close with the transport protocol's own code, such as a WebSocket close frame's.
    Protocol {
        /// The protocol's number for the reason.
        code: u16,
        /// The protocol's text for the reason.
        reason: Cow<'static, str>,
    },
    /// The connection was dropped while it was open: its task was aborted, or the runtime shut down.
    Dropped,
}

impl CloseReason {
    /// A short name in `snake_case`, stable enough for a metric's label; a protocol's code is not part of it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Local => "local",
            Self::Shutdown => "shutdown",
            Self::IdleTimeout => "idle_timeout",
            Self::HeartbeatMissed => "heartbeat_missed",
            Self::AnswerMissed => "answer_missed",
            Self::ReadTimeout => "read_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::LifetimeExpired => "lifetime_expired",
            Self::SlowConsumer => "slow_consumer",
            Self::Decode => "decode",
            Self::Encode => "encode",
            Self::Handler => "handler",
            Self::Io => "io",
            Self::Panicked => "panicked",
            Self::Refused => "refused",
            Self::Protocol { .. } => "protocol",
            Self::Dropped => "dropped",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerClosed => "closed by the peer",
            Self::Local => "closed by this side",
            Self::Shutdown => "shut down",
            Self::IdleTimeout => "idle for too long",
            Self::HeartbeatMissed => "heartbeat not answered",
            Self::AnswerMissed => "request not answered in time",
            Self::ReadTimeout => "frame not completed in time",
            Self::WriteTimeout => "peer took no bytes in time",
            Self::HandshakeTimeout => "handshake not completed in time",
            Self::LifetimeExpired => "maximum age reached",
            Self::SlowConsumer => "peer reads too slowly",
            Self::Decode => "bad data from the peer",
            Self::Encode => "message could not be encoded",
            Self::Handler => "handler failed",
            Self::Io => "transport failed",
            Self::Panicked => "panicked",
            Self::Refused => "refused",
            Self::Protocol { code, reason } => {
                return write!(f, "closed with code {code}: {reason}");
            }
            Self::Dropped => "dropped while open",
        })
    }
}

/// The record of a connection that has ended: what close callbacks,
/// [`closed`](super::ConnectionHandle::closed) and the pipeline's response carry.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Closed {
    /// Why it ended.
    pub reason: CloseReason,
    /// What had moved until then.
    pub stats: Stats,
    /// How long it lived, from accept or connect on.
    pub lifetime: Duration,
    /// The error behind the reason, where there is one.
    pub source: Option<SharedError>,
    /// Messages that were received and not handled: their handlers were not called, or did not
    /// finish before the drain deadline. Together with the handled messages they add up to
    /// [`Stats::messages_in`].
    pub unhandled_messages: u64,
    /// Bytes that were received and not decoded. After a local close these are requests that came
    /// too late, including those that were discarded until the peer's end; after a reset they are
    /// at most a part of a message. Bytes that the session had not read from the kernel are not
    /// counted.
    pub unhandled_bytes: u64,
    /// Messages that were accepted for sending, as pushes or as replies of handlers, and never
    /// encoded.
    pub unsent_messages: u64,
    /// Bytes that were encoded and not taken by the transport.
    pub unsent_bytes: u64,
    /// `true` if the peer ended its direction of a byte stream after ours, without a reset. A peer
    /// that closes only after it has read everything then has received everything. `false` implies
    /// no loss: the peer may have ended its direction first, or may not have closed before the
    /// drain deadline.
    pub orderly: bool,
}

/// Counts of what a session had accepted and did not finish.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    pub(crate) unhandled_messages: u64,
    pub(crate) unhandled_bytes: u64,
    pub(crate) unsent_messages: u64,
    pub(crate) unsent_bytes: u64,
    pub(crate) orderly: bool,
}

impl Closed {
    pub(crate) const fn new(
        reason: CloseReason,
        source: Option<SharedError>,
        stats: Stats,
        lifetime: Duration,
        losses: Losses,
    ) -> Self {
        let Losses {
            unhandled_messages,
            unhandled_bytes,
            unsent_messages,
            unsent_bytes,
            orderly,
        } = losses;
        Self {
            reason,
            stats,
            lifetime,
            source,
            unhandled_messages,
            unhandled_bytes,
            unsent_messages,
            unsent_bytes,
            orderly,
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after {:.3?} ({})",
            self.reason, self.lifetime, self.stats
        )?;
        for (count, what) in [
            (self.unhandled_messages, "messages unhandled"),
            (self.unhandled_bytes, "bytes undecoded"),
            (self.unsent_messages, "messages unsent"),
            (self.unsent_bytes, "bytes unsent"),
        ] {
            if count > 0 {
                write!(f, "; {count} {what}")?;
            }
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// What [`Closed::source`] holds when handlers or unsent bytes were cut off by the drain deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainDeadlineExceeded;

impl fmt::Display for DrainDeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("handlers in flight or unsent bytes were cut off by the drain deadline")
    }
}

impl Error for DrainDeadlineExceeded {}

/// What [`Closed::source`] holds after a panic: the panic's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic(String);

impl Panic {
    /// Takes the message out of what `catch_unwind` caught.
    #[must_use]
    pub fn from_payload(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self(text.unwrap_or_else(|| "a panic without a message".to_owned()))
    }

    /// Runs `code`, and catches its panic. What it panicked with is dropped here, and a panic of that drop goes no
    /// further either. What `code` has left half done is the caller's to deal with.
    ///
    /// # Errors
    ///
    /// The panic.
    #[inline]
    pub fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Self> {
        catch_unwind(AssertUnwindSafe(code)).map_err(Self::caught)
    }

    #[cold]
    fn caught(payload: Box<dyn std::any::Any + Send>) -> Self {
        let panic = Self::from_payload(&*payload);
        // the payload is the user's as well, and its drop may panic in turn: that ends here
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(again);
        }
        panic
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Panic {}

/// Runs code of the user's; a panic of this `what` is logged and goes no further.
pub fn contain(what: &str, code: impl FnOnce()) {
    if let Err(panic) = catch(code) {
        tracing::error!(%panic, "{what} panicked");
    }
}

/// Runs code of the user's, and catches its panic.
pub fn catch<R>(code: impl FnOnce() -> R) -> Result<R, Panic> {
    Panic::catch(code)
}
