//! Custom layers: from functions, and written by hand.
//!
//! ```text
//! cargo run --example custom_layer
//! nc 127.0.0.1 7001        # then type: hello, LOGIN ada, hello
//! ```
//!
//! The server prints each connection and how it ended. The client sees that `hello` is only
//! handled after `LOGIN`. `custom_layer ADDRESS` listens on another address.
//!
//! A function suffices for most layers. A message then costs a clone of the function and of the
//! services inside it. A layer for which each instruction counts is written by hand. It has up
//! to three parts. `FooLayer` holds the settings. `Foo<S>` is the service that wraps the inner
//! service `S`. A future type is needed if the layer must act after the inner future.

mod report;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Instant,
};

use getty::{
    BoxError, Closed, CodecLayer, Connection, IntoReply, Layer, Reply, Request, Service,
    ServiceBuilder, SessionLayer,
    codec::Lines,
    middleware::{ConnectionNext, Next, connection_fn, message_fn},
    net::TcpListener,
};
use pin_project_lite::pin_project;

use self::report::Report;

#[tokio::main]
async fn main() -> Result<(), Report> {
    let open = Arc::new(AtomicUsize::new(0));
    let app = ServiceBuilder::new()
        .layer(connection_fn(move |connection, next| {
            count_open(open, connection, next)
        }))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .layer(LoginLayer)
        .layer(message_fn(async |request, next| {
            let start = Instant::now();
            let reply = next.run(request).await?;
            println!("handled in {:?}", start.elapsed());
            Ok(reply)
        }))
        .service_fn(|request: Request<String>| async move {
            let user: Option<User> = request.session().get();
            let name = user.map_or_else(|| "anonymous".into(), |User(name)| name);
            Ok::<_, BoxError>(format!(
                "{name}, your line has {} bytes",
                request.message().len()
            ))
        });
    let listener = TcpListener::bind(report::address("127.0.0.1:7001")?).await?;
    println!("listening on {}", listener.local_addr()?);
    getty::serve(listener, app)
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    Ok(())
}

// ---- a connection layer from a function: called once per connection, over any transport

/// Counts the open connections and prints how each one ended. The count is shared by all
/// connections of the stack.
///
/// The function is generic over the rest of the stack. A closure would infer it, as in `main`.
async fn count_open<S, T>(
    open: Arc<AtomicUsize>,
    connection: Connection<T>,
    next: Next<S, Connection<T>>,
) -> Result<Closed, BoxError>
where
    S: ConnectionNext<T>,
{
    let handle = connection.handle().clone();
    println!(
        "{handle} opened, open connections: {}",
        open.fetch_add(1, Relaxed) + 1
    );
    // The rest of this function does not run if the connection's task is aborted. The guard will
    // decrement the count in any case.
    let _guard = CountGuard(open);
    let closed = next.run(connection).await?;
    println!("{handle}: {closed}");
    Ok(closed)
}

/// Decrements the count of open connections on drop.
struct CountGuard(Arc<AtomicUsize>);

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

// ---- a message layer that is written by hand: called once per message

/// Rejects messages until the client has sent `LOGIN name`. The state is per session: the
/// name is an attribute of the session.
///
/// With [`message_fn`] this layer would have ten lines, as in the documentation of
/// [`getty::middleware`]. Written by hand it does not clone the inner service for each message.
#[derive(Clone, Copy, Debug)]
struct LoginLayer;

/// Name of the user who is logged in. Any holder of the session's handle can read this
/// attribute.
#[derive(Clone, Debug)]
struct User(Arc<str>);

impl<S> Layer<S> for LoginLayer {
    type Service = Login<S>;

    fn layer(&self, inner: S) -> Login<S> {
        Login { inner }
    }
}

#[derive(Clone, Debug)]
struct Login<S> {
    inner: S,
}

impl<S> Service<Request<String>> for Login<S>
where
    S: Service<Request<String>, Response: IntoReply<String>> + Clone,
{
    type Response = Reply<String>;
    type Error = S::Error;
    type Future = LoginFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let session = request.session();
        if session.get::<User>().is_some() {
            return LoginFuture::Inner {
                inner: self.inner.call(request),
            };
        }
        let reply = match request.message().strip_prefix("LOGIN ") {
            Some(name) => {
                session.insert(User(name.into()));
                Reply::one(format!("welcome, {name}"))
            }
            None => Reply::one("LOGIN first".to_owned()),
        };
        // `poll_ready` may have reserved something in the inner service, such as a permit of a
        // limit that all sessions share. This message does not use it. A clone is not ready, so
        // replacing the inner service returns the permit.
        self.inner = self.inner.clone();
        LoginFuture::Replied { reply: Some(reply) }
    }
}

pin_project! {
    #[project = Projected]
    enum LoginFuture<F> {
        Inner { #[pin] inner: F },
        Replied { reply: Option<Reply<String>> },
    }
}

impl<F, R, E> Future for LoginFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: IntoReply<String>,
{
    type Output = Result<Reply<String>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projected::Inner { inner } => inner.poll(cx).map_ok(IntoReply::into_reply),
            Projected::Replied { reply } => match reply.take() {
                Some(reply) => Poll::Ready(Ok(reply)),
                None => panic!("a response future was polled after completion"),
            },
        }
    }
}
