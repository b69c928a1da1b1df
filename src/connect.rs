//! Client side of one connection, through the same kind of stack that a server uses.

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
    hooks::{Contained, defer_refusal, end_refusal},
};
use pin_project_lite::pin_project;
use tokio::task::{JoinHandle, coop};
use tokio_util::task::{AbortOnDropHandle, TaskTracker, task_tracker::TaskTrackerToken};
use tower::{BoxError, Layer, Service};

use crate::{pipeline::Pipeline, session::NotOpened};

/// Service that connects to a target `A` and returns a connection over the transport `Io`.
///
/// It is an alias. It is implemented by every `Service<A, Response = Connection<Io>>` whose
/// error can be boxed. The connectors in [`net`](crate::net) are such services.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connector for targets `{A}`",
    label = "a connector is a `Service<{A}>` whose response is a `Connection`"
)]
pub trait Connector<A>:
    Service<A, Response = Connection<<Self as Connector<A>>::Io>, Error: Into<BoxError>>
{
    /// Transport of the connections.
    type Io;
}

impl<C, A, Io> Connector<A> for C
where
    C: Service<A, Response = Connection<Io>, Error: Into<BoxError>>,
{
    type Io = Io;
}

/// Connects to `target` and runs the connection through a stack on a new task. Resolves when
/// the session is open.
///
/// `build` creates the stack around the `link` that it receives. The link is a layer that must
/// be placed between `CodecLayer` and `SessionLayer`, where it hands out the typed session.
/// Messages are sent with that session. The [`SessionTask`] resolves when the session ends;
/// dropping it does not end the session. This function opens one session; a
/// [`Client`](crate::Client) opens the next one when a session ends.
///
/// The connector applies a deadline to the dial. A handshake or another step of the stack
/// before the session is open needs a
/// [`HandshakeTimeoutLayer`](crate::layers::HandshakeTimeoutLayer) to have one.
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
/// Returns [`OpenError::Connect`] if the connector fails, [`OpenError::Open`] if the stack
/// fails before the session is open, and [`OpenError::NoLink`] if the stack does not contain
/// the link.
///
/// # Cancel safety
///
/// If the future is dropped while it connects, the dial is cancelled. If it is dropped later,
/// the connection is ended.
pub async fn connect<C, A, Out, B, S>(
    connector: C,
    target: A,
    build: B,
) -> Result<(Session<Out>, SessionTask), OpenError>
where
    C: Connector<A>,
    B: FnOnce(LinkLayer<Out>) -> S,
    S: Pipeline<C::Io>,
{
    let (session, task) = open(connector, target, build, &TaskTracker::new()).await?;
    Ok((session, SessionTask(task.detach())))
}

/// Task of a session. Dropping it aborts the task.
pub(crate) type OwnedTask = AbortOnDropHandle<Result<Closed, BoxError>>;

/// Connects as [`connect`] does, but the session ends when the task's handle is dropped. An
/// aborted task ends only when the runtime polls it next; `tasks` can be awaited for that.
pub(crate) async fn open<C, A, Out, B, S>(
    connector: C,
    target: A,
    build: B,
    tasks: &TaskTracker,
) -> Result<(Session<Out>, OwnedTask), OpenError>
where
    C: Connector<A>,
    B: FnOnce(LinkLayer<Out>) -> S,
    S: Pipeline<C::Io>,
{
    // A dial that is given up drops these together, so each is in a separate catch (design.md: Why
    // is each value of the application dropped inside a separate catch?).
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
    // This drop returns the permits that the stack reserved and did not use.
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
    /// Task of a connection, which ends with the stack's future.
    struct Life<F> {
        #[pin]
        future: F,
        // Must be declared after the future: a connection has ended when its stack is dropped.
        end: End,
    }
}

/// Guard that closes a connection which did not end with the stack's future.
struct End {
    handle: ConnectionHandle,
    /// Taken if the connection outlives the future.
    tasks: Option<TaskTrackerToken>,
    /// The session has opened or will never open.
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
                // The caller receives the error. So the record can only have its text.
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
            // A layer moved the connection to another task (design.md: What if a layer moves a
            // connection's future to another task?).
            handle.close_with(CloseReason::Dropped);
            let tasks = tasks.take();
            handle.add_close_callback("getty::connect", "end", move |_| drop(tasks));
        }
    }
}

/// Handle of a session that [`connect`] opened. It resolves to the [`Closed`] record of the
/// session.
///
/// Dropping it detaches the session, which continues.
#[must_use = "await it to learn how the session ended, or drop it to detach the session"]
#[derive(Debug)]
pub struct SessionTask(JoinHandle<Result<Closed, BoxError>>);

impl SessionTask {
    /// Ends the session at once, with the reason
    /// [`CloseReason::Dropped`](crate::CloseReason::Dropped).
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

/// Layer that hands the typed session out of a stack. [`connect`] passes it to its closure.
///
/// It must be between `CodecLayer` and `SessionLayer`. Ready, call, drop and close are those of
/// the inner service. Scope: connection.
// (design.md: Why does `connect` pass a link to the closure that builds the stack?)
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

/// Service created by [`LinkLayer`].
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
    getty_core::inner_service_accessors!();
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
        // `connect` calls a stack once, so the cell is empty.
        let _ = self
            .layer
            .session
            .set(connection.transport().session().clone());
        self.inner.call(connection)
    }
}

/// Error of [`connect`].
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The connector failed, so there is no connection. Retry or try another target.
    Connect(BoxError),
    /// The stack failed before the session was open. If it closed the connection, the error is a
    /// [`NotOpened`], whose source is the cause, such as an error of an open hook.
    Open(BoxError),
    /// The stack does not contain the link, which is an error in the closure.
    NoLink,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect(_) => "connecting failed",
            Self::Open(_) => "the session did not open",
            Self::NoLink => "the stack does not contain the link layer",
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
