//! Two layers of one's own, side by side: one for connections, one for messages.
//!
//! ```text
//! cargo run --example custom_layer
//! nc 127.0.0.1 7001        # then: hello, LOGIN ada, hello
//! ```
//!
//! A layer has three parts: `FooLayer` holds the settings, `Foo<S>` is the service around an inner one, and a future of
//! its own is needed where something is to happen after the inner one's.

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
        .layer(LiveLayer::default())
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .layer(LoginLayer)
        .service_fn(|request: Request<String>| async move {
            let user: Option<User> = request.session().get();
            let name = user.map_or_else(|| "nobody".into(), |User(name)| name);
            Ok::<_, BoxError>(format!(
                "{name}, you said {} bytes",
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

// ---- a connection layer: called once per connection, whatever its transport

/// Counts the connections that are open now and says how each one ended. Scope: all connections of the stack.
#[derive(Clone, Debug, Default)]
struct LiveLayer {
    live: Arc<AtomicUsize>,
}

impl<S> Layer<S> for LiveLayer {
    type Service = Live<S>;

    fn layer(&self, inner: S) -> Live<S> {
        Live {
            inner,
            live: Arc::clone(&self.live),
        }
    }
}

#[derive(Clone, Debug)]
struct Live<S> {
    inner: S,
    live: Arc<AtomicUsize>,
}

impl<S, T> Service<Connection<T>> for Live<S>
where
    S: Service<Connection<T>, Response = Closed>,
{
    type Response = Closed;
    type Error = S::Error;
    type Future = LiveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let handle = connection.handle().clone();
        let now = self.live.fetch_add(1, Relaxed) + 1;
        println!("{handle} opened, {now} live");
        LiveFuture {
            inner: self.inner.call(connection),
            handle,
            one: One(Arc::clone(&self.live)),
        }
    }
}

pin_project! {
    /// The connection's life. Dropped early, because the task was aborted, it still gives its count back.
    struct LiveFuture<F> {
        #[pin]
        inner: F,
        handle: ConnectionHandle,
        one: One,
    }
}

impl<F, E> Future for LiveFuture<F>
where
    F: Future<Output = Result<Closed, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let ended = ready!(this.inner.poll(cx));
        if let Ok(closed) = &ended {
            println!("{}: {closed}", this.handle);
        }
        Poll::Ready(ended)
    }
}

struct One(Arc<AtomicUsize>);

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

// ---- a message layer: called once per message

/// Lets nothing but `LOGIN name` through until that has come. Scope: session, as an attribute of it.
#[derive(Clone, Copy, Debug)]
struct LoginLayer;

/// Who has logged in: an attribute, so that whoever has the session's handle can ask.
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
        // The inner service has made itself ready for nothing. A clone is not ready, so whatever this one reserved, such
        // as a permit of a limit that all sessions share, goes back with it.
        self.inner = self.inner.clone();
        LoginFuture::Answered { reply: Some(reply) }
    }
}

pin_project! {
    #[project = Projected]
    enum LoginFuture<F> {
        Inner { #[pin] inner: F },
        Answered { reply: Option<Reply<String>> },
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
            Projected::Answered { reply } => match reply.take() {
                Some(reply) => Poll::Ready(Ok(reply)),
                None => panic!("a response future was polled after it was ready"),
            },
        }
    }
}
