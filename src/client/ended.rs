//! Ends of a client, of its sessions and of its attempts.

use std::{error::Error, fmt, sync::Arc};

use getty_core::{Closed, Panic, SendError};
use tower::BoxError;

use crate::connect::OpenError;

/// End of a session, or failure of an attempt to open one. It is the argument of the
/// [retry policy](super::ClientBuilder::with_retry_policy).
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The connector failed, or the stack before the session was open.
    Open(OpenError),
    /// A hook returned this error; the session was closed.
    Hook(BoxError),
    /// The attempt took longer than the
    /// [attempt timeout](super::ClientBuilder::with_attempt_timeout).
    TimedOut,
    /// The session was open. The peer, this side or a layer has closed it.
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
            // `Display` already prints the message of this error.
            Self::Open(error) => error.source(),
            Self::Hook(error) => Some(&**error),
            Self::TimedOut => None,
            Self::Closed(closed) => closed.source.as_deref().map(|source| source as _),
        }
    }
}

/// Decision of a [retry policy](super::ClientBuilder::with_retry_policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Dial again after the pause of the [`Backoff`](super::Backoff).
    Retry,
    /// Give up: close the other sessions and fail with [`Failure::Stopped`].
    Stop,
}

/// Reason for which a client has given up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The [maximum number](super::ClientBuilder::with_max_attempts) of consecutive attempts failed
    /// while no session was open.
    Attempts {
        /// Number of failed attempts.
        attempts: u32,
        /// Failure of the last attempt.
        last: Arc<Ended>,
    },
    /// The [retry policy](super::ClientBuilder::with_retry_policy) decided to stop after this end.
    Stopped(Arc<Ended>),
    /// The stack does not contain the link. Another attempt would fail in the same way.
    NoLink,
    /// A panic of the connector, the closure that builds the stack, a hook or the retry policy.
    Panicked(Panic),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempts { attempts, .. } => write!(f, "gave up after {attempts} attempts"),
            Self::Stopped(_) => f.write_str("the retry policy decided to stop"),
            Self::NoLink => fmt::Display::fmt(&OpenError::NoLink, f),
            Self::Panicked(_) => f.write_str("code of the application panicked"),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Attempts { last, .. } | Self::Stopped(last) => Some(&**last),
            Self::NoLink => None,
            Self::Panicked(panic) => Some(panic),
        }
    }
}

/// Error of a client that will open no further session.
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

/// Error of [`Client::send`](super::Client::send): the message was not sent, or its outcome is
/// unknown.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientSendError<Out> {
    /// The client will open no further session. No byte of the message was passed to a transport.
    NoSession {
        /// The message.
        message: Out,
        /// Reason for which the client has ended.
        source: NoSession,
    },
    /// The session that accepted the message failed to send it.
    Session(SendError<Out>),
}

impl<Out> ClientSendError<Out> {
    /// Returns the message if no byte was passed to a transport. It may be sent again.
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
