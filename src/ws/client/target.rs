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
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => {
                return Err(WsConnectError::Url(
                    "it must begin with ws:// or wss://".into(),
                ));
            }
        };
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err(WsConnectError::Url("it has no host".into()));
        }
        // an address of IPv6 stands in brackets in a URL, and nowhere else
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
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
