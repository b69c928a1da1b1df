//! Creates a [`tracing`] span for each connection and events when it opens and closes.
//!
//! - *ready*: as the inner service.
//! - *call*: creates the span, emits the open event, and calls the inner service within the
//!   span. Each poll of the connection's future runs within the span, so all events of handlers
//!   and other layers are inside it.
//! - *drop*: drops the inner future within the span.
//! - *close*: emits the close event once, after the close callbacks, however the connection
//!   ended.
//!
//! | item | name or message | level | fields |
//! |---|---|---|---|
//! | span | `connection` | `INFO` | `connection` (id), `name`, `peer`, `local`, `transport` |
//! | open event | `connection opened` | `DEBUG` | |
//! | close event | `connection closed` | `WARN` for a failure, otherwise `DEBUG` | `reason`, `code` if the protocol has one, `error` if there is one, `lifetime`, `bytes_in`, `bytes_out`, `messages_in`, `messages_out`, `skipped`, `dropped` |
//!
//! A failure is a close with the reason `Decode`, `Encode`, `Handler` or `Panicked`. The close
//! event replaces the line that getty logs for a connection without this layer; see
//! [`ConnectionHandle::set_logs_end`]. If no source was recorded, `error` is the error that the
//! inner service returned.
//!
//! A disabled span or event costs the check of a flag, and nothing is formatted for it.
//! `reason` is [`CloseReason::as_str`], which does not change, so logs can be searched for it.
//!
//! Scope: connection. Place it outermost: events of layers outside it are not in the span. Only
//! `ProxyProtocolLayer` must be outside it. The fields of the span are the values at the call:
//! outside a TLS or WebSocket layer, `transport` is the transport below it. It stays the same
//! when the session is upgraded to TLS. A name that is [set](ConnectionHandle::set_name) later
//! is recorded in the span after the poll of the connection in which it was set. Subscribers
//! that print spans, such as `tracing_subscriber::fmt`, then print both names.
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
//!         tracing::info!("an event within the span");
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

use getty_core::{
    Closed, Connection, ConnectionHandle,
    hooks::HandleExt,
    internal::{catch, log},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, Span, level_filters::LevelFilter};

use crate::util::CompactLevel;

/// Creates a span for each connection and events when it opens and closes; see the
/// [module](self).
#[doc(alias = "log")]
#[derive(Clone, Debug)]
pub struct TraceLayer {
    span: Level,
    open: Level,
    close: CloseLevels,
}

/// Levels of the close event.
#[derive(Clone, Copy, Debug)]
struct CloseLevels {
    /// Level of a close that is not a failure.
    close: CompactLevel,
    /// Level of a failure.
    failure: CompactLevel,
}

impl CloseLevels {
    fn of(self, closed: &Closed) -> Level {
        if closed.reason.is_failure() {
            self.failure.get()
        } else {
            self.close.get()
        }
    }

    /// Returns `true` if a close event of one of the levels may be enabled.
    fn may_log(self) -> bool {
        let most = LevelFilter::current();
        self.close.get() <= most || self.failure.get() <= most
    }
}

impl TraceLayer {
    /// Creates a new layer with the span at `INFO`, the open and close events at `DEBUG`, and the
    /// close event of a failure at `WARN`.
    // A failing handler must be visible at the default level of a subscriber (design.md: Why does
    // `TraceLayer` log failures at `WARN`?).
    #[must_use]
    pub const fn new() -> Self {
        Self {
            span: Level::INFO,
            open: Level::DEBUG,
            close: CloseLevels {
                close: CompactLevel::new(Level::DEBUG),
                failure: CompactLevel::new(Level::WARN),
            },
        }
    }

    /// Sets the level of the span. The default is `INFO`.
    #[must_use]
    pub const fn with_span_level(mut self, level: Level) -> Self {
        self.span = level;
        self
    }

    /// Sets the level of the open event. The default is `DEBUG`.
    #[must_use]
    pub const fn with_open_level(mut self, level: Level) -> Self {
        self.open = level;
        self
    }

    /// Sets the level of the close event of a connection that did not fail. The default is `DEBUG`.
    #[must_use]
    pub const fn with_close_level(mut self, level: Level) -> Self {
        self.close.close = CompactLevel::new(level);
        self
    }

    /// Sets the level of the close event of a failure: a close with the reason `Decode`, `Encode`,
    /// `Handler` or `Panicked`. The default is `WARN`.
    #[must_use]
    pub const fn with_failure_level(mut self, level: Level) -> Self {
        self.close.failure = CompactLevel::new(level);
        self
    }

    fn span(&self, handle: &ConnectionHandle) -> Span {
        // The name that is recorded here.
        handle.take_renamed();
        at_level!(
            self.span,
            span!(
                "connection",
                connection = handle.id(),
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

/// Service of [`TraceLayer`].
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    layer: TraceLayer,
}

impl<S> Trace<S> {
    getty_core::inner_service_accessors!();
}

impl<S, T> Service<Connection<T>> for Trace<S>
where
    S: Service<Connection<T>, Error: fmt::Display>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, connection: Connection<T>) -> Self::Future {
        let handle = connection.handle().clone();
        // This layer logs the close itself (design.md: Why is the end logged where the connection
        // is finished?).
        handle.set_logs_end(false);
        // Created before the call, because a call that panics also closes the connection.
        let mut response = ResponseFuture {
            inner: None,
            span: self.layer.span(&handle),
            handle,
            close: self.layer.close,
            logs_close: true,
        };
        // Not `in_scope`: if the subscriber panics when it leaves the span, Rust drops no value
        // that a block returns. Here the future is dropped with `response`.
        let entered = response.span.enter();
        at_level!(self.layer.open, event!("connection opened"));
        response.inner = Some(self.inner.call(connection));
        drop(entered);
        response
    }
}

/// Error of the inner service as text.
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

fn log_close(level: Level, closed: &Closed, failure: Option<&Failure>) {
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
    /// Future of [`Trace`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        // `None` after it was dropped.
        #[pin]
        inner: Option<F>,
        span: Span,
        handle: ConnectionHandle,
        close: CloseLevels,
        // `false` after the close event was emitted or left to a callback.
        logs_close: bool,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            this.close(None);
        }
    }
}

/// Records a name that was set since the last call.
#[inline]
fn record_name(span: &Span, handle: &ConnectionHandle) {
    if handle.take_renamed() {
        span.record("name", &*handle.name());
    }
}

impl<F> ResponseFuture<F> {
    /// Drops the inner future and emits the close event when the connection is closed.
    fn close(self: Pin<&mut Self>, failure: Option<Failure>) {
        let mut this = self.project();
        // A drop must not panic, so panics of the subscriber are caught.
        let entered = catch(|| this.span.enter());
        this.inner.set(None);
        log(|| drop(entered));
        log(|| record_name(this.span, this.handle));
        if !std::mem::take(this.logs_close) {
            return;
        }
        // The connection is closed now unless another task owns it.
        let (span, levels) = (this.span.clone(), *this.close);
        this.handle.once_closed(move |closed| {
            span.in_scope(|| log_close(levels.of(closed), closed, failure.as_ref()));
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
            Some(inner) => inner.poll(cx),
            None => panic!("a connection's future was polled after completion"),
        };
        drop(entered);
        record_name(this.span, this.handle);
        let result = ready!(result);
        if let Err(error) = &result {
            let logs = this.close.may_log() && this.handle.source().is_none();
            let failure = logs.then(|| Failure(error.to_string()));
            self.close(failure);
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

    use getty_core::{Address, Close, CloseReason, Endpoints, TransportKind};
    use getty_test::{Log, assert_layer_contract};
    use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;

    /// Error that counts how often it is formatted.
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
    fn span_has_the_connection_fields_and_contains_all_its_events() {
        struct LogOnDrop(&'static str);
        impl Drop for LogOnDrop {
            fn drop(&mut self) {
                tracing::info!("{}", self.0);
            }
        }

        let log = Log::capture_at(Level::TRACE);
        let mut service = TraceLayer::new().layer(service_fn(|connection: Connection<u8>| {
            tracing::info!("service called");
            async move {
                let _local = LogOnDrop("dropped");
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

        let spans = log.spans();
        let [span] = &spans[..] else {
            panic!("{spans:?}")
        };
        assert_eq!((span.name, span.level), ("connection", Level::INFO));
        let expected = [
            ("connection", id.to_string()),
            ("local", "192.0.2.2:7000".to_owned()),
            ("name", format!("tcp-{id}")),
            ("peer", "192.0.2.1:5000".to_owned()),
            ("transport", "tcp".to_owned()),
        ];
        for (name, value) in &expected {
            assert_eq!(span.field(name), value);
        }
        assert!(span.field_names().eq(expected.map(|(name, _)| name)));
        let events = log.events();
        let seen: Vec<_> = events
            .iter()
            .map(|event| (event.message(), event.spans.len()))
            .collect();
        assert_eq!(
            seen,
            [
                ("connection opened", 1),
                ("service called", 1),
                ("polled", 1),
                ("elsewhere", 0),
                ("dropped", 1),
                ("connection closed", 1),
            ]
        );
    }

    #[test]
    fn close_event_is_emitted_once_with_reason_statistics_and_lifetime() {
        let log = Log::capture();
        let formatted = Arc::new(AtomicUsize::new(0));
        let (mut service, mut handle) =
            mock::spawn_layer::<Connection<u8>, (), _>(TraceLayer::new());
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(connection()));
        assert_pending!(response.poll());
        let (connection, inner) = assert_ready!(handle.poll_request()).unwrap();
        connection.handle().close_with(
            Close::new(CloseReason::Protocol {
                code: 1009,
                reason: "too big".into(),
            })
            .with_source(Counted(formatted.clone())),
        );
        drop(connection);
        inner.send_response(());
        assert!(response.is_woken());
        assert_ready_ok!(response.poll());
        drop(response);
        let events = log.events();
        let [_, end] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(end.level, Level::DEBUG);
        assert_eq!(end.message(), "connection closed");
        assert_eq!(end.field("reason"), "protocol");
        assert_eq!(end.field("code"), "1009");
        assert_eq!(end.field("error"), "counted");
        assert_ne!(end.field("lifetime"), "");
        for counter in [
            "bytes_in",
            "bytes_out",
            "messages_in",
            "messages_out",
            "skipped",
            "dropped",
        ] {
            assert_eq!(end.field(counter), "0", "{counter}");
        }
        assert_eq!(formatted.load(SeqCst), 1);
    }

    #[test]
    fn disabled_spans_and_events_are_not_formatted() {
        for most in [None, Some(Level::ERROR), Some(Level::INFO)] {
            let log = most.map_or_else(Log::disabled, Log::capture_at);
            let formatted = Arc::new(AtomicUsize::new(0));
            let source = Counted(formatted.clone());
            let mut service =
                TraceLayer::new().layer(service_fn(move |connection: Connection<u8>| {
                    connection
                        .handle()
                        .close_with(Close::new(CloseReason::Io).with_source(source.clone()));
                    async { Ok::<_, Infallible>(()) }
                }));
            assert_ready_ok!(task::spawn(service.call(connection())).poll());
            assert_eq!(formatted.load(SeqCst), 0);
            assert_eq!(log.events(), []);
            assert_eq!(log.spans().len(), usize::from(most == Some(Level::INFO)));
        }
    }

    #[test]
    fn all_levels_can_be_set() {
        for level in [
            Level::ERROR,
            Level::WARN,
            Level::INFO,
            Level::DEBUG,
            Level::TRACE,
        ] {
            let log = Log::capture_at(Level::TRACE);
            let layer = TraceLayer::new()
                .with_span_level(level)
                .with_open_level(level)
                .with_close_level(level)
                .with_failure_level(level);
            let mut service = layer.layer(service_fn(|_: Connection<u8>| async {
                Ok::<_, Infallible>(())
            }));
            assert_ready_ok!(task::spawn(service.call(connection())).poll());
            assert_eq!(log.spans()[0].level, level);
            let levels: Vec<_> = log.events().iter().map(|event| event.level).collect();
            assert_eq!(levels, [level; 2]);
        }
    }

    #[test]
    fn close_event_follows_a_close_by_another_task() {
        let log = Log::capture_at(Level::TRACE);
        let (mut service, mut handle) =
            mock::spawn_layer::<Connection<u8>, (), _>(TraceLayer::new());
        assert_ready_ok!(service.poll_ready());
        let response = task::spawn(service.call(connection()));
        let (connection, _inner) = assert_ready!(handle.poll_request()).unwrap();
        drop(response);
        assert_eq!(log.events().len(), 1, "the connection is not closed yet");
        drop(connection);
        let events = log.events();
        assert_eq!(events[1].message(), "connection closed");
        assert_eq!(events[1].spans, ["connection"]);
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&TraceLayer::new(), connection).await;
    }
}
