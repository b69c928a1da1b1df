//! Two custom layers: one for connections, one for messages.
//!
//! ```text
//! cargo run --example custom_layer
//! nc 127.0.0.1 7001        # then type: hello, LOGIN ada, hello
//! ```
//!
//! The server prints each connection and how it ended. The client sees that `hello` is only
//! handled after `LOGIN`.
//!
//! A layer has up to three parts. `FooLayer` holds the settings. `Foo<S>` is the service that
//! wraps the inner service `S`. A future type is needed if the layer must act after the inner
//! future.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use getty::{
    BoxError, Closed, CodecLayer, Connection, ConnectionHandle, IntoReply, Layer, Reply, Request,
    Service, ServiceBuilder, SessionLayer, codec::Lines, net::TcpListener,
};
use pin_project_lite::pin_project;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let app = ServiceBuilder::new()
        .layer(OpenCountLayer::default())
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .layer(LoginLayer)
        .service_fn(|request: Request<String>| async move {
            let user: Option<User> = request.session().get();
            let name = user.map_or_else(|| "anonymous".into(), |User(name)| name);
            Ok::<_, BoxError>(format!(
                "{name}, your line has {} bytes",
                request.message().len()
            ))
        });
    let listener = TcpListener::bind("127.0.0.1:7001").await?;
    println!("listening on {}", listener.local_addr()?);
    getty::serve(listener, app)
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    Ok(())
}

// ---- a connection layer: called once per connection, over any transport

/// Counts the open connections and prints how each one ended. The count is shared by all
/// connections of the stack.
#[derive(Clone, Debug, Default)]
struct OpenCountLayer {
    open: Arc<AtomicUsize>,
}

impl<S> Layer<S> for OpenCountLayer {
    type Service = OpenCount<S>;

    fn layer(&self, inner: S) -> OpenCount<S> {
        OpenCount {
            inner,
            open: Arc::clone(&self.open),
        }
    }
}

#[derive(Clone, Debug)]
struct OpenCount<S> {
    inner: S,
    open: Arc<AtomicUsize>,
}

impl<S, T> Service<Connection<T>> for OpenCount<S>
where
    S: Service<Connection<T>, Response = Closed>,
{
    type Response = Closed;
    type Error = S::Error;
    type Future = OpenCountFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let handle = connection.handle().clone();
        let open = self.open.fetch_add(1, Relaxed) + 1;
        println!("{handle} opened, open connections: {open}");
        OpenCountFuture {
            inner: self.inner.call(connection),
            handle,
            guard: CountGuard(Arc::clone(&self.open)),
        }
    }
}

pin_project! {
    /// The whole life of a connection. It may be dropped early, when its task is aborted. The
    /// guard will decrement the count in any case.
    struct OpenCountFuture<F> {
        #[pin]
        inner: F,
        handle: ConnectionHandle,
        guard: CountGuard,
    }
}

impl<F, E> Future for OpenCountFuture<F>
where
    F: Future<Output = Result<Closed, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if let Ok(closed) = &result {
            println!("{}: {closed}", this.handle);
        }
        Poll::Ready(result)
    }
}

/// Decrements the count of open connections on drop.
struct CountGuard(Arc<AtomicUsize>);

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

// ---- a message layer: called once per message

/// Rejects messages until the client has sent `LOGIN name`. The state is per session: the
/// name is an attribute of the session.
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
