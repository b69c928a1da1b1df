//! State of one session: a make-service from a function, and a service that owns an object.

use std::{
    any::type_name,
    convert::Infallible,
    fmt,
    future::{Future, Ready, ready},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use getty_core::{Reply, Request, Session};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::unconstrained,
};
use tower::{BoxError, Service};

use super::{HandlerFuture, HandlerOutput, via};

/// Creates the make-service of [`SessionLayer::per_session`](crate::SessionLayer::per_session)
/// from a function that returns the service of one session.
///
/// ```
/// use getty::{CodecLayer, ServiceBuilder, Session, SessionLayer, codec::Lines};
/// use getty::handler::{handle_mut, make_service};
///
/// /// The state of one session.
/// struct Counter {
///     lines: u32,
/// }
///
/// impl Counter {
///     fn count(&mut self, line: String) -> String {
///         self.lines += 1;
///         format!("{}: {line}", self.lines)
///     }
/// }
///
/// let app = ServiceBuilder::new()
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::per_session())
///     .service(make_service(|_session: Session<String>| {
///         handle_mut(Counter { lines: 0 }, Counter::count)
///     }));
/// # let (listener, _) = getty::net::memory(1024);
/// # let _ = getty::serve(listener, app);
/// ```
///
/// Use [`service_fn`](crate::service_fn) for a make-service that is `async` or may refuse the
/// session.
#[doc(alias = "make_service_fn")]
pub const fn make_service<F, Out, T>(f: F) -> MakeService<F, Out>
where
    F: FnMut(Session<Out>) -> T,
{
    MakeService {
        f,
        types: PhantomData,
    }
}

/// Make-service of a function: see [`make_service`].
///
/// - *ready*: always.
/// - *call*: calls the function. The service is ready at once.
/// - *drop*, *close*: nothing.
///
/// Scope: session.
pub struct MakeService<F, Out> {
    f: F,
    types: PhantomData<fn(Out)>,
}

impl<F, Out, T> Service<Session<Out>> for MakeService<F, Out>
where
    F: FnMut(Session<Out>) -> T,
{
    type Response = T;
    type Error = Infallible;
    type Future = Ready<Result<T, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, session: Session<Out>) -> Self::Future {
        ready(Ok((self.f)(session)))
    }
}

impl<F: Clone, Out> Clone for MakeService<F, Out> {
    fn clone(&self) -> Self {
        Self {
            f: self.f.clone(),
            types: PhantomData,
        }
    }
}

impl<F, Out> fmt::Debug for MakeService<F, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MakeService")
            .field(&type_name::<F>())
            .finish()
    }
}

/// Creates a service that owns `object`, and calls `method` with it and each message.
///
/// The service is not `Clone`: use it under
/// [`SessionLayer::per_session`](crate::SessionLayer::per_session), with [`make_service`].
/// Messages are handled one at a time, in their order.
///
/// A method that is not `async` borrows the object without a lock and without an allocation. An
/// `async` method borrows it until its future is complete. So each call boxes the future and
/// takes an async lock, and the next message waits for the lock. An `async` method must be
/// passed by its name, because a closure cannot return a future that borrows its argument.
///
/// # Cancel safety
///
/// If the future of an `async` method is dropped, as by a timeout, the object keeps the changes
/// that were made before.
///
/// # Example
///
/// ```
/// use getty::{CodecLayer, ServiceBuilder, Session, SessionLayer, codec::Lines};
/// use getty::handler::{handle_mut, make_service};
///
/// struct Player {
///     session: Session<String>,
///     position: i64,
/// }
///
/// impl Player {
///     fn new(session: Session<String>) -> Self {
///         Self { session, position: 0 }
///     }
///
///     async fn handle(&mut self, line: String) -> Option<String> {
///         match line.as_str() {
///             "left" => self.step(-1).await,
///             "right" => self.step(1).await,
///             _ => Some(format!("player {} cannot {line}", self.session.id())),
///         }
///     }
///
///     async fn step(&mut self, by: i64) -> Option<String> {
///         self.position += by;
///         Some(self.position.to_string())
///     }
/// }
///
/// let app = ServiceBuilder::new()
///     .layer(CodecLayer::new(Lines::new()))
///     .layer(SessionLayer::per_session())
///     .service(make_service(|session| handle_mut(Player::new(session), Player::handle)));
/// # let (listener, _) = getty::net::memory(1024);
/// # let _ = getty::serve(listener, app);
/// ```
#[doc(alias("actor", "object", "client object"))]
pub fn handle_mut<T, F, In, Out, V>(object: T, method: F) -> ObjectService<T, F, In, Out, V>
where
    F: Method<T, In, Out, V>,
{
    ObjectService {
        object: F::store(object),
        method,
        types: PhantomData,
    }
}

/// Methods that [`handle_mut`] calls with its object and a message: functions of `&mut T` and
/// `In`, `async` or not, that return a [`HandlerOutput`].
///
/// `Via` is a marker that keeps the two kinds apart. The compiler infers it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a method of `{T}` that handles `{In}` for a session that sends `{Out}`",
    label = "not a function of `&mut {T}` and `{In}`, or its return type is not a reply",
    note = "an `async` method is passed by its name, and its future is `Send`; it returns what a handler may return"
)]
pub trait Method<T, In, Out, Via> {
    /// The object between calls.
    #[doc(hidden)]
    type Stored;

    /// Future of an `async` method.
    #[doc(hidden)]
    type Future: Future<Output = Result<Reply<Out>, BoxError>> + Send;

    /// Stores the object.
    #[doc(hidden)]
    fn store(object: T) -> Self::Stored;

    /// Calls the method.
    #[doc(hidden)]
    fn call(&mut self, object: &mut Self::Stored, message: In) -> HandlerFuture<Self::Future, Out>;
}

impl<F, T, In, Out, R, V> Method<T, In, Out, via::Immediate<(R, V)>> for F
where
    F: FnMut(&mut T, In) -> R,
    R: HandlerOutput<Out, V>,
    Out: Send,
{
    type Stored = T;
    type Future = std::future::Pending<Result<Reply<Out>, BoxError>>;

    fn store(object: T) -> T {
        object
    }

    #[inline]
    fn call(&mut self, object: &mut T, message: In) -> HandlerFuture<Self::Future, Out> {
        HandlerFuture::ready(self(object, message).into_result())
    }
}

/// `async` methods. A separate trait, because the future borrows the object.
pub trait AsyncMethod<'a, T: 'a, In>: Send {
    /// Output of the future.
    type Output;

    /// Future of a call.
    type Future: Future<Output = Self::Output> + Send + 'a;

    /// Calls the method.
    fn call(self, object: &'a mut T, message: In) -> Self::Future;
}

impl<'a, F, T, In, Fut> AsyncMethod<'a, T, In> for F
where
    F: FnOnce(&'a mut T, In) -> Fut + Send,
    Fut: Future + Send + 'a,
    T: 'a,
{
    type Output = Fut::Output;
    type Future = Fut;

    fn call(self, object: &'a mut T, message: In) -> Fut {
        self(object, message)
    }
}

impl<F, T, In, Out, R, V> Method<T, In, Out, via::Async<(R, V)>> for F
where
    F: for<'a> AsyncMethod<'a, T, In, Output = R> + Clone + 'static,
    R: HandlerOutput<Out, V> + Send,
    T: Send + 'static,
    In: Send + 'static,
    Out: 'static,
{
    type Stored = Arc<Mutex<T>>;
    type Future = Pin<Box<dyn Future<Output = Result<Reply<Out>, BoxError>> + Send>>;

    fn store(object: T) -> Self::Stored {
        Arc::new(Mutex::new(object))
    }

    fn call(&mut self, object: &mut Self::Stored, message: In) -> HandlerFuture<Self::Future, Out> {
        let method = self.clone();
        let object = lock_in_order(object);
        HandlerFuture::pending(Box::pin(async move {
            let mut object = match object {
                Ok(object) => object,
                Err(object) => object.await,
            };
            method.call(&mut object, message).await.into_result()
        }))
    }
}

type Locking<T> = Pin<Box<dyn Future<Output = OwnedMutexGuard<T>> + Send>>;

/// Locks the object, or takes the next place in its queue. Calls then have the order of their
/// messages even if their futures are first polled in another order, as under a `SpawnLayer`.
fn lock_in_order<T: Send + 'static>(
    object: &Arc<Mutex<T>>,
) -> Result<OwnedMutexGuard<T>, Locking<T>> {
    let object = Arc::clone(object);
    Arc::clone(&object).try_lock_owned().or_else(|_| {
        // Without the budget the first poll could fail to register the call in the queue.
        let mut locking: Locking<T> = Box::pin(unconstrained(object.lock_owned()));
        let cx = &mut Context::from_waker(Waker::noop());
        match locking.as_mut().poll(cx) {
            Poll::Ready(object) => Ok(object),
            Poll::Pending => Err(locking),
        }
    })
}

/// Service that owns an object: see [`handle_mut`].
///
/// - *ready*: always.
/// - *call*: calls the method. The result of a method that is not `async` is ready at once.
/// - *drop*: drops the method's future.
/// - *close*: nothing. The object is dropped with the session's message stack.
///
/// Scope: session.
pub struct ObjectService<T, F, In, Out, V>
where
    F: Method<T, In, Out, V>,
{
    object: F::Stored,
    method: F,
    types: PhantomData<fn(In, V) -> Out>,
}

impl<T, F, In, Out, V> Service<Request<In, Out>> for ObjectService<T, F, In, Out, V>
where
    F: Method<T, In, Out, V>,
{
    type Response = Reply<Out>;
    type Error = BoxError;
    type Future = HandlerFuture<F::Future, Out>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<In, Out>) -> Self::Future {
        self.method.call(&mut self.object, request.into_message())
    }
}

impl<T, F, In, Out, V> fmt::Debug for ObjectService<T, F, In, Out, V>
where
    F: Method<T, In, Out, V>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectService")
            .field(&type_name::<T>())
            .finish()
    }
}
