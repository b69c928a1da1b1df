//! Replies to messages whose payload cannot be decoded.
//!
//! A codec with a tolerant format, such as getty's `codec::Json::tolerant`, returns each
//! message as `Result<In, Malformed>`. The layer replies to [`Malformed`] with the result of a
//! function, and the services inside it receive messages of type `In`.
//!
//! - *ready*: as the inner service.
//! - *call*: calls the inner service with the message. For a malformed message the function's
//!   result is the reply: a message, an `Option` or `Vec` of messages, or a [`Reply`] that also
//!   closes. Such a reply is marked with [`Reply::after_error`], so that the session loop
//!   returns the permits that the inner service had reserved.
//! - *drop*: drops the inner future.
//! - *close*: nothing.
//!
//! Scope: message. It must be inside `SessionLayer`, and outside the layers and the handler
//! that receive messages of type `In`. So it is usually the outermost layer of the message
//! stack. Without a tolerant format a malformed message closes the session with
//! [`CloseReason::Decode`](getty_core::CloseReason::Decode). An invalid frame always does.
//!
//! The layer and a tolerant format need each other. With the layer alone the compiler reports
//! that the format cannot decode a `Result<In, Malformed>`, or that the layer is no service of
//! `Request<In, _>`: call `tolerant()` on the codec. With the format alone it reports that the
//! handler is no service of `Request<Result<In, Malformed>, _>`: add the layer.
//!
//! A payload that the handler's argument decodes, such as getty's `handler::Json`, does not
//! reach the layer. If it is malformed, the call fails with [`Malformed`], and a
//! [`HandleErrorLayer`](crate::HandleErrorLayer) inside replies.
//!
//! ```
//! use getty_core::{Connection, Request, driver};
//! use getty_layers::{Malformed, HandleMalformedLayer};
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let mut stack = ServiceBuilder::new()
//!     .layer(HandleMalformedLayer::new(|malformed| format!("ERR {malformed}")))
//!     .service_fn(|request: Request<u32, String>| async move {
//!         Ok::<_, BoxError>(format!("OK {}", request.message()))
//!     });
//!
//! let connection = Connection::new("any transport");
//! let (session, _driver) = driver::pair(connection.handle().clone());
//! for (text, expected) in [("7", "OK 7"), ("seven", "ERR malformed number of 5 bytes")] {
//!     let message = text.parse().map_err(|error| Malformed::new("number", text.len(), error));
//!     let request = Request::new(message, session.clone());
//!     let (messages, _) = stack.ready().await?.call(request).await?.into_parts();
//!     assert_eq!(messages.collect::<Vec<_>>(), [expected]);
//! }
//! # Ok(())
//! # }
//! ```

use std::{
    any::type_name,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use getty_core::{IntoReply, Reply, Request};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

type BoxError = Box<dyn Error + Send + Sync>;

/// Returned for a message whose frame is correct and whose payload cannot be decoded.
///
/// `Display` and `Debug` contain the name of the format, the length of the payload and, for
/// getty's formats, the kind of the error. They do not quote the payload, because errors are
/// logged. The format's error may quote it. So it is not the [`source`](Error::source) but the
/// [`reason`](Self::reason), for a reply to the peer that sent the payload (design.md: Why has
/// `Malformed` no source?).
///
/// Clones share the error.
#[derive(Clone)]
pub struct Malformed(Arc<Content>);

#[derive(Debug)]
struct Content {
    format: &'static str,
    length: usize,
    summary: Option<Box<str>>,
    reason: BoxError,
}

impl Malformed {
    /// Creates a new error for a payload of `length` bytes. `format` is the name of the format,
    /// such as `JSON`.
    #[cold]
    pub fn new(format: &'static str, length: usize, reason: impl Into<BoxError>) -> Self {
        Self::with_content(format, length, None, reason.into())
    }

    /// Creates a new error like [`new`](Self::new), with a short description of the reason.
    /// `summary` appears in logs, so it must not quote the payload.
    #[cold]
    pub fn with_summary(
        format: &'static str,
        length: usize,
        summary: impl Into<String>,
        reason: impl Into<BoxError>,
    ) -> Self {
        let summary = summary.into().into_boxed_str();
        Self::with_content(format, length, Some(summary), reason.into())
    }

    fn with_content(
        format: &'static str,
        length: usize,
        summary: Option<Box<str>>,
        reason: BoxError,
    ) -> Self {
        Self(Arc::new(Content {
            format,
            length,
            summary,
            reason,
        }))
    }

    /// Returns the name of the format.
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.0.format
    }

    /// Returns the length of the malformed payload in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.length
    }

    /// Returns the format's error, such as `serde_json::Error`. Its text may quote the payload.
    #[must_use]
    pub fn reason(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0.reason
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Content {
            format,
            length,
            summary,
            ..
        } = &*self.0;
        let unit = if *length == 1 { "byte" } else { "bytes" };
        write!(f, "malformed {format} of {length} {unit}")?;
        match summary {
            Some(summary) => write!(f, ": {summary}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Malformed")
            .field("format", &self.0.format)
            .field("length", &self.0.length)
            .field("summary", &self.0.summary)
            .finish_non_exhaustive()
    }
}

impl Error for Malformed {}

/// Replies to malformed messages; see the [module](self).
#[derive(Clone)]
pub struct HandleMalformedLayer<H> {
    handler: H,
}

impl<H> HandleMalformedLayer<H> {
    /// Creates a new layer that replies to malformed messages with the result of `handler`.
    ///
    /// The function must not block. A reply that closes should have the close reason
    /// [`CloseReason::Decode`](getty_core::CloseReason::Decode). The default is
    /// [`CloseReason::Local`](getty_core::CloseReason::Local), which is not logged as a failure.
    pub const fn new<R>(handler: H) -> Self
    where
        H: Fn(Malformed) -> R,
    {
        Self { handler }
    }
}

impl<H> fmt::Debug for HandleMalformedLayer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleMalformedLayer")
            .field("handler", &format_args!("{}", type_name::<H>()))
            .finish()
    }
}

impl<S, H: Clone> Layer<S> for HandleMalformedLayer<H> {
    type Service = HandleMalformed<S, H>;

    fn layer(&self, inner: S) -> Self::Service {
        HandleMalformed {
            inner,
            handler: self.handler.clone(),
        }
    }
}

/// Service of [`HandleMalformedLayer`].
#[derive(Clone)]
pub struct HandleMalformed<S, H> {
    inner: S,
    handler: H,
}

impl<S, H> HandleMalformed<S, H> {
    getty_core::inner_service_accessors!();
}

impl<S: fmt::Debug, H> fmt::Debug for HandleMalformed<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleMalformed")
            .field("inner", &self.inner)
            .field("handler", &format_args!("{}", type_name::<H>()))
            .finish()
    }
}

impl<S, H, R, In, Out> Service<Request<Result<In, Malformed>, Out>> for HandleMalformed<S, H>
where
    S: Service<Request<In, Out>>,
    S::Response: IntoReply<Out>,
    H: Fn(Malformed) -> R,
    R: IntoReply<Out>,
{
    type Response = Reply<Out>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Out>;

    /// Polls the inner service. A drop will give back its reservation.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Result<In, Malformed>, Out>) -> Self::Future {
        let state = match request.transpose() {
            Ok(request) => ResponseState::Called {
                inner: self.inner.call(request),
            },
            Err(malformed) => ResponseState::Malformed {
                reply: Some((self.handler)(malformed).into_reply().after_error()),
            },
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// Future of [`HandleMalformed`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, Out> {
        #[pin]
        state: ResponseState<F, Out>,
    }
}

pin_project! {
    #[project = ResponseStateProjection]
    enum ResponseState<F, Out> {
        Called {
            #[pin]
            inner: F,
        },
        Malformed {
            reply: Option<Reply<Out>>,
        },
    }
}

impl<F, Response, Error, Out> Future for ResponseFuture<F, Out>
where
    F: Future<Output = Result<Response, Error>>,
    Response: IntoReply<Out>,
{
    type Output = Result<Reply<Out>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            ResponseStateProjection::Called { inner } => {
                ready!(inner.poll(cx)).map(IntoReply::into_reply)
            }
            ResponseStateProjection::Malformed { reply } => {
                Ok(reply.take().expect("polled after completion"))
            }
        })
    }
}

impl<F, Out> fmt::Debug for ResponseFuture<F, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(getty_loom)))]
mod tests {
    use std::{convert::Infallible, future::pending};

    use getty_core::{Close, CloseReason};
    use getty_test::assert_layer_contract;
    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower::service_fn;
    use tower_test::mock;

    use super::*;
    use crate::testing::request;

    type Message = Request<Result<&'static str, Malformed>, String>;

    fn good() -> Message {
        request().map(Ok)
    }

    fn bad() -> Message {
        request::<String>().map(|_| Err(Malformed::new("JSON", 5, "quoted \"secret\"")))
    }

    fn layer() -> HandleMalformedLayer<impl Fn(Malformed) -> String + Clone> {
        HandleMalformedLayer::new(|malformed: Malformed| malformed.to_string())
    }

    #[test]
    fn message_is_passed_on_and_its_response_returned() {
        let mut service = layer().layer(service_fn(
            |request: Request<&'static str, String>| async move {
                Ok::<_, Infallible>(Some(request.into_message().to_owned()))
            },
        ));
        let reply = assert_ready_ok!(task::spawn(service.call(good())).poll());
        assert_eq!(reply, Reply::one("hello".to_owned()));
    }

    #[test]
    fn malformed_message_is_answered_without_a_call_of_the_inner_service() {
        let (mut service, mut handle) =
            mock::spawn_with(|inner: mock::Mock<Request<&'static str, String>, String>| {
                layer().layer(inner)
            });
        assert_ready_ok!(service.poll_ready());
        let reply = assert_ready_ok!(task::spawn(service.call(bad())).poll());
        let expected = "malformed JSON of 5 bytes".to_owned();
        assert_eq!(reply, Reply::one(expected).after_error());
        assert_pending!(handle.poll_request());
    }

    #[test]
    fn handler_may_close_the_session() {
        let layer = HandleMalformedLayer::new(|malformed| {
            Reply::one(malformed.reason().to_string()).and_close_with(CloseReason::Decode)
        });
        let mut service = layer.layer(service_fn(|_: Request<&'static str, String>| {
            pending::<Result<String, Infallible>>()
        }));
        let reply = assert_ready_ok!(task::spawn(service.call(bad())).poll());
        let (messages, close) = reply.into_parts();
        assert_eq!(messages.collect::<Vec<_>>(), ["quoted \"secret\""]);
        assert_eq!(
            close.as_ref().map(Close::reason),
            Some(&CloseReason::Decode)
        );
    }

    #[test]
    fn texts_for_logs_contain_no_content() {
        let plain = Malformed::new("JSON", 17, "invalid: \"secret\"");
        let described =
            Malformed::with_summary("JSON", 17, "wrong type at column 3", "invalid: \"secret\"");
        let short = Malformed::new("JSON", 1, "reason");
        assert_eq!(short.to_string(), "malformed JSON of 1 byte");
        assert_eq!(
            described.to_string(),
            "malformed JSON of 17 bytes: wrong type at column 3"
        );
        for malformed in [plain, described] {
            assert!(!format!("{malformed} {malformed:?}").contains("secret"));
            assert!(malformed.source().is_none());
            assert!(malformed.reason().to_string().contains("secret"));
            assert_eq!((malformed.format(), malformed.length()), ("JSON", 17));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn layer_follows_the_contract() {
        assert_layer_contract(&layer(), good).await;
    }
}
