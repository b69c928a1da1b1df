//! Builder of a client.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use getty_core::{Session, hooks::Contained};
use tower::BoxError;

use super::{Backoff, Client, Decision, Ended, Pick};
use crate::{
    LinkLayer,
    connect::{Connector, open},
    pipeline::Pipeline,
};

pub(super) type Hook<Out> =
    Arc<dyn Fn(Session<Out>) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

type RetryPolicy = Box<dyn FnMut(&Ended) -> Decision + Send>;

/// Builder of a [`Client`], created by [`Client::builder`].
///
/// | setting | default |
/// |---|---|
/// | [sessions](Self::with_sessions) | 1 |
/// | [pauses between dials](Self::with_backoff) | 300 ms, growing by 2 to 30 s, full jitter |
/// | [consecutive failed attempts](Self::with_max_attempts) | no limit |
/// | [time of an attempt] | 10 s; the connector has a separate limit of 3 s |
/// | [retry policy](Self::with_retry_policy) | dial again after every end |
/// | [hooks](Self::with_hook) | none |
/// | [choice of the session](Self::with_pick) | each in turn |
/// | [messages that a session did not send](Self::with_resend) | returned in the error |
/// | [drain deadline](Self::with_drain_deadline) | 5 s |
///
/// [time of an attempt]: Self::with_attempt_timeout
#[must_use = "nothing is dialed before `connect`"]
pub struct ClientBuilder<Out>(pub(super) Settings<Out>);

pub(super) struct Settings<Out> {
    pub(super) sessions: usize,
    pub(super) backoff: Backoff,
    pub(super) max_attempts: u32,
    pub(super) attempt_timeout: Duration,
    pub(super) retry_policy: Contained<RetryPolicy>,
    pub(super) hooks: Vec<Hook<Out>>,
    pub(super) pick: Pick<Out>,
    pub(super) resend: bool,
    pub(super) drain_deadline: Duration,
}

impl<Out: Send + 'static> ClientBuilder<Out> {
    pub(super) fn new() -> Self {
        Self(Settings {
            sessions: 1,
            backoff: Backoff::default(),
            max_attempts: u32::MAX,
            attempt_timeout: Duration::from_secs(10),
            retry_policy: Contained::new(Box::new(|_| Decision::Retry)),
            hooks: Vec::new(),
            pick: Pick::round_robin(),
            resend: false,
            drain_deadline: Duration::from_secs(5),
        })
    }

    /// Sets the number of sessions to keep open. The default and the minimum are 1.
    ///
    /// Sessions are opened one after another, with one pause between dials for all. A large pool
    /// therefore dials an unavailable server no more often than a small one.
    pub fn with_sessions(mut self, sessions: usize) -> Self {
        self.0.sessions = sessions.max(1);
        self
    }

    /// Sets the pauses between dials. The default is [`Backoff::default`].
    pub const fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.0.backoff = backoff;
        self
    }

    /// Sets the number of consecutive failed attempts after which the client gives up with
    /// [`Failure::Attempts`](super::Failure::Attempts). The minimum is 1. By default the client
    /// never gives up.
    ///
    /// A session that closes before the [reset time](Backoff::with_reset_after) is a failed
    /// attempt. The client does not give up while another session is open.
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.0.max_attempts = attempts.max(1);
        self
    }

    /// Sets the time that an attempt may take, from the dial to the end of the last hook. The
    /// default is 10 s.
    pub const fn with_attempt_timeout(mut self, limit: Duration) -> Self {
        self.0.attempt_timeout = limit;
        self
    }

    /// Sets the policy that decides whether the client continues. It is called after each failed
    /// attempt and each end of a session, and it must not block. The default is always
    /// [`Decision::Retry`], also after an orderly end by the peer.
    ///
    /// ```
    /// # use getty::Client;
    /// use getty::CloseReason;
    /// use getty::client::{Decision, Ended};
    ///
    /// # fn builder<Out: Send + 'static>() -> getty::client::ClientBuilder<Out> {
    /// Client::builder().with_retry_policy(|ended| match ended {
    ///     // "policy violation" of a WebSocket server: do not reconnect
    ///     Ended::Closed(closed) => match closed.reason {
    ///         CloseReason::Protocol { code: 1008, .. } => Decision::Stop,
    ///         _ => Decision::Retry,
    ///     },
    ///     _ => Decision::Retry,
    /// })
    /// # }
    /// ```
    pub fn with_retry_policy(
        mut self,
        policy: impl FnMut(&Ended) -> Decision + Send + 'static,
    ) -> Self {
        self.0.retry_policy = Contained::new(Box::new(policy));
        self
    }

    /// Adds a hook that runs on each new session before the session is offered, for example to log
    /// in or to subscribe.
    ///
    /// Several hooks run in the order in which they were added. An error closes the session, counts
    /// as a failed attempt, and skips the later hooks. The hook's future is dropped when the
    /// session closes, when the [time of the attempt](Self::with_attempt_timeout) is over, or when
    /// the client stops.
    ///
    /// The session reads and calls its handler during the hook, so a hook can wait for a response.
    /// With a [`CorrelateLayer`](crate::layers::CorrelateLayer) in the stack it can use
    /// [`Session::request`]. Without one, an attribute of the session can pass the response from
    /// the handler to the hook:
    ///
    /// ```
    /// use getty::{
    ///     BoxError, Client, CodecLayer, Request, ServiceBuilder, Session,
    ///     SessionLayer, codec, net,
    /// };
    /// use tokio::sync::oneshot;
    ///
    /// /// Receiver of the response to a login.
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
    ///             other => Err(BoxError::from(format!("login refused: {other}"))),
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
    // (design.md: Why does a client have hooks beside `OnOpenLayer`?)
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

    /// Sets the choice of the session for [`Client::pick`] and [`Client::send`]. The default is
    /// [`Pick::round_robin`].
    pub fn with_pick(mut self, pick: Pick<Out>) -> Self {
        self.0.pick = pick;
        self
    }

    /// Sets whether [`Client::send`] resends a message that was still queued when its session
    /// ended. With `false` the error returns the message. This is the default. With `true` the next
    /// session sends it, possibly after later messages. A message is never resent once one of its
    /// bytes was passed to a transport.
    pub const fn with_resend(mut self, resend: bool) -> Self {
        self.0.resend = resend;
        self
    }

    /// Sets the time that sessions may take to finish after the client stops. It replaces the drain
    /// deadline of each session. The default is 5 s.
    pub const fn with_drain_deadline(mut self, deadline: Duration) -> Self {
        self.0.drain_deadline = deadline;
        self
    }

    /// Starts the client on a new task. The arguments are those of [`connect`](crate::connect()).
    /// Each attempt uses a clone of `connector`, and calls `build` for its connection.
    ///
    /// # Panics
    ///
    /// Panics if it is called outside of a tokio runtime.
    pub fn connect<C, A, B, S>(self, connector: C, target: A, build: B) -> Client<Out>
    where
        C: Connector<A, Future: Send, Io: Send + 'static> + Clone + Send + 'static,
        A: Clone + Send + 'static,
        B: Fn(LinkLayer<Out>) -> S + Send + Sync + 'static,
        S: Pipeline<C::Io>,
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
            .field("resend", &self.0.resend)
            .field("drain_deadline", &self.0.drain_deadline)
            .finish_non_exhaustive()
    }
}
