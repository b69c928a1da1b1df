//! The request of an open WebSocket.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};

use super::headers::mark_sensitive;

/// Upgrade request of an open WebSocket. It is an attribute of the connection's handle. It
/// contains the path, the query, the agreed subprotocol, and the header fields that the layer
/// keeps.
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
pub struct WsRequest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    uri: Uri,
    headers: HeaderMap,
    protocol: Option<HeaderValue>,
}

impl WsRequest {
    /// Copies the URI and the header fields in `kept`. The parts of `request` may share the buffer
    /// that it was parsed in.
    // (design.md: Why does a session keep only the header fields that are named?)
    pub(in crate::ws) fn new(
        request: &Request<()>,
        protocol: Option<HeaderValue>,
        kept: &[HeaderName],
    ) -> Self {
        let mut headers = HeaderMap::new();
        for name in kept {
            for value in request.headers().get_all(name) {
                let copied = HeaderValue::from_bytes(value.as_bytes());
                let mut value =
                    copied.unwrap_or_else(|_| unreachable!("the text was a header value"));
                mark_sensitive(name, &mut value);
                headers.append(name.clone(), value);
            }
        }
        let uri = Uri::try_from(request.uri().to_string());
        Self(Arc::new(Inner {
            uri: uri.unwrap_or_else(|_| request.uri().clone()),
            headers,
            protocol,
        }))
    }

    /// Returns the requested path and query.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0.uri
    }

    /// Returns the requested path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.uri.path()
    }

    /// Returns the header fields that
    /// [`WsLayer::with_kept_headers`](crate::ws::WsLayer::with_kept_headers) names. The default is
    /// none because an idle session would otherwise hold the whole head. An accept hook sees all
    /// fields. A client's request has none here. `Authorization`, `Proxy-Authorization` and
    /// `Cookie` are marked as sensitive: `Debug` does not show their values.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// Returns the agreed subprotocol, or `None` if there is none.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.0.protocol.as_ref()?.to_str().ok()
    }
}
