//! Runs an async function of yours when a session opens, before anything is read from the peer.
//!
//! - *ready*: the inner service's.
//! - *call*: holds the session back from opening, and passes the connection on. The hook starts when the connection's
//!   future is first polled, in the connection's own task, and is polled before the inner future. Meanwhile the session
//!   loop sends what is queued but reads nothing, so that a hook may wait for its greeting to have left. Once the hook is
//!   done its memory is given back and the session opens.
//! - *an error of the hook* refuses the connection: it closes as [`CloseReason::Refused`], with the
//!   error as its source, once what the hook has sent is flushed. The pipeline's response is the
//!   [`Closed`](getty_core::Closed) with this reason; under `SessionLayer::per_session` it is the error
//!   `NotOpened`, with the same reason and source.
//! - *a panic of the hook* closes the connection as [`CloseReason::Panicked`].
//! - *drop, close*: a hook that is not done is dropped with the connection, which any close request ends: a handshake
//!   timeout, a shutdown, the peer's reset when something is sent to it.
//!
//! Scope: session. It stands inside [`CodecLayer`](crate::CodecLayer), which makes the session, and outside
//! `SessionLayer`. Several hooks run beside one another, started from the outermost inwards; the session opens when all
//! are done.
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
//!     // in the place of the session loop
//!     .service_fn(|connection: Connection<getty_core::Framed<(), _, String>>| async move {
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
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use getty_core::{
    CloseReason, Connection, HasSession, Session,
    internal::{Contained, Hold, catch},
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs an async function of yours when a session opens; see the [module](self).
pub struct OnOpenLayer<Out, F> {
    hook: Contained<F>,
    out: PhantomData<fn(Out)>,
}

impl<Out, F> OnOpenLayer<Out, F> {
    /// `hook` is called with the session. It is cloned for each connection.
    // the bound on the closure is what lets its argument's type go unwritten
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

/// The service that [`OnOpenLayer`] makes.
pub struct OnOpen<S, Out, F> {
    inner: S,
    layer: OnOpenLayer<Out, F>,
}

impl<S, Out, F> OnOpen<S, Out, F> {
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

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let session = connection.transport().session().clone();
        let opening = Opening {
            _hold: session.hold(),
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
    /// A hook that is not done. It is boxed, so that an idle session does not keep room for a large
    /// future of a hook.
    struct Opening<Out, F, Fut> {
        #[pin]
        running: Option<Contained<Fut>>,
        hook: Contained<F>,
        session: Session<Out>,
        // last: the session opens when this is dropped
        _hold: Hold,
    }
}

impl<Out, F, Fut, E> Opening<Out, F, Fut>
where
    F: Fn(Session<Out>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let (hook, session) = (this.hook, this.session);
        let polled = catch(|| {
            if this.running.is_none() {
                let running = Contained::new(hook(session.clone()));
                this.running.set(Some(running));
            }
            match this.running.as_mut().as_pin_mut() {
                Some(running) => running.poll(cx),
                None => unreachable!("it was set above"),
            }
        });
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => {}
            Ok(Poll::Ready(Err(error))) => session.close_because(CloseReason::Refused, error),
            Err(panic) => session.close_because(CloseReason::Panicked, panic),
        }
        Poll::Ready(())
    }
}

pin_project! {
    /// The future of [`OnOpen`].
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

    use tokio::sync::Notify;
    use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;
    use crate::testing::assert_readiness;
    use getty_core::{Framed, driver};

    type Framing = Framed<(), (), &'static str>;

    fn connection() -> Connection<Framing> {
        let connection = Connection::new(());
        let (_, driver) = driver::pair(connection.handle().clone());
        connection.map_transport(|transport| Framed::new(transport, (), driver, 1))
    }

    fn is_held(connection: &mut Connection<Framing>) -> bool {
        let (_, (), driver) = connection.transport_mut().split_mut();
        driver.turn(&Context::from_waker(std::task::Waker::noop()));
        driver.is_held()
    }

    #[test]
    fn the_hook_starts_with_the_future_and_holds_the_session_until_it_is_done() {
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
        assert_eq!(started.load(SeqCst), 0, "not in the call");
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
    fn an_error_refuses_and_what_the_inner_service_answers_passes_through() {
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
    fn a_panic_closes_the_connection_alone() {
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

    #[test]
    fn it_is_ready_when_the_inner_service_is_and_a_clone_is_not() {
        let layer = OnOpenLayer::new(|_| ready(Ok::<_, Infallible>(())));
        assert_readiness::<_, Connection<Framing>, (), _>(&layer, connection);
    }

    #[test]
    fn a_hook_that_never_ends_is_dropped_with_the_connection() {
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
        // the connection's clone of the hook, and its future
        assert_eq!(Arc::strong_count(&held), running - 2);
    }
}
