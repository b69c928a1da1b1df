//! A client's settings.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use getty_core::{Connection, Session, driver::Contained};
use tower::{BoxError, Service};

use super::{Backoff, Client, Decision, Ended, Pick};
use crate::{LinkLayer, connect::open, pipeline::Pipeline};

pub(super) type Hook<Out> =
    Arc<dyn Fn(Session<Out>) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

type Decide = Box<dyn FnMut(&Ended) -> Decision + Send>;

/// What a [`Client`] is to be like; made by [`Client::builder`].
///
/// | setting | default |
/// |---|---|
/// | [sessions](Self::with_sessions) | 1 |
/// | [pauses between dials](Self::with_backoff) | 300 ms, growing by 2 to 30 s, full jitter |
/// | [attempts in a row](Self::with_max_attempts) | for ever |
/// | [time for an attempt](Self::with_attempt_timeout) | 10 s; a connector has its own limit as well, of 3 s |
/// | [after every kind of end](Self::with_decision) | dial again |
/// | [hooks](Self::with_hook) | none |
/// | [which session](Self::with_pick) | each in turn |
/// | [messages that a session did not take](Self::with_reoffer) | fail |
/// | [drain deadline](Self::with_drain_deadline) | 5 s |
#[must_use = "nothing is dialled before `connect`"]
pub struct ClientBuilder<Out>(pub(super) Settings<Out>);

pub(super) struct Settings<Out> {
    pub(super) sessions: usize,
    pub(super) backoff: Backoff,
    pub(super) max_attempts: u32,
    pub(super) attempt_timeout: Duration,
    pub(super) decision: Contained<Decide>,
    pub(super) hooks: Vec<Hook<Out>>,
    pub(super) pick: Pick<Out>,
    pub(super) reoffer: bool,
    pub(super) drain_deadline: Duration,
}

impl<Out: Send + 'static> ClientBuilder<Out> {
    pub(super) fn new() -> Self {
        Self(Settings {
            sessions: 1,
            backoff: Backoff::default(),
            max_attempts: u32::MAX,
            attempt_timeout: Duration::from_secs(10),
            decision: Contained::new(Box::new(|_| Decision::Retry)),
            hooks: Vec::new(),
            pick: Pick::round_robin(),
            reoffer: false,
            drain_deadline: Duration::from_secs(5),
        })
    }

    /// How many sessions to keep open: at least 1. They are opened one after another, and there is one pause between
    /// dials for all of them, so that a server that is down is dialled no more often by a large pool than by a small
    /// one. Default: 1.
    pub fn with_sessions(mut self, sessions: usize) -> Self {
        self.0.sessions = sessions.max(1);
        self
    }

    /// The pauses between dials. Default: [`Backoff::default`].
    pub const fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.0.backoff = backoff;
        self
    }

    /// Gives up, with [`Failure::Attempts`](super::Failure::Attempts), when so many attempts in a row have failed: at
    /// least 1. A session that closes before it was open for long enough to be
    /// [settled](Backoff::with_settled_after) is a failed attempt. As long as another session is open, the client does
    /// not give up. Default: never.
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.0.max_attempts = attempts.max(1);
        self
    }

    /// How long an attempt may take, from the dial to the end of the last hook. Default: 10 s.
    pub const fn with_attempt_timeout(mut self, limit: Duration) -> Self {
        self.0.attempt_timeout = limit;
        self
    }

    /// Decides, after each failed attempt and each session's end, whether to go on. It must not block. Default: always
    /// [`Decision::Retry`], also when the peer ends the session in good order.
    ///
    /// ```
    /// # use getty::Client;
    /// use getty::CloseReason;
    /// use getty::client::{Decision, Ended};
    ///
    /// # fn with_decision<Out: Send + 'static>() -> getty::client::ClientBuilder<Out> {
    /// Client::builder().with_decision(|ended| match ended {
    ///     // a WebSocket server's "policy violation": it does not want us
    ///     Ended::Closed(closed) => match closed.reason {
    ///         CloseReason::Protocol { code: 1008, .. } => Decision::Stop,
    ///         _ => Decision::Retry,
    ///     },
    ///     _ => Decision::Retry,
    /// })
    /// # }
    /// ```
    pub fn with_decision(
        mut self,
        decision: impl FnMut(&Ended) -> Decision + Send + 'static,
    ) -> Self {
        self.0.decision = Contained::new(Box::new(decision));
        self
    }

    /// Runs `hook` on each new session before it is offered: to log in, to subscribe again. Several run one after
    /// another, in the order in which they were added. An error closes the session and counts as a failed attempt, and
    /// the hooks after it do not run. It is dropped when the session closes, when the attempt has used up its
    /// [time](Self::with_attempt_timeout), and when the client stops.
    ///
    /// The session reads and calls its handler meanwhile, so that a hook may wait for an answer. With a
    /// [`CorrelateLayer`](crate::layers::CorrelateLayer) in the stack that is [`Session::request`]. Without one only the hook
    /// knows that it waits, and an attribute of the session tells the handler:
    ///
    /// ```
    /// use getty::{BoxError, Client, CodecLayer, Request, ServiceBuilder, Session, SessionLayer, codec, net};
    /// use tokio::sync::oneshot;
    ///
    /// /// Where the answer to a login goes.
    /// struct Login(oneshot::Sender<String>);
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// # let (listener, connector) = net::memory(1024);
    /// # let server = ServiceBuilder::new()
    /// #     .layer(CodecLayer::new(codec::Lines::new()))
    /// #     .layer(SessionLayer::new())
    /// #     .service_fn(|_: Request<String>| async { Ok::<_, BoxError>("welcome".to_owned()) });
    /// # tokio::spawn(async move { getty::serve(listener, server).await });
    /// let client = Client::builder()
    ///     .with_hook(|session: Session<String>| async move {
    ///         let (login, answer) = oneshot::channel();
    ///         session.insert(Login(login));
    ///         session.send("LOGIN ada".to_owned()).await?;
    ///         match answer.await?.as_str() {
    ///             "welcome" => Ok(()),
    ///             other => Err(BoxError::from(format!("not let in: {other}"))),
    ///         }
    ///     })
    ///     .connect(connector, (), |link| {
    ///         ServiceBuilder::new()
    ///             .layer(CodecLayer::new(codec::Lines::new()))
    ///             .layer(link)
    ///             .layer(SessionLayer::new())
    ///             .service_fn(|request: Request<String>| async move {
    ///                 match request.session().remove::<Login>() {
    ///                     Some(Login(login)) => login.send(request.into_message())?,
    ///                     None => println!("{}", request.message()),
    ///                 }
    ///                 Ok::<Option<String>, BoxError>(None)
    ///             })
    ///     });
    /// assert!(client.session().await?.is_open());
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_hook<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: Fn(Session<Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let hook = Contained::new(hook);
        self.0.hooks.push(Arc::new(move |session| {
            hook(session).map(|done| done.map_err(Into::into)).boxed()
        }));
        self
    }

    /// Which of its sessions the client gives out. Default: [`Pick::round_robin`].
    pub fn with_pick(mut self, pick: Pick<Out>) -> Self {
        self.0.pick = pick;
        self
    }

    /// What becomes of a message of [`Client::send`] that was still queued when its session died: with `true` it is
    /// offered to the next session, with `false` it is handed back in the error. Either way, a message of which a byte
    /// was given to a transport is never sent again. A message that is offered again may be overtaken by later ones.
    /// Default: `false`.
    pub const fn with_reoffer(mut self, reoffer: bool) -> Self {
        self.0.reoffer = reoffer;
        self
    }

    /// How long the sessions may take to finish once the client stops, in place of their own drain deadline. Default:
    /// 5 s.
    pub const fn with_drain_deadline(mut self, deadline: Duration) -> Self {
        self.0.drain_deadline = deadline;
        self
    }

    /// Starts the client, on a task of its own. `connector`, `target` and `build` are [`connect`](crate::connect())'s;
    /// each attempt has a clone of the connector, and `build` is called anew for each connection.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn connect<C, A, T, B, S>(self, connector: C, target: A, build: B) -> Client<Out>
    where
        C: Service<A, Response = Connection<T>> + Clone + Send + 'static,
        C::Error: Into<BoxError>,
        C::Future: Send,
        A: Clone + Send + 'static,
        T: Send + 'static,
        B: Fn(LinkLayer<Out>) -> S + Send + Sync + 'static,
        S: Pipeline<T>,
    {
        let build = Arc::new(Contained::new(build));
        let (connector, target) = (Contained::new(connector), Contained::new(target));
        Client::start(
            self.0,
            Contained::new(Box::new(move |tasks| {
                let (connector, target) = (connector.clone(), target.clone());
                let (build, tasks) = (Arc::clone(&build), tasks.clone());
                async move {
                    let (connector, target) = (connector.into_inner(), target.into_inner());
                    open(connector, target, |link| build(link), &tasks).await
                }
                .boxed()
            })),
        )
    }
}

impl<Out> fmt::Debug for ClientBuilder<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("sessions", &self.0.sessions)
            .field("backoff", &self.0.backoff)
            .field("max_attempts", &self.0.max_attempts)
            .field("attempt_timeout", &self.0.attempt_timeout)
            .field("hooks", &self.0.hooks.len())
            .field("pick", &self.0.pick)
            .field("reoffer", &self.0.reoffer)
            .field("drain_deadline", &self.0.drain_deadline)
            .finish_non_exhaustive()
    }
}
