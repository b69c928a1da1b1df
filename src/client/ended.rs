//! How attempts and sessions of a client end, and how the client does.

use std::{error::Error, fmt, sync::Arc};

use getty_core::{Closed, Panic, SendError};
use tower::BoxError;

use crate::connect::OpenError;

/// How an attempt of a client to open a session failed, or how a session of it ended: what
/// [`with_decision`](super::ClientBuilder::with_decision) decides upon.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The connector failed, or the stack before the session was open.
    Open(OpenError),
    /// A hook returned this error; the session was closed.
    Hook(BoxError),
    /// The attempt took longer than the [attempt timeout](super::ClientBuilder::with_attempt_timeout).
    TimedOut,
    /// The session was open, and closed: by the peer, by us, by a layer.
    Closed(Closed),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => fmt::Display::fmt(error, f),
            Self::Hook(_) => f.write_str("a hook failed"),
            Self::TimedOut => f.write_str("the session was not open and prepared in time"),
            Self::Closed(closed) => write!(f, "the session ended: {}", closed.reason),
        }
    }
}

impl Error for Ended {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // its own message is this one's
            Self::Open(error) => error.source(),
            Self::Hook(error) => Some(&**error),
            Self::TimedOut => None,
            Self::Closed(closed) => closed.source.as_deref().map(|source| source as _),
        }
    }
}

/// What a client is to do after a failed attempt, or the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Dial again, after the pause that the [`Backoff`](super::Backoff) says.
    Retry,
    /// Give up: close the other sessions and fail, with [`Failure::Decided`].
    Stop,
}

/// Why a client has given up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// So many attempts in a row have failed while no session was open, and no more were
    /// [allowed](super::ClientBuilder::with_max_attempts).
    Attempts {
        /// How many they were.
        attempts: u32,
        /// How the last of them ended.
        last: Arc<Ended>,
    },
    /// The [decision](super::ClientBuilder::with_decision) upon this was to stop.
    Decided(Arc<Ended>),
    /// The stack leaves out the link that it is given, and would do so again.
    NoLink,
    /// The connector, the closure that makes the stack, a hook or the decision panicked.
    Panicked(Panic),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempts { attempts, .. } => write!(f, "gave up after {attempts} attempts"),
            Self::Decided(_) => f.write_str("decided not to try again"),
            Self::NoLink => fmt::Display::fmt(&OpenError::NoLink, f),
            Self::Panicked(_) => f.write_str("code of the client's panicked"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Attempts { last, .. } | Self::Decided(last) => Some(&**last),
            Self::NoLink => None,
            Self::Panicked(panic) => Some(panic),
        }
    }
}

/// The client has no session to give, and will have none.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NoSession {
    /// The client was stopped.
    Stopped,
    /// The client has given up.
    Failed(Failure),
}

impl fmt::Display for NoSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "the client was stopped",
            Self::Failed(_) => "the client has given up",
        })
    }
}

impl Error for NoSession {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Stopped => None,
            Self::Failed(why) => Some(why),
        }
    }
}

/// A message did not leave by any session of the client's, or is not known to have left.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientSendError<Out> {
    /// There will be no session any more. No byte of the message was given to a transport.
    NoSession {
        /// The message.
        message: Out,
        /// Why there is none.
        source: NoSession,
    },
    /// The session that the message was given to failed it.
    Session(SendError<Out>),
}

impl<Out> ClientSendError<Out> {
    /// The message, where none of it was given to a transport: it may be sent again.
    #[must_use]
    pub fn into_message(self) -> Option<Out> {
        match self {
            Self::NoSession { message, .. } => Some(message),
            Self::Session(error) => error.into_message(),
        }
    }
}

impl<Out> fmt::Display for ClientSendError<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSession { source, .. } => fmt::Display::fmt(source, f),
            Self::Session(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl<Out: fmt::Debug> Error for ClientSendError<Out> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NoSession { source, .. } => source.source(),
            Self::Session(error) => error.source(),
        }
    }
}
