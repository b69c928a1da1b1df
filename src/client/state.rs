//! State of a client, and a watch for its changes.

use std::fmt;

use tokio::{sync::watch, time::Instant};

use super::Failure;

/// State of a [`Client`](super::Client).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientState {
    /// No session is open. One is being dialed, opened or prepared by the hooks, or the last one
    /// is closing.
    Connecting,
    /// At least one session is open. The number counts the sessions that were opened so far.
    Open(u64),
    /// No session is open. The next dial is at this time.
    Waiting(Instant),
    /// The client has given up, for this reason. This state is final.
    Failed(Failure),
    /// The client was stopped, or its last handle was dropped. This state is final.
    Stopped,
}

impl ClientState {
    /// Returns `true` if at least one session is open.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Returns `true` if the client will open no further session.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Stopped)
    }

    /// Returns `true` if the two states are equal. A client has at most one failure, so failures
    /// are not compared.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Connecting, Self::Connecting) => true,
            (Self::Open(one), Self::Open(other)) => one == other,
            (Self::Waiting(one), Self::Waiting(other)) => one == other,
            (Self::Failed(_) | Self::Stopped, Self::Failed(_) | Self::Stopped) => true,
            _ => false,
        }
    }
}

impl fmt::Display for ClientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Open(generation) => write!(f, "open ({generation} so far)"),
            Self::Waiting(until) => write!(
                f,
                "waiting for {:.3?}",
                until.saturating_duration_since(Instant::now())
            ),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Watch of a client's [`ClientState`], created by [`Client::watch`](super::Client::watch).
///
/// It returns the latest state. States that ended between two calls are skipped. It does not
/// keep the client alive.
///
/// ```
/// use getty::{BoxError, Client, CodecLayer, Request, ServiceBuilder, SessionLayer, codec, net};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let (listener, connector) = net::memory(1024);
/// # let app = |link| ServiceBuilder::new()
/// #     .layer(CodecLayer::new(codec::Lines::new()))
/// #     .layer(link)
/// #     .layer(SessionLayer::new())
/// #     .service_fn(|_: Request<String>| async { Ok::<Option<String>, BoxError>(None) });
/// let client = Client::new(connector, (), app);
/// let mut watch = client.watch();
/// let logged = tokio::spawn(async move {
///     let mut states = vec![watch.state().to_string()];
///     while let Some(state) = watch.changed().await {
///         states.push(state.to_string());
///     }
///     states
/// });
/// client.session().await?;
/// client.stop();
/// assert_eq!(logged.await?, ["connecting", "open (1 so far)", "stopped"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StateWatch(watch::Receiver<ClientState>);

impl StateWatch {
    pub(super) const fn new(receiver: watch::Receiver<ClientState>) -> Self {
        Self(receiver)
    }

    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> ClientState {
        // The value is cloned at once, because a borrow would block the client.
        self.0.borrow().clone()
    }

    /// Waits for a state that this watch has not returned yet. Returns `None` after the final
    /// state.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it is ready, no state is skipped.
    pub async fn changed(&mut self) -> Option<ClientState> {
        if self.0.has_changed().is_ok_and(|changed| !changed) && self.state().is_final() {
            return None;
        }
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }

    /// Waits until `wanted` returns `true` for a state or until the state is final. The current
    /// state is tested first.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time without an effect.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&ClientState) -> bool) -> ClientState {
        loop {
            let state = self.0.borrow_and_update().clone();
            if state.is_final() || wanted(&state) || self.0.changed().await.is_err() {
                return state;
            }
        }
    }
}

impl fmt::Debug for StateWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateWatch").field(&self.state()).finish()
    }
}
