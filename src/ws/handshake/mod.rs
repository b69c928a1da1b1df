//! The opening handshake: an HTTP request that is answered with 101, or refused.

mod head;
mod open;
mod rules;

use std::{borrow::Cow, error::Error, fmt, io, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};

pub(super) use self::{
    head::{HeadLimits, read_request, read_response, write_head},
    open::open,
    rules::{Origin, Rules},
};

/// The request that opened a WebSocket, and what was agreed: an attribute of the connection's
/// handle. It holds the path, the query, the subprotocol and the header fields that were asked for.
///
/// ```
/// use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Text};
/// use getty::ws::{Messages, WsLayer, WsRequest};
///
/// let stack = ServiceBuilder::new()
///     .layer(WsLayer::new().with_messages(Messages::Text))
///     .layer(CodecLayer::new(Text::new()))
///     .layer(SessionLayer::new())
///     .service_fn(|request: Request<String>| async move {
///         let opened: WsRequest = request.session().get().ok_or("no WebSocket")?;
///         Ok::<_, BoxError>(format!("you are at {}", opened.path()))
///     });
/// # fn check<S: getty::Pipeline<tokio::net::TcpStream>>(_: &S) {}
/// # check(&stack);
/// ```
#[derive(Clone, Debug)]
pub struct WsRequest(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    uri: Uri,
    headers: HeaderMap,
    protocol: Option<HeaderValue>,
}

impl WsRequest {
    /// Copies the URI and the header fields in `kept`: the request's own parts may share the buffer
    /// that it was parsed in.
    pub(super) fn new(
        request: &Request<()>,
        protocol: Option<HeaderValue>,
        kept: &[HeaderName],
    ) -> Self {
        let mut headers = HeaderMap::new();
        for name in kept {
            for value in request.headers().get_all(name) {
                let copied = HeaderValue::from_bytes(value.as_bytes());
                let mut value = copied.unwrap_or_else(|_| unreachable!("it was a value"));
                mark_secret(name, &mut value);
                headers.append(name.clone(), value);
            }
        }
        let uri = Uri::try_from(request.uri().to_string());
        Self(Arc::new(Facts {
            uri: uri.unwrap_or_else(|_| request.uri().clone()),
            headers,
            protocol,
        }))
    }

    /// The path and query that were asked for.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0.uri
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.uri.path()
    }

    /// Returns the header fields that
    /// [`WsLayer::with_kept_headers`](super::WsLayer::with_kept_headers) names. The default is
    /// none, because an idle session would otherwise hold the whole head. An accept hook sees all
    /// fields. A client's request has none here. `Authorization`, `Proxy-Authorization` and
    /// `Cookie` are marked as sensitive: `Debug` does not show their values.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// The subprotocol that was agreed, if one was.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.0.protocol.as_ref()?.to_str().ok()
    }
}

/// The answer to a request that is not accepted.
///
/// Made by an [accept hook](super::WsLayer::with_accept), and by the checks before it. It is what the peer gets, and the
/// source of [`CloseReason::Refused`](crate::CloseReason::Refused).
#[derive(Clone, Debug)]
pub struct WsRefusal(Box<Refusal>);

#[derive(Clone, Debug)]
struct Refusal {
    status: StatusCode,
    headers: HeaderMap,
    why: Cow<'static, str>,
}

impl WsRefusal {
    /// A refusal with `status`, which is to be one of an error or a redirection: others are sent as 403. `why` is for
    /// people, and is sent as the body.
    pub fn new(status: StatusCode, why: impl Into<Cow<'static, str>>) -> Self {
        let refuses =
            status.is_client_error() || status.is_server_error() || status.is_redirection();
        Self(Box::new(Refusal {
            status: if refuses {
                status
            } else {
                StatusCode::FORBIDDEN
            },
            headers: HeaderMap::new(),
            why: why.into(),
        }))
    }

    /// With another header, such as `WWW-Authenticate`; or with `Content-Type`, where `why` is not plain text.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The headers that were added.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// The reason, for people.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.0.why
    }

    /// The whole answer.
    pub(super) fn response(&self) -> http::Response<String> {
        let mut response = http::Response::new(format!("{}\n", self.0.why));
        *response.status_mut() = self.0.status;
        *response.headers_mut() = self.0.headers.clone();
        response
            .headers_mut()
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    }
}

impl fmt::Display for WsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the upgrade was refused with {}: {}",
            self.0.status, self.0.why
        )
    }
}

impl Error for WsRefusal {}

/// Why a connection did not become a WebSocket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WsHandshakeError {
    /// The request was refused, and answered so.
    Refused(WsRefusal),
    /// The request was not complete within the time.
    TimedOut(Duration),
    /// The peer left before its request was complete.
    Closed,
    /// Somebody closed the connection on this side meanwhile; its record has the reason.
    Cancelled,
    /// The byte stream failed.
    Io(Arc<io::Error>),
}

impl fmt::Display for WsHandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(_) => f.write_str("the connection did not become a WebSocket"),
            Self::TimedOut(time) => write!(f, "the WebSocket handshake took more than {time:?}"),
            Self::Closed => f.write_str("the peer left in the WebSocket handshake"),
            Self::Cancelled => f.write_str("the connection was closed in the WebSocket handshake"),
            Self::Io(_) => f.write_str("the transport failed in the WebSocket handshake"),
        }
    }
}

impl Error for WsHandshakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Io(error) => Some(&**error),
            Self::TimedOut(_) | Self::Closed | Self::Cancelled => None,
        }
    }
}

impl From<io::Error> for WsHandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<WsRefusal> for WsHandshakeError {
    fn from(refusal: WsRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Keeps a header by which somebody proves who they are out of what `Debug` shows, and so out of logs.
pub(super) fn mark_secret(name: &HeaderName, value: &mut HeaderValue) {
    let secret = [
        header::AUTHORIZATION,
        header::COOKIE,
        header::PROXY_AUTHORIZATION,
    ];
    if secret.contains(name) {
        value.set_sensitive(true);
    }
}

/// Whether a comma-separated header has `token`, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

/// The method, and all that it takes to accept: see [`Rules::check`].
fn is_get(method: &Method) -> bool {
    *method == Method::GET
}
