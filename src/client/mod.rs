//! Reconnecting client, which keeps a session or a pool of sessions open.
//!
//! [`connect`](crate::connect()) opens one session. A [`Client`] opens the next one when a
//! session ends, after a pause that grows while the server is unavailable. Hooks can log in
//! before the session is offered to callers.
//!
//! ```
//! use getty::{BoxError, Client, CodecLayer, Request, ServiceBuilder, SessionLayer, codec, net};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let (listener, connector) = net::memory(1024);
//! # let echo = ServiceBuilder::new()
//! #     .layer(CodecLayer::new(codec::Lines::new()))
//! #     .layer(SessionLayer::new())
//! #     .service_fn(|request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) });
//! # tokio::spawn(async move { getty::serve(listener, echo).await });
//! let (answers, mut answer) = tokio::sync::mpsc::channel(1);
//! let client = Client::new(connector, (), move |link| {
//!     let answers = answers.clone();
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(codec::Lines::new()))
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         .service_fn(move |request: Request<String>| {
//!             let answers = answers.clone();
//!             async move {
//!                 answers.send(request.into_message()).await?;
//!                 Ok::<_, BoxError>(None)
//!             }
//!         })
//! });
//!
//! client.send("hello".to_owned()).await?;
//! assert_eq!(answer.recv().await.as_deref(), Some("hello"));
//!
//! // the client opens another session when one ends
//! let first = client.session().await?;
//! first.close();
//! let second = client.session().await?;
//! assert_ne!(first.id(), second.id());
//!
//! client.stop();
//! client.stopped().await;
//! assert!(second.is_closed());
//! # Ok(())
//! # }
//! ```
//!
//! # Behaviour
//!
//! - The client makes one attempt at a time for all sessions of a pool. An attempt is the dial,
//!   the stack until the session is open, and the [hooks](ClientBuilder::with_hook). The
//!   connector resolves names at each attempt.
//! - A failed attempt is followed by a pause of the [`Backoff`]. The end of a session is
//!   followed by a pause too, also after an orderly end by the peer. A session that was open
//!   for some time resets the pauses. A session that closed sooner counts as a failed attempt.
//! - A session is replaced once its close is complete, so the server never sees more sessions
//!   than configured. It is not offered any more from the start of the close.
//! - [`Client::send`] sends a message on an open session, and [`Client::session`] returns an
//!   open session. [`Session::request`] sends a request and waits for its response. The clients
//!   in [`call`](crate::call) are services for tower's middleware.
//! - Layers detect a server that hangs: [`HeartbeatLayer`](crate::layers::HeartbeatLayer) and
//!   [`IdleTimeoutLayer`](crate::layers::IdleTimeoutLayer) work on clients as on servers. The
//!   client replaces a session that they close.
//! - The third failed attempt in a row, while no session is open, is logged as a warning with
//!   its cause. Others have the level `DEBUG`. [`Client::watch`] returns each change of the
//!   [`ClientState`].
//! - [`Client::stop`] ends the client, and so does dropping its last clone. A dial or a pause
//!   ends at once. Sessions are closed gracefully.

mod attempts;
mod backoff;
mod builder;
mod ended;
mod members;
mod pool;
mod state;
mod supervisor;

use std::{fmt, sync::Arc};

use getty_core::{SendError, Sent, Session};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::{
    backoff::Backoff,
    builder::ClientBuilder,
    ended::{ClientSendError, Decision, Ended, Failure, NoSession},
    pool::Pick,
    state::{ClientState, StateWatch},
};
use self::{
    builder::Settings,
    pool::Pool,
    supervisor::{Dial, Supervisor},
};
use crate::{LinkLayer, connect::Connector, pipeline::Pipeline};

/// Client that keeps a session or a pool of sessions open; see the [module](self).
///
/// Clones are handles of the same client. They are `Send` and `Sync`. When the last one is
/// dropped the client stops, as by [`stop`](Self::stop). A hook or a handler that stores a
/// clone keeps the client alive.
// (design.md: Why is `Client` not a layer?)
pub struct Client<Out>(Arc<Handle<Out>>);

struct Handle<Out> {
    pool: Arc<Pool<Out>>,
    states: watch::Receiver<ClientState>,
    stop: CancellationToken,
    done: CancellationToken,
    resend: bool,
    /// Stops the client when the last clone is dropped.
    _stop: DropGuard,
}

impl<Out: Send + 'static> Client<Out> {
    /// Creates a new client with the defaults that [`ClientBuilder`] lists: it keeps one session
    /// open and never gives up. The arguments are those of [`connect`](crate::connect()); `build`
    /// is called for each connection.
    ///
    /// # Panics
    ///
    /// Panics if it is called outside of a tokio runtime.
    pub fn new<C, A, B, S>(connector: C, target: A, build: B) -> Self
    where
        C: Connector<A, Future: Send, Io: Send + 'static> + Clone + Send + 'static,
        A: Clone + Send + 'static,
        B: Fn(LinkLayer<Out>) -> S + Send + Sync + 'static,
        S: Pipeline<C::Io>,
    {
        Self::builder().connect(connector, target, build)
    }

    /// Creates a builder with the default settings.
    pub fn builder() -> ClientBuilder<Out> {
        ClientBuilder::new()
    }

    fn start(settings: Settings<Out>, dial: Dial<Out>) -> Self {
        let pool = Arc::new(Pool::new(settings.pick.clone()));
        let (sender, states) = watch::channel(ClientState::Connecting);
        let (stop, done) = (CancellationToken::new(), CancellationToken::new());
        let handle = Handle {
            pool: Arc::clone(&pool),
            states,
            stop: stop.clone(),
            done: done.clone(),
            resend: settings.resend,
            _stop: stop.clone().drop_guard(),
        };
        let supervisor = Supervisor::new(settings, dial, pool, sender, stop, done.drop_guard());
        tokio::spawn(supervisor.run());
        Self(Arc::new(handle))
    }
}

impl<Out> Client<Out> {
    /// Returns an open session that the [`Pick`] has chosen. Returns `None` while no session is
    /// open.
    #[must_use]
    pub fn pick(&self) -> Option<Session<Out>> {
        self.0.pool.pick()
    }

    /// Waits for an open session.
    ///
    /// By default a client never [gives up](ClientBuilder::with_max_attempts), so the wait has no
    /// limit while the server is unavailable. Use tokio's `timeout` to bound it, here and around
    /// [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// Returns [`NoSession`] if the client was stopped or has given up.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time without an effect.
    pub async fn session(&self) -> Result<Session<Out>, NoSession> {
        if let Some(session) = self.pick() {
            return Ok(session);
        }
        let mut states = self.0.states.clone();
        loop {
            // The state is read before the pool. So a session that is offered afterwards wakes this
            // task.
            let state = states.borrow_and_update().clone();
            match state {
                ClientState::Failed(why) => return Err(NoSession::Failed(why)),
                ClientState::Stopped => return Err(NoSession::Stopped),
                _ if self.0.stop.is_cancelled() => return Err(NoSession::Stopped),
                _ => {}
            }
            if let Some(session) = self.pick() {
                return Ok(session);
            }
            if states.changed().await.is_err() {
                return Err(NoSession::Stopped);
            }
        }
    }

    /// Waits for an open session and sends `message` on it, as [`Session::send`] does.
    ///
    /// If the session closes while the message is queued, the error returns the message or the next
    /// session sends it. [`with_resend`](ClientBuilder::with_resend) decides this. A message is
    /// never sent twice. Once a byte was passed to a transport, the error states that the outcome
    /// is unknown.
    ///
    /// # Errors
    ///
    /// Returns a [`ClientSendError`], which contains the message if it may be sent again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before a session has queued the message, nothing is sent. If it is
    /// dropped later, the message is sent unless the session closes first.
    pub async fn send(&self, message: Out) -> Result<Sent, ClientSendError<Out>> {
        let mut message = message;
        loop {
            let session = match self.session().await {
                Ok(session) => session,
                Err(source) => return Err(ClientSendError::NoSession { message, source }),
            };
            message = match session.send(message).await {
                Ok(sent) => return Ok(sent),
                Err(SendError::Closed {
                    message: Some(returned),
                    ..
                }) if self.0.resend => returned,
                Err(SendError::Finished(returned)) if self.0.resend => {
                    // The session can be picked again until its end is flushed.
                    let _ = session.flush().await;
                    returned
                }
                Err(error) => return Err(ClientSendError::Session(error)),
            };
        }
    }

    /// Returns the open sessions, in the order in which they were opened.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session<Out>> {
        self.0.pool.sessions()
    }

    /// Returns the number of abandoned requests whose responses are outstanding, on all open
    /// sessions.
    pub(crate) fn abandoned_requests(&self) -> usize {
        self.0.pool.abandoned_requests()
    }

    /// Returns `true` if a session is open. A balancer can use this as the health of the server.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.pool.is_open()
    }

    /// Returns the current state of the client.
    #[must_use]
    pub fn state(&self) -> ClientState {
        self.watch().state()
    }

    /// Returns a watch for changes of the state from now on.
    #[must_use]
    pub fn watch(&self) -> StateWatch {
        let mut states = self.0.states.clone();
        states.mark_unchanged();
        StateWatch::new(states)
    }

    /// Stops the client. Does not wait, and has no effect the second time.
    ///
    /// A dial or a pause ends at once. Sessions close with the reason
    /// [`CloseReason::Local`](crate::CloseReason::Local): when their handlers have finished and
    /// queued messages are sent, or at the [drain deadline](ClientBuilder::with_drain_deadline). No
    /// session is offered any more.
    pub fn stop(&self) {
        self.0.pool.close();
        self.0.stop.cancel();
    }

    /// Waits until the client has ended and its tasks are gone. A client ends after a
    /// [`stop`](Self::stop) or because it gave up. [`state`](Self::state) then returns which. A
    /// handler of one of its sessions must not await this, because the close waits for the handler.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped at any time without an effect.
    pub async fn stopped(&self) {
        self.0.done.cancelled().await;
    }
}

impl<Out> Clone for Client<Out> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<Out> fmt::Debug for Client<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("state", &self.state())
            .field("sessions", &self.0.pool.sessions().len())
            .finish_non_exhaustive()
    }
}
