//! Connecting: one connection through the same stack that a server uses.

use std::{
    error::Error,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use futures_util::TryFutureExt;
use getty_core::{
    CloseReason, Closed, Connection, ConnectionHandle, HasSession, Session,
    driver::{Contained, defer_refusal, end_refusal},
};
use pin_project_lite::pin_project;
use tokio::task::{JoinHandle, coop};
use tokio_util::task::{AbortOnDropHandle, TaskTracker, task_tracker::TaskTrackerToken};
use tower::{BoxError, Layer, Service};

use crate::{pipeline::Pipeline, session::NotOpened};

/// Connects to `target` and runs the connection through a stack on a task of its own. Resolves once the session is open.
///
/// `build` makes the stack around the `link` that it is given: a layer to be placed between `CodecLayer` and
/// `SessionLayer`, where it hands out the typed session. The session is what one sends with; the [`SessionTask`] tells
/// how it ended, and may be dropped. When the session ends that is all; a [`Client`](crate::Client) opens the next.
///
/// The connector has a deadline of its own. What the stack does before the session is open, such as a handshake, has
/// that of a [`HandshakeTimeoutLayer`](crate::layers::HandshakeTimeoutLayer), if it has one.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec, net};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let (listener, connector) = net::memory(1024);
/// # let echo = ServiceBuilder::new()
/// #     .layer(CodecLayer::new(codec::Lines::new()))
/// #     .layer(SessionLayer::new())
/// #     .service_fn(|request: Request<String>| async move { Ok::<_, BoxError>(request.into_message()) });
/// # tokio::spawn(async move { getty::serve(listener, echo).await });
/// let (answers, mut answer) = tokio::sync::mpsc::channel(1);
/// let (session, task) = getty::connect(connector, (), |link| {
///     ServiceBuilder::new()
///         .layer(CodecLayer::new(codec::Lines::new()))
///         .layer(link)
///         .layer(SessionLayer::new())
///         .service_fn(move |request: Request<String>| {
///             let answers = answers.clone();
///             async move {
///                 answers.send(request.into_message()).await?;
///                 Ok::<_, BoxError>(None)
///             }
///         })
/// })
/// .await?;
///
/// session.send("hello".to_owned()).await?;
/// assert_eq!(answer.recv().await.as_deref(), Some("hello"));
/// session.close();
/// assert_eq!(task.await?.reason, getty::CloseReason::Local);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OpenError::Connect`] when the connector fails, [`OpenError::Open`] when the stack does before the session is open,
/// and [`OpenError::NoLink`] when the stack leaves the link out.
///
/// # Cancel safety
///
/// Dropped while it connects, nothing is left of it. Dropped later, the connection is ended.
pub async fn connect<C, A, T, Out, B, S>(
    connector: C,
    target: A,
    build: B,
) -> Result<(Session<Out>, SessionTask), OpenError>
where
    C: Service<A, Response = Connection<T>>,
    C::Error: Into<BoxError>,
    B: FnOnce(LinkLayer<Out>) -> S,
    S: Pipeline<T>,
{
    let (session, task) = open(connector, target, build, &TaskTracker::new()).await?;
    Ok((session, SessionTask(task.detach())))
}

/// A session's task, which ends with this.
pub(crate) type OwnedTask = AbortOnDropHandle<Result<Closed, BoxError>>;

/// As [`connect`], but the session lasts no longer than its task's handle. Aborted, a task ends when its thread comes to
/// it: `tasks` tells when that is.
pub(crate) async fn open<C, A, T, Out, B, S>(
    connector: C,
    target: A,
    build: B,
    tasks: &TaskTracker,
) -> Result<(Session<Out>, OwnedTask), OpenError>
where
    C: Service<A, Response = Connection<T>>,
    C::Error: Into<BoxError>,
    B: FnOnce(LinkLayer<Out>) -> S,
    S: Pipeline<T>,
{
    // dropped in separate catches: a dial that is given up drops them together
    let (mut connector, target) = (Contained::new(connector), Contained::new(target));
    let build = Contained::new(build);
    let connection = async {
        poll_fn(|cx| connector.poll_ready(cx)).await?;
        let connecting = connector.call(target.into_inner());
        drop(connector);
        Contained::new(connecting).await
    };
    let connection = connection
        .await
        .map_err(|error: C::Error| OpenError::Connect(error.into()))?;
    let handle = connection.handle().clone();
    let link = LinkLayer {
        session: Arc::new(OnceLock::new()),
    };
    let session = Arc::clone(&link.session);
    let mut stack = Contained::new(build.into_inner()(link));
    coop::unconstrained(poll_fn(|cx| stack.poll_ready(cx)))
        .await
        .map_err(|error| OpenError::Open(error.into()))?;
    let end = End {
        handle: handle.clone(),
        tasks: Some(tasks.token()),
        opened: false,
    };
    defer_refusal(&handle);
    let future = stack.call(connection).err_into();
    let life = Life { future, end };
    // gives back what it reserved and did not use
    drop(stack);
    let task = AbortOnDropHandle::new(tokio::spawn(life));

    if !handle.opened().await {
        return Err(OpenError::Open(match task.await {
            Ok(Err(error)) => error,
            Ok(Ok(closed)) => NotOpened::from(closed).into(),
            Err(error) => error.into(),
        }));
    }
    match session.get() {
        Some(session) => Ok((session.clone(), task)),
        None => Err(OpenError::NoLink),
    }
}

pin_project! {
    #[project = LifeProjected]
    /// The life of a connection, which ends with the stack's future.
    struct Life<F> {
        #[pin]
        future: F,
        // after the future: a connection has ended when its stack is gone
        end: End,
    }
}

/// Ends a connection that has not ended with the stack's future.
struct End {
    handle: ConnectionHandle,
    /// Taken when the connection has outlived the future.
    tasks: Option<TaskTrackerToken>,
    /// The session has opened, or will not.
    opened: bool,
}

impl<F> Future for Life<F>
where
    F: Future<Output = Result<Closed, BoxError>>,
{
    type Output = Result<Closed, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let LifeProjected { future, end } = self.project();
        let handle = &end.handle;
        if !end.opened {
            defer_refusal(handle);
        }
        match future.poll(cx) {
            Poll::Pending => {
                if !end.opened {
                    end_refusal(handle, None);
                    end.opened = handle.is_open() || handle.is_closed();
                }
                Poll::Pending
            }
            Poll::Ready(Ok(closed)) => Poll::Ready(Ok(closed)),
            Poll::Ready(Err(error)) => {
                // the error itself is returned to the caller; the record has its text
                end_refusal(
                    handle,
                    Some(Box::<dyn Error + Send + Sync>::from(error.to_string()).into()),
                );
                Poll::Ready(Err(error))
            }
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Self { handle, tasks, .. } = self;
        if handle.is_closed() {
            return;
        }
        end_refusal(handle, None);
        if !handle.is_closed() {
            // a layer has moved it to another task
            handle.close_with(CloseReason::Dropped);
            let tasks = tasks.take();
            handle.add_close_callback("getty::connect", "end", move |_| drop(tasks));
        }
    }
}

/// The end of a session that [`connect`] opened: resolves to how it ended. Dropped, the session goes on.
#[must_use = "a session's end is worth knowing, or drop this on purpose"]
#[derive(Debug)]
pub struct SessionTask(JoinHandle<Result<Closed, BoxError>>);

impl SessionTask {
    /// Ends the session at once, as [`CloseReason::Dropped`](crate::CloseReason::Dropped).
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl Future for SessionTask {
    type Output = Result<Closed, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(ended) => ended,
            Err(error) => Err(error.into()),
        })
    }
}

/// Hands a connection's typed session out of its stack: what [`connect`] gives its closure.
///
/// It stands between `CodecLayer` and `SessionLayer`. Ready, call, drop and close are the inner service's.
pub struct LinkLayer<Out> {
    session: Arc<OnceLock<Session<Out>>>,
}

impl<Out> Clone for LinkLayer<Out> {
    fn clone(&self) -> Self {
        Self {
            session: Arc::clone(&self.session),
        }
    }
}

impl<Out> fmt::Debug for LinkLayer<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkLayer").finish_non_exhaustive()
    }
}

impl<S, Out> Layer<S> for LinkLayer<Out> {
    type Service = Link<S, Out>;

    fn layer(&self, inner: S) -> Self::Service {
        Link {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`LinkLayer`] makes.
#[derive(Debug)]
pub struct Link<S, Out> {
    inner: S,
    layer: LinkLayer<Out>,
}

impl<S: Clone, Out> Clone for Link<S, Out> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S, Out> Link<S, Out> {
    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, Out, T> Service<Connection<T>> for Link<S, Out>
where
    T: HasSession<Out = Out>,
    S: Service<Connection<T>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> S::Future {
        // a stack is called once for each `connect`, so that nothing is there yet
        let _ = self
            .layer
            .session
            .set(connection.transport().session().clone());
        self.inner.call(connection)
    }
}

/// Why [`connect`] has no session to give.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The connector failed; nothing was connected.
    Connect(BoxError),
    /// The stack failed before the session was open. Where it closed the connection the error is a
    /// [`NotOpened`], whose source is the cause: an open hook's error, say.
    Open(BoxError),
    /// The stack does not contain the link that it was given.
    NoLink,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect(_) => "connecting failed",
            Self::Open(_) => "the session did not open",
            Self::NoLink => "the stack does not contain the link layer that it was given",
        })
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Connect(source) | Self::Open(source) => Some(&**source),
            Self::NoLink => None,
        }
    }
}
