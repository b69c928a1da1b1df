//! A client that keeps one session, or a pool of them, open for as long as it lives.
//!
//! [`connect`](crate::connect()) opens one session, and when it ends that is all. A [`Client`] opens the next: after a
//! pause that grows while the server is away, through the same connector and the same kind of stack, with hooks that log
//! in again before anybody gets the session.
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
//! // whatever ends the session, there is another one
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
//! # What happens when
//!
//! - One attempt is made at a time, for all sessions of a pool. An attempt is the dial, the stack up to the opened
//!   session, and the [hooks](ClientBuilder::with_hook). The connector resolves names each time.
//! - An attempt that fails is followed by a pause, which the [`Backoff`] says; so is the end of a session, whatever its
//!   reason, the peer's orderly end included. A session that was open for a while puts the pauses back to the first; one
//!   that was not is a failed attempt.
//! - A session is replaced once its close is complete, so that there are never more than were asked for; it is not
//!   given out any more from the moment that the close begins.
//! - Messages are sent by [`Client::send`], or by the session that [`Client::session`] waits for. For requests with an
//!   answer there is [`Session::request`], and for tower's middleware around them a client of [`call`](crate::call).
//! - What a client's own stack is to notice, such as a server that hangs, its layers have to:
//!   [`HeartbeatLayer`](crate::layers::HeartbeatLayer) and [`IdleTimeoutLayer`](crate::layers::IdleTimeoutLayer) work on
//!   this side as on the other. A session that they close is replaced.
//! - [`Client::stop`], or dropping the last clone of the client, ends it in whatever it is doing: a dial or a pause at
//!   once, sessions gracefully.

mod attempts;
mod backoff;
mod builder;
mod ended;
mod members;
mod pool;
mod state;
mod supervisor;

use std::{fmt, sync::Arc};

use getty_core::{Connection, SendError, Sent, Session};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::{BoxError, Service};

pub use self::{
    backoff::Backoff,
    builder::ClientBuilder,
    ended::{ClientSendError, Decision, Ended, Failure, NoSession},
    pool::Pick,
    state::{State, StateWatch},
};
use self::{
    builder::Settings,
    pool::Pool,
    supervisor::{Dial, Supervisor},
};
use crate::{LinkLayer, pipeline::Pipeline};

/// Keeps one session, or a pool of them, open; see the [module](self).
///
/// Clonable, `Send + Sync`; clones are handles of the same client. When the last one is dropped the client stops, as by
/// [`stop`](Self::stop). A hook or a handler that keeps one therefore keeps the client alive.
pub struct Client<Out>(Arc<Handle<Out>>);

struct Handle<Out> {
    pool: Arc<Pool<Out>>,
    states: watch::Receiver<State>,
    stop: CancellationToken,
    done: CancellationToken,
    reoffer: bool,
    /// Dropped with the last clone.
    _stop: DropGuard,
}

impl<Out: Send + 'static> Client<Out> {
    /// A client with the defaults, which [`ClientBuilder`] lists: it keeps one session open, for ever. `connector`,
    /// `target` and `build` are [`connect`](crate::connect())'s; `build` is called anew for each connection.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new<C, A, T, B, S>(connector: C, target: A, build: B) -> Self
    where
        C: Service<A, Response = Connection<T>> + Clone + Send + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send,
        A: Clone + Send + 'static,
        T: Send + 'static,
        B: Fn(LinkLayer<Out>) -> S + Send + Sync + 'static,
        S: Pipeline<T>,
    {
        Self::builder().connect(connector, target, build)
    }

    /// The settings of a client that is yet to be.
    pub fn builder() -> ClientBuilder<Out> {
        ClientBuilder::new()
    }

    fn start(settings: Settings<Out>, dial: Dial<Out>) -> Self {
        let pool = Arc::new(Pool::new(settings.pick.clone()));
        let (sender, states) = watch::channel(State::Connecting);
        let (stop, done) = (CancellationToken::new(), CancellationToken::new());
        let handle = Handle {
            pool: Arc::clone(&pool),
            states,
            stop: stop.clone(),
            done: done.clone(),
            reoffer: settings.reoffer,
            _stop: stop.clone().drop_guard(),
        };
        let supervisor = Supervisor::new(settings, dial, pool, sender, stop, done.drop_guard());
        tokio::spawn(supervisor.run());
        Self(Arc::new(handle))
    }
}

impl<Out> Client<Out> {
    /// An open session, at once: the one that the [`Pick`] says. `None` while none is open.
    #[must_use]
    pub fn pick(&self) -> Option<Session<Out>> {
        self.0.pool.pick()
    }

    /// An open session, as soon as there is one. While the server is away that may take for ever, for a client does not give
    /// up unless it [is told to](ClientBuilder::with_max_attempts): tokio's `timeout` around it bounds the wait, as it does
    /// around [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// [`NoSession`] when the client is stopped or has given up.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, it leaves nothing behind.
    pub async fn session(&self) -> Result<Session<Out>, NoSession> {
        if let Some(session) = self.pick() {
            return Ok(session);
        }
        let mut states = self.0.states.clone();
        loop {
            // before the look at the pool, so that what is offered after it wakes us
            let state = states.borrow_and_update().clone();
            match state {
                State::Failed(why) => return Err(NoSession::Failed(why)),
                State::Stopped => return Err(NoSession::Stopped),
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

    /// Sends `message` by an open session, for which it waits, and waits until it has left: see [`Session::send`].
    ///
    /// Should the session close while the message is still queued, it is handed back, or given to the next session, as
    /// [`with_reoffer`](ClientBuilder::with_reoffer) says. A message is never sent twice: of what a transport was given
    /// any byte, nobody knows whether it has arrived, and that is what the error then says.
    ///
    /// # Errors
    ///
    /// [`ClientSendError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before a session has queued the message, it sends nothing. Dropped later, the message is sent, unless the
    /// session closes first.
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
                    message: Some(untaken),
                    ..
                }) if self.0.reoffer => untaken,
                Err(SendError::Finished(untaken)) if self.0.reoffer => {
                    // until its end has left it is picked again at once
                    let _ = session.flush().await;
                    untaken
                }
                Err(error) => return Err(ClientSendError::Session(error)),
            };
        }
    }

    /// The sessions that are open now, in the order in which they were opened.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session<Out>> {
        self.0.pool.sessions()
    }

    /// Returns the number of requests that were given up and whose answers are outstanding, on all
    /// open sessions.
    pub(crate) fn given_up_requests(&self) -> usize {
        self.0.pool.given_up_requests()
    }

    /// Whether a session is open now. To a balancer, this is whether the server can be used.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.pool.is_open()
    }

    /// What the client is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.watch().state()
    }

    /// Watches what the client is doing, from now on.
    #[must_use]
    pub fn watch(&self) -> StateWatch {
        let mut states = self.0.states.clone();
        states.mark_unchanged();
        StateWatch::new(states)
    }

    /// Asks the client to stop: a dial or a pause ends at once, and the sessions close, as
    /// [`CloseReason::Local`](crate::CloseReason::Local), once their handlers are done and what is queued has left, or
    /// the [drain deadline](ClientBuilder::with_drain_deadline) is over. No session is given out any more. Idempotent,
    /// never waits.
    pub fn stop(&self) {
        self.0.pool.close();
        self.0.stop.cancel();
    }

    /// Resolves when the client has ended and nothing of it is left, after a [`stop`](Self::stop) or because it has
    /// given up; [`state`](Self::state) tells which. A handler of one of its sessions must not await this, for the close
    /// waits for the handler.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
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
