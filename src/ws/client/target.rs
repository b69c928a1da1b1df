//! What is to be dialled, and what for.

use http::Uri;

use super::WsConnectError;

/// What a URL names.
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
        // schemes are case-insensitive (RFC 3986, section 3.1)
        let is = |scheme: &str| {
            uri.scheme_str()
                .is_some_and(|given| given.eq_ignore_ascii_case(scheme))
        };
        let secure = is("wss");
        if !secure && !is("ws") {
            return Err(WsConnectError::Url(
                "it must begin with ws:// or wss://".into(),
            ));
        }
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err(WsConnectError::Url("it has no host".into()));
        }
        // an address of IPv6 stands in brackets in a URL, and nowhere else
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = match uri.port_u16() {
            Some(port) => port,
            // it is there and is none, such as 70000: what is dialled then is not what was meant
            None if has_port(&uri) => {
                return Err(WsConnectError::Url(
                    "its port is not a number up to 65535".into(),
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

    /// What to dial.
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

/// Whether something stands where the port does.
fn has_port(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    !port.is_empty() && !port.ends_with(']')
}
