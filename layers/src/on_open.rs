//! Runs an async hook when a session opens, before anything is read from the peer.
//!
//! - *ready*: as the inner service.
//! - *call*: delays the opening of the session and calls the inner service. The hook starts
//!   when the connection's future is first polled, in the connection's own task, and is polled
//!   before the inner future. Meanwhile the session loop sends queued messages but reads
//!   nothing, so a hook may wait until its greeting is flushed. When the hook is complete, its
//!   memory is freed and the session opens.
//! - *an error of the hook* refuses the connection. It closes as [`CloseReason::Refused`], with
//!   the error as its source, after the messages of the hook are flushed. The pipeline's
//!   response is the [`Closed`](getty_core::Closed) with this reason. Under
//!   `SessionLayer::per_session` it is the error `NotOpened`, with the same reason and source.
//! - *a panic of the hook* closes the connection as [`CloseReason::Panicked`].
//! - *drop, close*: a hook that is not complete is dropped with the connection. Any close
//!   request ends it: a handshake timeout, a shutdown, or a reset by the peer when the hook
//!   sends something.
//!
//! Scope: session. It must be inside [`CodecLayer`](crate::CodecLayer), which creates the
//! session, and outside `SessionLayer`. Several hooks run concurrently and start from the
//! outermost inwards. The session opens when all hooks are complete.
//!
//! ```
//! use getty_core::{Connection, HasSession, driver::Driver};
//! use getty_layers::{CodecLayer, OnOpenLayer};
//! use tokio_util::codec::LinesCodec;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(CodecLayer::new(LinesCodec::new()))
//!     .layer(OnOpenLayer::new(|session| async move {
//!         session.insert("greeted");
//!         session.feed("220 welcome".to_owned()).await
//!     }))
//!     // in place of `SessionLayer`
//!     .service_fn(|connection: Connection<getty_core::SessionIo<(), _, String>>| async move {
//!         let session = connection.transport().session().clone();
//!         assert_eq!(session.get(), Some("greeted"));
//!         Ok::<_, BoxError>(session.queued())
//!     });
//! assert_eq!(stack.oneshot(Connection::new(())).await?, 1);
//! # Ok(())
//! # }
//! ```

use std::{
    any::type_name,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::{
    Close, CloseReason, Connection, HasSession, Session,
    hooks::{Contained, HandleExt, OpenGuard},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::util::hook::poll_hook;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs an async hook when a session opens; see the [module](self).
pub struct OnOpenLayer<Out, F> {
    hook: Contained<F>,
    out: PhantomData<fn(Out)>,
}

impl<Out, F> OnOpenLayer<Out, F> {
    /// Creates a new layer that calls `hook` with the session. The hook is cloned for each
    /// connection.
    // This bound on the closure makes its argument type inferable.
    pub const fn new<Fut, E>(hook: F) -> Self
    where
        F: Fn(Session<Out>) -> Fut + Clone,
        Fut: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        Self {
            hook: Contained::new(hook),
            out: PhantomData,
        }
    }
}

impl<Out, F: Clone> Clone for OnOpenLayer<Out, F> {
    fn clone(&self) -> Self {
        Self {
            hook: self.hook.clone(),
            out: PhantomData,
        }
    }
}

impl<Out, F> fmt::Debug for OnOpenLayer<Out, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnOpenLayer")
            .field("hook", &format_args!("{}", type_name::<F>()))
            .finish()
    }
}

impl<S, Out, F: Clone> Layer<S> for OnOpenLayer<Out, F> {
    type Service = OnOpen<S, Out, F>;

    fn layer(&self, inner: S) -> Self::Service {
        OnOpen {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`OnOpenLayer`].
pub struct OnOpen<S, Out, F> {
    inner: S,
    layer: OnOpenLayer<Out, F>,
}

impl<S, Out, F> OnOpen<S, Out, F> {
    getty_core::inner_service_accessors!();
}

impl<S: Clone, Out, F: Clone> Clone for OnOpen<S, Out, F> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            layer: self.layer.clone(),
        }
    }
}

impl<S: fmt::Debug, Out, F> fmt::Debug for OnOpen<S, Out, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnOpen")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

impl<S, T, F, Fut, E> Service<Connection<T>> for OnOpen<S, T::Out, F>
where
    T: HasSession,
    S: Service<Connection<T>>,
    F: Fn(Session<T::Out>) -> Fut + Clone,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, T::Out, F, Fut>;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let session = connection.transport().session().clone();
        let opening = Opening {
            _hold: session.delay_open(),
            session,
            hook: self.layer.hook.clone(),
            running: None,
        };
        ResponseFuture {
            inner: self.inner.call(connection),
            opening: Some(Box::pin(opening)),
        }
    }
}

pin_project! {
    /// Hook that is not complete. It is boxed, so that an idle session does not reserve memory for
    /// a large future of a hook.
    struct Opening<Out, F, Fut> {
        #[pin]
        running: Option<Contained<Fut>>,
        hook: Contained<F>,
        session: Session<Out>,
        // Declared last: its drop opens the session, after the hook was dropped (design.md: Why can
        // a layer delay the opening of a session?).
        _hold: OpenGuard,
    }
}

impl<Out, F, Fut, E> Opening<Out, F, Fut>
where
    F: Fn(Session<Out>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let (hook, session) = (this.hook, this.session);
        // A session that an outer layer has refused does not open, so its hook does not start.
        if this.running.is_none() && session.is_closing() {
            return Poll::Ready(());
        }
        let start = || hook(session.clone());
        if let Some(error) = ready!(poll_hook(this.running, start, session, cx)) {
            session.close_with(Close::new(CloseReason::Refused).with_source(error));
        }
        Poll::Ready(())
    }
}

pin_project! {
    /// Future of [`OnOpen`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, Out, H, Fut> {
        #[pin]
        inner: F,
        opening: Option<Pin<Box<Opening<Out, H, Fut>>>>,
    }
}

impl<F, Out, H, Fut, E> Future for ResponseFuture<F, Out, H, Fut>
where
    F: Future,
    H: Fn(Session<Out>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let Some(opening) = this.opening
            && opening.as_mut().poll(cx).is_ready()
        {
            *this.opening = None;
        }
        this.inner.poll(cx)
    }
}

impl<F: fmt::Debug, Out, H, Fut> fmt::Debug for ResponseFuture<F, Out, H, Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .field("opening", &self.opening.is_some())
            .finish()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        convert::Infallible,
        future::{pending, ready},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
    };

    use getty_core::{SessionIo, driver};
    use getty_test::assert_layer_contract;
    use tokio::sync::Notify;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;

    type Framing = SessionIo<(), (), &'static str>;

    fn connection() -> Connection<Framing> {
        let connection = Connection::new(());
        let (_, driver) = driver::pair(connection.handle().clone());
        connection.map_transport(|transport| SessionIo::new(transport, (), driver, 1))
    }

    fn is_held(connection: &mut Connection<Framing>) -> bool {
        let (_, (), driver) = connection.transport_mut().split_mut();
        driver.register(&Context::from_waker(std::task::Waker::noop()));
        driver.is_open_delayed()
    }

    #[test]
    fn hook_of_a_session_that_was_refused_does_not_start() {
        let starts = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&starts);
        let layer = OnOpenLayer::new(move |_: Session<&'static str>| {
            counter.fetch_add(1, SeqCst);
            ready(Ok::<_, Infallible>(()))
        });
        let refuses = crate::SessionLimitLayer::new(0, |_: &Session<&'static str>| "full");
        let mut service =
            refuses.layer(layer.layer(service_fn(|connection: Connection<Framing>| {
                ready(Ok::<_, Infallible>(connection))
            })));
        let connection = assert_ready_ok!(task::spawn(service.call(connection())).poll());
        assert_eq!(connection.handle().reason(), Some(CloseReason::Refused));
        assert_eq!(starts.load(SeqCst), 0);
    }

    #[test]
    fn hook_starts_in_the_first_poll_and_delays_opening() {
        let started = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(Notify::new());
        let layer = OnOpenLayer::new({
            let (started, done) = (started.clone(), done.clone());
            move |session: Session<&'static str>| {
                started.fetch_add(1, SeqCst);
                let done = done.clone();
                async move {
                    session.insert(1_u8);
                    done.notified().await;
                    Ok::<_, Infallible>(())
                }
            }
        });
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        assert_eq!(started.load(SeqCst), 0, "the call does not start the hook");
        assert_pending!(response.poll());
        assert_eq!(started.load(SeqCst), 1);

        let (mut connection, inner) = tokio_test::assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(connection.handle().get(), Some(1_u8));
        assert!(is_held(&mut connection));
        done.notify_one();
        assert!(response.is_woken());
        assert_pending!(response.poll());
        assert!(!is_held(&mut connection));
        inner.send_response(());
        assert!(response.is_woken());
        assert_ready_ok!(response.poll());
        assert_eq!(started.load(SeqCst), 1);
    }

    #[test]
    fn error_of_the_hook_refuses_and_inner_error_passes_through() {
        let layer = OnOpenLayer::new(|_| ready(Err("go away")));
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        assert_pending!(response.poll());
        let (mut connection, inner) = tokio_test::assert_ready!(handle.poll_request()).unwrap();
        assert_eq!(connection.handle().reason(), Some(CloseReason::Refused));
        assert_eq!(connection.handle().source().unwrap().to_string(), "go away");
        assert!(!is_held(&mut connection));
        inner.send_error("not opened");
        assert_eq!(assert_ready_err!(response.poll()).to_string(), "not opened");
    }

    #[test]
    fn panic_of_the_hook_closes_only_its_connection() {
        let layer = OnOpenLayer::new(|_| -> std::future::Ready<Result<(), Infallible>> {
            panic!("a bad hook")
        });
        let mut service = layer.layer(service_fn(|connection: Connection<Framing>| {
            ready(Ok::<_, Infallible>(connection))
        }));
        let mut response = task::spawn(service.call(connection()));
        let connection = assert_ready_ok!(response.poll());
        assert_eq!(connection.handle().reason(), Some(CloseReason::Panicked));
        assert_eq!(
            connection.handle().source().unwrap().to_string(),
            "a bad hook"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        let layer = OnOpenLayer::new(|_| ready(Ok::<_, Infallible>(())));
        assert_layer_contract(&layer, connection).await;
    }

    #[test]
    fn unfinished_hook_is_dropped_with_the_connection() {
        let held = Arc::new(());
        let layer = OnOpenLayer::new({
            let held = held.clone();
            move |_| {
                let held = held.clone();
                async move {
                    pending::<()>().await;
                    drop(held);
                    Ok::<_, Infallible>(())
                }
            }
        });
        let (mut service, mut handle) = mock::spawn_layer::<Connection<Framing>, (), _>(layer);
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        assert_pending!(response.poll());
        assert!(tokio_test::assert_ready!(handle.poll_request()).is_some());
        let running = Arc::strong_count(&held);
        drop(response);
        // The connection owned a clone of the hook and the hook's future.
        assert_eq!(Arc::strong_count(&held), running - 2);
    }
}
