//! A [`tracing`] span a message, entered whenever its handler works, and an event of how it ended.
//!
//! - *ready*: the inner service's.
//! - *call*: makes the span, and calls the inner service within it; each poll of its future happens within it.
//! - *drop*: drops the inner future. The span ends; no event is told.
//! - *close*: nothing of its own.
//!
//! | what | name, message | level | fields |
//! |---|---|---|---|
//! | the span | `message` | `DEBUG` | `session`, the id; `contents` on request |
//! | an answer | `message handled` | `DEBUG` | `latency` |
//! | an error | `message failed` | `WARN` | `error`; `latency` where the span is enabled |
//!
//! What is disabled costs a look at a flag: nothing is formatted for it and no clock is read. The latency is from the call
//! to the answer, waits of the handler included; the wait for readiness before it is not. What messages say is secret
//! unless [`with_contents`](MessageTraceLayer::with_contents) is asked for.
//!
//! Scope: message. It stands inside `SessionLayer`. Layers outside it are not in the span, and it sees the errors of
//! those inside it: outside [`HandleErrorLayer`](crate::HandleErrorLayer) it sees none.
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

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Level, Span};

use getty_core::Request;

type BoxError = Box<dyn Error + Send + Sync>;

/// A span a message, and an event of how it ended; see the [module](self).
#[derive(Clone, Debug)]
pub struct MessageTraceLayer<C = Secret> {
    level: Level,
    error_level: Level,
    contents: PhantomData<C>,
}

/// Messages are not shown.
#[derive(Clone, Copy, Debug)]
pub struct Secret;

/// Messages are shown: [`MessageTraceLayer::with_contents`].
#[derive(Clone, Copy, Debug)]
pub struct Shown;

/// How a message of type `In` is shown: [`Secret`] or [`Shown`].
pub trait Contents<In>: sealed::Sealed {
    /// What is to be shown of it.
    fn of(message: &In) -> Option<&dyn fmt::Debug>;
}

mod sealed {
    #[expect(unnameable_types, reason = "only the two types here are `Contents`")]
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
    /// The span and the event of an answer at `DEBUG`, the event of an error at `WARN`, contents not shown.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            level: Level::DEBUG,
            error_level: Level::WARN,
            contents: PhantomData,
        }
    }

    /// Shows what messages say, with their `Debug`, as a field of the span. Off by default, for messages may hold
    /// what no log is to hold.
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
    /// The level of the span, and of the event of an answer. `DEBUG` by default.
    #[must_use]
    pub const fn with_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// The level of the event of an error. `WARN` by default.
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

/// The service that [`MessageTraceLayer`] makes.
#[derive(Clone, Debug)]
pub struct MessageTrace<S, C = Secret> {
    inner: S,
    layer: MessageTraceLayer<C>,
}

impl<S, C> MessageTrace<S, C> {
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

impl<S, C, In, Out: 'static> Service<Request<In, Out>> for MessageTrace<S, C>
where
    S: Service<Request<In, Out>>,
    S::Error: Into<BoxError>,
    C: Contents<In>,
{
    type Response = S::Response;
    /// The inner service's.
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    /// Reserves what the inner service reserves, which gives it back when it is dropped.
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
                session = request.session().id(),
                contents = C::of(request.message()).map(tracing::field::debug),
            )
        );
        let start = (!span.is_disabled()).then(Instant::now);
        let inner = span.in_scope(|| self.inner.call(request));
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
    /// The future of [`MessageTrace`].
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
                        event!(latency = ?start.elapsed(), "message handled")
                    );
                }
            }
            Err(error) => at_level!(
                *this.error_level,
                event!(
                    error = &**error as &dyn Error,
                    latency = this
                        .start
                        .map(|start| tracing::field::debug(start.elapsed())),
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

    use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;
    use crate::{levels::record::record, testing::assert_readiness};
    use getty_core::{Connection, driver};

    type Message = Request<Private, &'static str>;

    /// A message that must not be shown.
    struct Private;

    impl fmt::Debug for Private {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("shown")
        }
    }

    fn request<In>(message: In) -> Request<In, &'static str> {
        let connection = Connection::new(());
        let (session, _driver) = driver::pair(connection.handle().clone());
        Request::new(message, session)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_told_with_its_latency_and_without_the_contents() {
        let (recorder, _guard) = record(Some(Level::DEBUG));
        let (mut service, mut handle) =
            mock::spawn_layer::<Message, &'static str, _>(MessageTraceLayer::new());
        assert_ready_ok!(service.poll_ready());
        let request = request(Private);
        let id = request.session().id().to_string();
        let mut response = task::spawn(service.call(request));
        assert_pending!(response.poll());
        let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
        tokio::time::advance(Duration::from_millis(1500)).await;
        inner.send_response("answer");
        assert!(response.is_woken());
        assert_eq!(assert_ready_ok!(response.poll()), "answer");
        assert_eq!(
            recorder.spans(),
            [("message", Level::DEBUG, [("session", id)].into())]
        );
        let [told] = &recorder.events()[..] else {
            panic!("one event")
        };
        assert_eq!((told.text(), told.level), ("message handled", Level::DEBUG));
        assert_eq!(told.fields["latency"], "1.5s");
        assert_eq!(told.within, ["message"]);
    }

    #[test]
    fn an_error_is_told_at_a_level_of_its_own_and_passes_through() {
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
            let (recorder, _guard) = record(Some(most));
            let mut service = layer.layer(service_fn(|_: Message| async {
                Err::<&str, _>(io::Error::other("disk full"))
            }));
            let error = assert_ready_err!(task::spawn(service.call(request(Private))).poll());
            assert!(error.is::<io::Error>());
            let [told] = &recorder.events()[..] else {
                panic!("one event")
            };
            assert_eq!((told.text(), told.level), ("message failed", level));
            assert_eq!(told.fields["error"], "disk full");
            assert_eq!(told.fields.contains_key("latency"), latency);
        }
    }

    #[test]
    fn contents_are_shown_on_request_where_that_is_enabled() {
        for (most, spans) in [(Level::TRACE, 1), (Level::DEBUG, 0)] {
            let (recorder, _guard) = record(Some(most));
            let layer = MessageTraceLayer::new().with_level(Level::TRACE);
            let handler = service_fn(|_| async { Ok::<_, Infallible>("answer") });
            let mut shown = layer.clone().with_contents().layer(handler);
            assert_ready_ok!(task::spawn(shown.call(request("hello"))).poll());
            assert_eq!(recorder.spans().len(), spans);
            for (_, _, fields) in recorder.spans() {
                assert_eq!(fields["contents"], "\"hello\"");
            }
            if spans == 0 {
                // asked for, and still not formatted
                let handler = service_fn(|_: Message| async { Ok::<_, Infallible>("answer") });
                let mut shown = layer.with_contents().layer(handler);
                assert_ready_ok!(task::spawn(shown.call(request(Private))).poll());
            }
        }
    }

    #[test]
    fn what_the_handler_tells_nests_in_the_span() {
        let (recorder, _guard) = record(Some(Level::DEBUG));
        let mut service = MessageTraceLayer::new().layer(service_fn(|_: Message| {
            tracing::info!("called");
            async {
                tracing::info!("polled");
                Ok::<_, Infallible>("answer")
            }
        }));
        assert_ready_ok!(task::spawn(service.call(request(Private))).poll());
        for told in recorder.events() {
            assert_eq!(told.within, ["message"], "{told:?}");
        }
        assert_eq!(recorder.events().len(), 3);
    }

    #[test]
    fn it_is_ready_when_the_inner_service_is_and_a_clone_is_not() {
        let layer = MessageTraceLayer::new();
        assert_readiness::<_, Message, &str, _>(&layer, || request(Private));
    }
}
