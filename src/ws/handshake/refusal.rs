//! Refusals of upgrade requests.

use std::{borrow::Cow, error::Error, fmt};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

/// HTTP response to a request that is not accepted.
///
/// An [accept hook](crate::ws::WsLayer::with_accept) or an earlier check creates it. The peer
/// receives it, and it is the source of [`CloseReason::Refused`](crate::CloseReason::Refused).
#[derive(Clone, Debug)]
pub struct WsRefusal(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    status: StatusCode,
    headers: HeaderMap,
    reason: Cow<'static, str>,
}

impl WsRefusal {
    /// Creates a refusal with `status`, which must be an error or a redirection. Any other status
    /// is sent as 403. The `reason` is for people and is sent as the body.
    pub fn new(status: StatusCode, reason: impl Into<Cow<'static, str>>) -> Self {
        let refuses =
            status.is_client_error() || status.is_server_error() || status.is_redirection();
        Self(Box::new(Inner {
            status: if refuses {
                status
            } else {
                StatusCode::FORBIDDEN
            },
            headers: HeaderMap::new(),
            reason: reason.into(),
        }))
    }

    /// Adds a header field such as `WWW-Authenticate`. If the body is not plain text,
    /// `Content-Type` should be added.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Returns the added header fields.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// Returns the reason, which is for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Returns the complete response.
    pub(in crate::ws) fn response(&self) -> Response<String> {
        let mut response = Response::new(format!("{}\n", self.0.reason));
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
            self.0.status, self.0.reason
        )
    }
}

impl Error for WsRefusal {}
