//! A [`tracing`] span a connection, entered whenever it is worked on, and events of its beginning and its end.
//!
//! - *ready*: the inner service's.
//! - *call*: makes the span, tells of the beginning, and calls the inner service within the span. Each poll of the
//!   connection's future happens within it, so that whatever handlers and other layers log nests in it.
//! - *drop*: drops the inner future within the span.
//! - *close*: tells of the end, after the close callbacks, once and however the connection ended.
//!
//! | what | name, message | level | fields |
//! |---|---|---|---|
//! | the span | `connection` | `INFO` | `id`, `name`, `peer`, `local`, `transport` |
//! | the beginning | `connection opened` | `DEBUG` | |
//! | the end | `connection closed` | `WARN` for a failure, otherwise `DEBUG` | `reason`, `code` where the protocol gave one, `error` where there is one, `lifetime`, `bytes_in`, `bytes_out`, `messages_in`, `messages_out`, `skipped`, `dropped` |
//!
//! A failure is an end with the reason `Decode`, `Encode`, `Handler` or `Panicked`. The event of
//! the end replaces the line that getty logs about a connection without this layer: see
//! [`ConnectionHandle::set_logs_end`]. Where no source was recorded, `error` is the error that the
//! inner service returned.
//!
//! What is disabled costs a look at a flag; nothing is formatted for it. The reason is [`CloseReason::as_str`], to be
//! searched for.
//!
//! Scope: connection. It is the outermost layer as a rule: what stands further out is not in the span. The span's fields
//! are those of the moment: outside a layer for TLS or WebSocket the transport is what lies below it.
//!
//! ```
//! use getty_core::Connection;
//! use getty_layers::TraceLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//! use tracing::Level;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(TraceLayer::new().with_close_level(Level::INFO))
//!     .service_fn(|connection: Connection<()>| async move {
//!         tracing::info!("within the span, if a subscriber wants it");
//!         Ok::<_, BoxError>(connection.handle().id())
//!     });
//! assert!(stack.oneshot(Connection::new(())).await? > 0);
//! # Ok(())
//! # }
//! ```
//!
//! [`CloseReason::as_str`]: getty_core::CloseReason::as_str

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::{Closed, Connection, ConnectionHandle};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, Span, level_filters::LevelFilter};

use crate::levels::CompactLevel;

/// A span a connection, and events of its beginning and end; see the [module](self).
#[derive(Clone, Debug)]
pub struct TraceLayer {
    span: Level,
    open: Level,
    ends: Ends,
}

/// The levels of the event of an end.
#[derive(Clone, Copy, Debug)]
struct Ends {
    close: CompactLevel,
    failure: CompactLevel,
}

impl Ends {
    fn of(self, closed: &Closed) -> Level {
        if closed.reason.is_failure() {
            self.failure.get()
        } else {
            self.close.get()
        }
    }

    /// Returns `true` if some end may be logged.
    fn may_log(self) -> bool {
        let most = LevelFilter::current();
        self.close.get() <= most || self.failure.get() <= most
    }
}

impl TraceLayer {
    /// Creates a layer with the span at `INFO`, the events at `DEBUG`, and the event of a failure
    /// at `WARN`.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            span: Level::INFO,
            open: Level::DEBUG,
            ends: Ends {
                close: CompactLevel::new(Level::DEBUG),
                failure: CompactLevel::new(Level::WARN),
            },
        }
    }

    /// The level of the span. `INFO` by default.
    #[must_use]
    pub const fn with_span_level(mut self, level: Level) -> Self {
        self.span = level;
        self
    }

    /// The level of the event of a beginning. `DEBUG` by default.
    #[must_use]
    pub const fn with_open_level(mut self, level: Level) -> Self {
        self.open = level;
        self
    }

    /// Sets the level of the event of an end that is no failure. The default is `DEBUG`.
    #[must_use]
    pub const fn with_close_level(mut self, level: Level) -> Self {
        self.ends.close = CompactLevel::new(level);
        self
    }

    /// Sets the level of the event of an end with the reason `Decode`, `Encode`, `Handler` or
    /// `Panicked`. The default is `WARN`.
    #[must_use]
    pub const fn with_failure_level(mut self, level: Level) -> Self {
        self.ends.failure = CompactLevel::new(level);
        self
    }

    fn span(&self, handle: &ConnectionHandle) -> Span {
        at_level!(
            self.span,
            span!(
                "connection",
                id = handle.id(),
                name = &*handle.name(),
                peer = %handle.peer_addr(),
                local = %handle.local_addr(),
                transport = handle.transport().as_str(),
            )
        )
    }
}

impl Default for TraceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service that [`TraceLayer`] makes.
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    layer: TraceLayer,
}

impl<S> Trace<S> {
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

impl<S, T> Service<Connection<T>> for Trace<S>
where
    S: Service<Connection<T>, Error: fmt::Display>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let handle = connection.handle().clone();
        handle.set_logs_end(false);
        // before the call, because a call that panics is an end as well
        let mut response = ResponseFuture {
            inner: None,
            span: self.layer.span(&handle),
            handle,
            ends: self.layer.ends,
            logs: true,
        };
        let inner = response.span.in_scope(|| {
            at_level!(self.layer.open, event!("connection opened"));
            self.inner.call(connection)
        });
        response.inner = Some(inner);
        response
    }
}

/// The error that the inner service returned.
struct Failure(String);

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Failure {}

fn log_end(level: Level, closed: &Closed, failure: Option<&Failure>) {
    let Closed {
        reason,
        stats,
        lifetime,
        ..
    } = closed;
    at_level!(
        level,
        event!(
            reason = reason.as_str(),
            code = reason.code(),
            error = closed
                .error()
                .or(failure.map(|failure| failure as &(dyn Error + 'static))),
            ?lifetime,
            bytes_in = stats.bytes_in,
            bytes_out = stats.bytes_out,
            messages_in = stats.messages_in,
            messages_out = stats.messages_out,
            skipped = stats.skipped,
            dropped = stats.dropped,
            unhandled_messages = closed.unhandled_messages,
            unhandled_bytes = closed.unhandled_bytes,
            unsent_messages = closed.unsent_messages,
            unsent_bytes = closed.unsent_bytes,
            "connection closed",
        )
    );
}

pin_project! {
    /// The future of [`Trace`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // none once it is dropped
        #[pin]
        inner: Option<F>,
        span: Span,
        handle: ConnectionHandle,
        ends: Ends,
        // false once the event of the end is made or left to a callback
        logs: bool,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            this.end(None);
        }
    }
}

impl<F> ResponseFuture<F> {
    /// Drops the inner future, and logs the end as soon as the connection is closed.
    fn end(self: Pin<&mut Self>, failure: Option<Failure>) {
        let mut this = self.project();
        let entered = this.span.enter();
        this.inner.set(None);
        drop(entered);
        if !std::mem::take(this.logs) {
            return;
        }
        // it is closed by now, unless another task holds the connection
        let (span, ends) = (this.span.clone(), *this.ends);
        this.handle.once_closed(move |closed| {
            span.in_scope(|| log_end(ends.of(closed), closed, failure.as_ref()));
        });
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: fmt::Display,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.as_mut().project();
        let entered = this.span.enter();
        let result = match this.inner.as_pin_mut() {
            Some(inner) => ready!(inner.poll(cx)),
            None => panic!("a connection's future was polled after it was ready"),
        };
        drop(entered);
        if let Err(error) = &result {
            let logs = this.ends.may_log() && this.handle.source().is_none();
            let failure = logs.then(|| Failure(error.to_string()));
            self.end(failure);
        }
        Poll::Ready(result)
    }
}

impl<F: fmt::Debug> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("inner", &self.inner)
            .field("span", &self.span)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
    };

    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;
    use crate::{levels::record::record, testing::assert_transparent};
    use getty_core::{Address, CloseReason, Endpoints, TransportKind};

    /// An error that counts how often it is formatted.
    #[derive(Clone, Debug)]
    struct Counted(Arc<AtomicUsize>);

    impl fmt::Display for Counted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fetch_add(1, SeqCst);
            f.write_str("counted")
        }
    }

    impl Error for Counted {}

    fn connection() -> Connection<u8> {
        let peer = "192.0.2.1:5000".parse::<std::net::SocketAddr>().unwrap();
        let local = "192.0.2.2:7000".parse::<std::net::SocketAddr>().unwrap();
        Connection::with_endpoints(
            1,
            Endpoints::new(
                TransportKind::Tcp,
                Address::from(local),
                Address::from(peer),
            ),
        )
    }

    #[test]
    fn the_span_names_the_connection_and_holds_all_that_happens_in_it() {
        struct Telling(&'static str);
        impl Drop for Telling {
            fn drop(&mut self) {
                tracing::info!("{}", self.0);
            }
        }

        let (recorder, _guard) = record(Some(Level::TRACE));
        let mut service = TraceLayer::new().layer(service_fn(|connection: Connection<u8>| {
            tracing::info!("called");
            async move {
                let _local = Telling("dropped");
                let _connection = connection;
                tracing::info!("polled");
                std::future::pending::<Result<(), Infallible>>().await
            }
        }));
        let connection = connection();
        let id = connection.handle().id();
        let mut response = task::spawn(service.call(connection));
        assert_pending!(response.poll());
        tracing::info!("elsewhere");
        drop(response);

        let spans = recorder.spans();
        let [("connection", Level::INFO, fields)] = &spans[..] else {
            panic!("{spans:?}")
        };
        let expected = [
            ("id", id.to_string()),
            ("local", "192.0.2.2:7000".to_owned()),
            ("name", format!("tcp-{id}")),
            ("peer", "192.0.2.1:5000".to_owned()),
            ("transport", "tcp".to_owned()),
        ];
        assert_eq!(*fields, expected.into());
        let events = recorder.events();
        let told: Vec<_> = events
            .iter()
            .map(|event| (event.text(), event.within.len()))
            .collect();
        assert_eq!(
            told,
            [
                ("connection opened", 1),
                ("called", 1),
                ("polled", 1),
                ("elsewhere", 0),
                ("dropped", 1),
                ("connection closed", 1),
            ]
        );
    }

    #[test]
    fn the_end_is_told_once_with_reason_statistics_and_lifetime() {
        let (recorder, _guard) = record(Some(Level::DEBUG));
        let formatted = Arc::new(AtomicUsize::new(0));
        let (mut service, mut handle) =
            mock::spawn_layer::<Connection<u8>, (), _>(TraceLayer::new());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        assert_pending!(response.poll());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        connection.handle().close_because(
            CloseReason::Protocol {
                code: 1009,
                reason: "too big".into(),
            },
            Counted(formatted.clone()),
        );
        drop(connection);
        inner.send_response(());
        assert!(response.is_woken());
        assert_ready_ok!(response.poll());
        drop(response);
        let events = recorder.events();
        let [_, end] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(end.level, Level::DEBUG);
        let field = |name| end.fields.get(name).map(String::as_str);
        assert_eq!(field("message"), Some("connection closed"));
        assert_eq!(field("reason"), Some("protocol"));
        assert_eq!(field("code"), Some("1009"));
        assert_eq!(field("error"), Some("counted"));
        assert!(field("lifetime").is_some());
        for counter in [
            "bytes_in",
            "bytes_out",
            "messages_in",
            "messages_out",
            "skipped",
            "dropped",
        ] {
            assert_eq!(field(counter), Some("0"), "{counter}");
        }
        assert_eq!(formatted.load(SeqCst), 1);
    }

    #[test]
    fn what_is_disabled_is_neither_made_nor_formatted() {
        for most in [None, Some(Level::ERROR), Some(Level::INFO)] {
            let (recorder, _guard) = record(most);
            let formatted = Arc::new(AtomicUsize::new(0));
            let source = Counted(formatted.clone());
            let mut service =
                TraceLayer::new().layer(service_fn(move |connection: Connection<u8>| {
                    connection
                        .handle()
                        .close_because(CloseReason::Io, source.clone());
                    async { Ok::<_, Infallible>(()) }
                }));
            assert_ready_ok!(task::spawn(service.call(connection())).poll());
            assert_eq!(formatted.load(SeqCst), 0);
            assert_eq!(recorder.events(), []);
            assert_eq!(
                recorder.spans().len(),
                usize::from(most == Some(Level::INFO))
            );
        }
    }

    #[test]
    fn every_level_can_be_set() {
        for level in [
            Level::ERROR,
            Level::WARN,
            Level::INFO,
            Level::DEBUG,
            Level::TRACE,
        ] {
            let (recorder, _guard) = record(Some(Level::TRACE));
            let layer = TraceLayer::new()
                .with_span_level(level)
                .with_open_level(level)
                .with_close_level(level)
                .with_failure_level(level);
            let mut service = layer.layer(service_fn(|_: Connection<u8>| async {
                Ok::<_, Infallible>(())
            }));
            assert_ready_ok!(task::spawn(service.call(connection())).poll());
            assert_eq!(recorder.spans()[0].1, level);
            let levels: Vec<_> = recorder.events().iter().map(|event| event.level).collect();
            assert_eq!(levels, [level; 2]);
        }
    }

    #[test]
    fn an_end_elsewhere_is_told_of_when_it_comes() {
        let (recorder, _guard) = record(Some(Level::TRACE));
        let (mut service, mut handle) =
            mock::spawn_layer::<Connection<u8>, (), _>(TraceLayer::new());
        assert_ready_ok!(service.poll_ready());
        let response = task::spawn(service.call(connection()));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        drop(response);
        assert_eq!(recorder.events().len(), 1, "it is not closed");
        drop(connection);
        let events = recorder.events();
        assert_eq!(events[1].text(), "connection closed");
        assert_eq!(events[1].within, ["connection"]);
    }

    #[test]
    fn around_a_service_it_is_transparent() {
        assert_transparent(&TraceLayer::new(), connection);
    }
}
