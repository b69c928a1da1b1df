//! Rules for accepting requests.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use getty_core::{ConnectionHandle, TransportKind};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{headers::has_token, refusal::WsRefusal, request::WsRequest};
use crate::ws::{
    deflate::{Deflate, PerMessage},
    transport::Role,
};

type PathCheck = Arc<dyn Fn(&str) -> bool + Send + Sync>;
type OriginCheck = Arc<dyn Fn(&str) -> bool + Send + Sync>;
type Accepting = Pin<Box<dyn Future<Output = Result<(), WsRefusal>> + Send>>;
type AcceptHook = Arc<dyn Fn(Request<()>, ConnectionHandle) -> Accepting + Send + Sync>;

/// Rules for accepting requests.
#[derive(Clone, Default)]
pub(in crate::ws) struct Rules {
    pub(in crate::ws) path: Option<PathCheck>,
    pub(in crate::ws) origin: Origin,
    pub(in crate::ws) protocols: Vec<HeaderValue>,
    pub(in crate::ws) needs_protocol: bool,
    /// Header fields that sessions keep.
    pub(in crate::ws) kept: Vec<HeaderName>,
    pub(in crate::ws) accept: Option<AcceptHook>,
}

/// Pages that may connect, by their origin.
#[derive(Clone, Default)]
pub(in crate::ws) enum Origin {
    /// Pages from the host that they connect to.
    #[default]
    Same,
    Any,
    Checked(OriginCheck),
}

/// Valid request: the key's answer and the chosen subprotocol.
pub(in crate::ws) struct Offer {
    accept: String,
    protocol: Option<HeaderValue>,
}

impl Rules {
    /// Checks `request`, calls the hook and adds the request to the handle's attributes. Returns
    /// the response and the agreed compression.
    pub(in crate::ws) async fn decide(
        &self,
        request: Request<()>,
        handle: &ConnectionHandle,
        deflate: Option<&Deflate>,
    ) -> Result<(Response<()>, Option<PerMessage>), WsRefusal> {
        let is_secure = matches!(
            handle.transport(),
            TransportKind::Tls | TransportKind::SecureWebSocket
        );
        let Offer { accept, protocol } = self.check(&request, is_secure)?;
        let opened = WsRequest::new(&request, protocol.clone(), &self.kept);
        let agreed = deflate.and_then(|deflate| {
            let (agreed, answer) = deflate.accept(request.headers())?;
            Some((deflate, agreed, answer))
        });
        match &self.accept {
            Some(hook) => hook(request, handle.clone()).await?,
            None => drop(request),
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        let accept = HeaderValue::try_from(accept);
        headers.insert(
            header::SEC_WEBSOCKET_ACCEPT,
            accept.unwrap_or_else(|_| unreachable!("base64 is text")),
        );
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let deflate = agreed.map(|(deflate, agreed, answer)| {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, answer);
            handle.insert(agreed);
            deflate.open(agreed, Role::Server)
        });
        handle.insert(opened);
        Ok((response, deflate))
    }

    fn check(&self, request: &Request<()>, is_secure: bool) -> Result<Offer, WsRefusal> {
        let headers = request.headers();
        if self
            .path
            .as_ref()
            .is_some_and(|accepts| !accepts(request.uri().path()))
        {
            return Err(WsRefusal::new(
                StatusCode::NOT_FOUND,
                "no WebSocket at this path",
            ));
        }
        if *request.method() != Method::GET {
            let refusal = WsRefusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "a WebSocket handshake requires GET",
            );
            return Err(refusal.with_header(header::ALLOW, HeaderValue::from_static("GET")));
        }
        if request.version() != Version::HTTP_11 {
            return Err(bad("a WebSocket handshake requires HTTP/1.1"));
        }
        if !has_token(headers, &header::UPGRADE, "websocket")
            || !has_token(headers, &header::CONNECTION, "upgrade")
        {
            return Err(upgrade_required(
                "the request must ask for an upgrade to WebSocket",
            ));
        }
        if only(headers, &header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(
                upgrade_required("only version 13 of WebSocket is supported").with_header(
                    header::SEC_WEBSOCKET_VERSION,
                    HeaderValue::from_static("13"),
                ),
            );
        }
        let Some(key) = only(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)) else {
            return Err(bad(
                "Sec-WebSocket-Key must occur once, with 16 bytes in base64",
            ));
        };
        if only(headers, &header::HOST).is_none() {
            return Err(bad("Host must occur once"));
        }
        let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
        if lengths.any(|length| length != "0") || headers.contains_key(header::TRANSFER_ENCODING) {
            return Err(bad("an upgrade request must not have a body"));
        }
        if !self.origin.accepts(headers, is_secure) {
            return Err(WsRefusal::new(
                StatusCode::FORBIDDEN,
                "pages from this origin may not connect",
            ));
        }
        let protocol = self.choose(headers);
        if protocol.is_none() && self.needs_protocol {
            return Err(bad("none of the offered subprotocols is supported"));
        }
        Ok(Offer {
            accept: derive_accept_key(key.as_bytes()),
            protocol,
        })
    }

    /// Returns the first of the server's subprotocols that the client offers.
    fn choose(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let offered = |protocol: &HeaderValue| {
            headers
                .get_all(header::SEC_WEBSOCKET_PROTOCOL)
                .iter()
                .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
                .any(|offer| offer.trim_ascii() == protocol.as_bytes())
        };
        self.protocols.iter().find(|ours| offered(ours)).cloned()
    }
}

impl Origin {
    fn accepts(&self, headers: &HeaderMap, is_secure: bool) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let host = only(headers, &header::HOST).and_then(|host| host.to_str().ok());
        // A request without an origin does not come from a page.
        origins.all(|origin| match (self, origin.to_str()) {
            (Self::Any, _) => true,
            (_, Err(_)) => false,
            (Self::Same, Ok(origin)) => host.is_some_and(|host| is_same(origin, host, is_secure)),
            (Self::Checked(accepts), Ok(origin)) => accepts(origin),
        })
    }
}

/// Returns `true` if `origin` is a page from `host`. If the connection `is_secure`, the page
/// must also have come over TLS. Otherwise the page may have either scheme because a proxy may
/// have ended TLS.
fn is_same(origin: &str, host: &str, is_secure: bool) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false; // "null" is the origin of no host.
    };
    let port = if scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else if scheme.eq_ignore_ascii_case("http") && !is_secure {
        ":80"
    } else {
        return false;
    };
    let bare = |authority: &str| {
        let bare = authority.strip_suffix(port).unwrap_or(authority);
        bare.to_ascii_lowercase()
    };
    bare(authority) == bare(host)
}

/// Returns the value of a header field that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Returns `true` if `key` is 16 bytes in base64.
fn is_key(key: &HeaderValue) -> bool {
    let key = key.as_bytes();
    key.len() == 24
        && key.ends_with(b"==")
        && key[..22]
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

fn bad(reason: &'static str) -> WsRefusal {
    WsRefusal::new(StatusCode::BAD_REQUEST, reason)
}

fn upgrade_required(reason: &'static str) -> WsRefusal {
    WsRefusal::new(StatusCode::UPGRADE_REQUIRED, reason)
        .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("any_path", &self.path.is_none())
            .field("origin", &self.origin)
            .field("protocols", &self.protocols)
            .field("needs_protocol", &self.needs_protocol)
            .field("kept", &self.kept)
            .field("hook", &self.accept.is_some())
            .finish()
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "Same",
            Self::Any => "Any",
            Self::Checked(_) => "Checked",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_origin_ignores_case_and_the_default_port() {
        for (origin, host, same) in [
            ("http://example.com", "example.com", true),
            ("http://Example.com:80", "example.com", true),
            ("https://example.com", "example.com:443", true),
            ("https://example.com", "example.com:80", false),
            ("http://example.com:7080", "example.com:7080", true),
            ("http://example.com:7080", "example.com", false),
            ("HTTPS://example.com", "example.com", true),
            ("ftp://example.com", "example.com", false),
            ("http://evil.com", "example.com", false),
            ("http://evil.com/example.com", "example.com", false),
            ("http://example.com.evil.com", "example.com", false),
            ("null", "example.com", false),
            ("", "", false),
        ] {
            assert_eq!(is_same(origin, host, false), same, "{origin} at {host}");
            let same_and_secure = same && origin.to_lowercase().starts_with("https:");
            assert_eq!(
                is_same(origin, host, true),
                same_and_secure,
                "{origin} at {host}"
            );
        }
    }

    #[test]
    fn keys_have_sixteen_bytes() {
        for (key, good) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("dGhlIHNhbXBsZSBub25jZQ=", false),
            ("dGhlIHNhbXBsZSBub25jZQQQ", false),
            ("dGhlIHNhbXBsZSBub25j-Q==", false),
            ("", false),
        ] {
            assert_eq!(is_key(&HeaderValue::from_static(key)), good, "{key}");
        }
    }
}
