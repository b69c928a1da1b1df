//! Target of a WebSocket client, parsed from a URL.

use http::Uri;

use super::error::WsConnectError;

/// Parts of a URL that a client needs.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) uri: Uri,
    host: String,
    port: u16,
    pub(super) secure: bool,
}

impl Target {
    pub(super) fn parse<A>(url: A) -> Result<Self, WsConnectError>
    where
        Uri: TryFrom<A>,
        <Uri as TryFrom<A>>::Error: Into<http::Error>,
    {
        let uri = Uri::try_from(url).map_err(|error| WsConnectError::Url(error.into().into()))?;
        Self::new(uri)
    }

    fn new(uri: Uri) -> Result<Self, WsConnectError> {
        // Schemes are case-insensitive (RFC 3986, section 3.1).
        let is = |scheme: &str| {
            uri.scheme_str()
                .is_some_and(|given| given.eq_ignore_ascii_case(scheme))
        };
        let secure = is("wss");
        if !secure && !is("ws") {
            return Err(WsConnectError::Url("the scheme must be ws or wss".into()));
        }
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err(WsConnectError::Url("the URL has no host".into()));
        }
        // Only in a URL is an IPv6 address in brackets.
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = match uri.port_u16() {
            Some(port) => port,
            // An invalid port such as 70000 is not replaced by the default.
            None if has_port(&uri) => {
                return Err(WsConnectError::Url(
                    "the port is not a number up to 65535".into(),
                ));
            }
            None if secure => 443,
            None => 80,
        };
        Ok(Self {
            uri,
            host,
            port,
            secure,
        })
    }

    /// Returns the host and port to connect to.
    pub(super) fn address(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }

    pub(super) fn host_header(&self) -> String {
        let host = self.uri.host().unwrap_or_default();
        match self.uri.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

/// Returns `true` if the URL has a port, valid or not.
fn has_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    !port.is_empty() && !port.ends_with(']')
}
