//! Creates a [`tracing`] span for each message and an event when its handler completes.
//!
//! - *ready*: as the inner service.
//! - *call*: creates the span, and calls the inner service within it. Each poll of its future
//!   runs within the span.
//! - *drop*: drops the inner future. The span ends without an event.
//! - *close*: nothing.
//!
//! | item | name or message | level | fields |
//! |---|---|---|---|
//! | span | `message` | `DEBUG` | `connection` (the id); `contents` if enabled |
//! | response | `message handled` | `DEBUG` | `latency_seconds`, a number |
//! | error | `message failed` | `WARN` | `error`; `latency_seconds` if the span is enabled |
//!
//! A disabled span or event costs the check of a flag: nothing is formatted and no clock is
//! read. The latency is the time from the call to the response. It includes the time that the
//! handler waits, but not the wait for readiness before the call. Message contents are not
//! logged, unless [`with_contents`](MessageTraceLayer::with_contents) enables them.
//!
//! Scope: message. It must be inside `SessionLayer`. Layers outside it are not in the span. It
//! observes the errors of layers inside it, so it observes none outside
//! [`HandleErrorLayer`](crate::HandleErrorLayer).
//!
//! ```
//! use getty_core::{Connection, Request, driver};
//! use getty_layers::MessageTraceLayer;
//! use tower::{BoxError, ServiceBuilder, ServiceExt};
//! use tracing::Level;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let stack = ServiceBuilder::new()
//!     .layer(MessageTraceLayer::new().with_level(Level::TRACE).with_contents())
//!     .service_fn(|request: Request<String>| async move {
//!         Ok::<_, BoxError>(request.into_message())
//!     });
//! let (session, _driver) = driver::pair(Connection::new(()).handle().clone());
//! assert_eq!(stack.oneshot(Request::new("hello".to_owned(), session)).await?, "hello");
//! # Ok(())
//! # }
//! ```

use std::{
    error::Error,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use getty_core::Request;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, Span};

type BoxError = Box<dyn Error + Send + Sync>;

/// Creates a span for each message and an event when its handler completes; see the
/// [module](self).
///
/// `C` is [`Secret`] or [`Shown`].
#[doc(alias = "log")]
#[derive(Clone, Debug)]
pub struct MessageTraceLayer<C = Secret> {
    level: Level,
    error_level: Level,
    contents: PhantomData<C>,
}

/// Marker of a [`MessageTraceLayer`] that does not log message contents. This is the default.
#[derive(Clone, Copy, Debug)]
pub struct Secret;

/// Marker of a [`MessageTraceLayer`] that logs message contents; see
/// [`MessageTraceLayer::with_contents`].
#[derive(Clone, Copy, Debug)]
pub struct Shown;

/// Access to the contents of messages of type `In` for logging. Implemented for [`Secret`] and
/// [`Shown`].
pub trait Contents<In>: sealed::Sealed {
    /// Returns the contents to log, or `None`.
    fn of(message: &In) -> Option<&dyn fmt::Debug>;
}

mod sealed {
    #[expect(unnameable_types, reason = "it seals the trait")]
    pub trait Sealed {}
    impl Sealed for super::Secret {}
    impl Sealed for super::Shown {}
}

impl<In> Contents<In> for Secret {
    fn of(_: &In) -> Option<&dyn fmt::Debug> {
        None
    }
}

impl<In: fmt::Debug> Contents<In> for Shown {
    fn of(message: &In) -> Option<&dyn fmt::Debug> {
        Some(message)
    }
}

impl MessageTraceLayer {
    /// Creates a new layer with the span and the response event at `DEBUG` and the error event at
    /// `WARN`, without message contents.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            level: Level::DEBUG,
            error_level: Level::WARN,
            contents: PhantomData,
        }
    }

    /// Logs the contents of messages, by their `Debug`, as a field of the span. The default is not
    /// to log them, because messages may contain private data.
    #[must_use]
    pub const fn with_contents(self) -> MessageTraceLayer<Shown> {
        MessageTraceLayer {
            level: self.level,
            error_level: self.error_level,
            contents: PhantomData,
        }
    }
}

impl<C> MessageTraceLayer<C> {
    /// Sets the level of the span and of the response event. The default is `DEBUG`.
    #[must_use]
    pub const fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Sets the level of the error event. The default is `WARN`.
    #[must_use]
    pub const fn with_error_level(mut self, level: Level) -> Self {
        self.error_level = level;
        self
    }
}

impl Default for MessageTraceLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, C: Clone> Layer<S> for MessageTraceLayer<C> {
    type Service = MessageTrace<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        MessageTrace {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service of [`MessageTraceLayer`].
#[derive(Clone, Debug)]
pub struct MessageTrace<S, C = Secret> {
    inner: S,
    layer: MessageTraceLayer<C>,
}

impl<S, C> MessageTrace<S, C> {
    getty_core::inner_service_accessors!();
}

impl<S, C, In, Out: 'static> Service<Request<In, Out>> for MessageTrace<S, C>
where
    S: Service<Request<In, Out>>,
    S::Error: Into<BoxError>,
    C: Contents<In>,
{
    type Response = S::Response;
    /// Error of the inner service.
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Request<In, Out>) -> Self::Future {
        let MessageTraceLayer {
            level, error_level, ..
        } = self.layer;
        let span = at_level!(
            level,
            span!(
                "message",
                connection = request.session().id(),
                contents = C::of(request.message()).map(tracing::field::debug),
            )
        );
        let start = (!span.is_disabled()).then(Instant::now);
        // Not `in_scope`, which would leak the future if the subscriber panics.
        let entered = span.enter();
        let inner = self.inner.call(request);
        drop(entered);
        ResponseFuture {
            inner,
            span,
            start,
            level,
            error_level,
        }
    }
}

pin_project! {
    /// Future of [`MessageTrace`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        span: Span,
        start: Option<Instant>,
        level: Level,
        error_level: Level,
    }
}

impl<F, Response, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        let result = ready!(this.inner.poll(cx)).map_err(Into::into);
        match &result {
            Ok(_) => {
                if let Some(start) = this.start {
                    at_level!(
                        *this.level,
                        event!(
                            latency_seconds = start.elapsed().as_secs_f64(),
                            "message handled"
                        )
                    );
                }
            }
            Err(error) => at_level!(
                *this.error_level,
                event!(
                    error = &**error as &dyn Error,
                    latency_seconds = this.start.map(|start| start.elapsed().as_secs_f64()),
                    "message failed"
                )
            ),
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
    use std::{convert::Infallible, io, time::Duration};

    use getty_core::{Connection, driver};
    use getty_test::{Log, assert_layer_contract};
    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;

    type Message = Request<Private, &'static str>;

    /// Message that must not be logged.
    struct Private;

    impl fmt::Debug for Private {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("the contents were formatted")
        }
    }

    fn request<In>(message: In) -> Request<In, &'static str> {
        let connection = Connection::new(());
        let (session, _driver) = driver::pair(connection.handle().clone());
        Request::new(message, session)
    }

    #[tokio::test(start_paused = true)]
    async fn response_event_has_the_latency_and_no_contents() {
        let log = Log::capture();
        let (mut service, mut handle) =
            mock::spawn_layer::<Message, &'static str, _>(MessageTraceLayer::new());
        assert_ready_ok!(service.poll_ready());
        let request = request(Private);
        let id = request.session().id().to_string();
        let mut response = task::spawn(service.call(request));
        assert_pending!(response.poll());
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        tokio::time::advance(Duration::from_millis(1500)).await;
        inner.send_response("response");
        assert!(response.is_woken());
        assert_eq!(assert_ready_ok!(response.poll()), "response");
        let [span] = &log.spans()[..] else {
            panic!("one span")
        };
        assert_eq!((span.name, span.level), ("message", Level::DEBUG));
        assert_eq!(span.field("connection"), id);
        assert!(span.field_names().eq(["connection"]));
        let [event] = &log.events()[..] else {
            panic!("one event")
        };
        assert_eq!(
            (event.message(), event.level),
            ("message handled", Level::DEBUG)
        );
        assert_eq!(event.field("latency_seconds"), "1.5");
        assert_eq!(event.spans, ["message"]);
    }

    #[test]
    fn error_event_has_a_separate_level_and_the_error_passes_through() {
        for (most, layer, level, latency) in [
            (Level::WARN, MessageTraceLayer::new(), Level::WARN, false),
            (Level::DEBUG, MessageTraceLayer::new(), Level::WARN, true),
            (
                Level::DEBUG,
                MessageTraceLayer::new().with_error_level(Level::ERROR),
                Level::ERROR,
                true,
            ),
        ] {
            let log = Log::capture_at(most);
            let mut service = layer.layer(service_fn(|_: Message| async {
                Err::<&str, _>(io::Error::other("disk full"))
            }));
            let error = assert_ready_err!(task::spawn(service.call(request(Private))).poll());
            assert!(error.is::<io::Error>());
            let [event] = &log.events()[..] else {
                panic!("one event")
            };
            assert_eq!((event.message(), event.level), ("message failed", level));
            assert_eq!(event.field("error"), "disk full");
            assert_eq!(!event.field("latency_seconds").is_empty(), latency);
        }
    }

    #[test]
    fn contents_are_logged_if_enabled() {
        for (most, spans) in [(Level::TRACE, 1), (Level::DEBUG, 0)] {
            let log = Log::capture_at(most);
            let layer = MessageTraceLayer::new().with_level(Level::TRACE);
            let handler = service_fn(|_| async { Ok::<_, Infallible>("response") });
            let mut shown = layer.clone().with_contents().layer(handler);
            assert_ready_ok!(task::spawn(shown.call(request("hello"))).poll());
            assert_eq!(log.spans().len(), spans);
            for span in log.spans() {
                assert_eq!(span.field("contents"), "\"hello\"");
            }
            if spans == 0 {
                // Contents of a disabled span are not formatted.
                let handler = service_fn(|_: Message| async { Ok::<_, Infallible>("response") });
                let mut shown = layer.with_contents().layer(handler);
                assert_ready_ok!(task::spawn(shown.call(request(Private))).poll());
            }
        }
    }

    #[test]
    fn events_of_the_handler_are_inside_the_span() {
        let log = Log::capture();
        let mut service = MessageTraceLayer::new().layer(service_fn(|_: Message| {
            tracing::info!("service called");
            async {
                tracing::info!("polled");
                Ok::<_, Infallible>("response")
            }
        }));
        assert_ready_ok!(task::spawn(service.call(request(Private))).poll());
        for event in log.events() {
            assert_eq!(event.spans, ["message"], "{event:?}");
        }
        assert_eq!(log.events().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        let layer = MessageTraceLayer::new();
        assert_layer_contract(&layer, || request(Private)).await;
    }
}
