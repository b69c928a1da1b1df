//! Targets that a proxy connects to.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    str::FromStr,
};

/// Maximum length of a host, in bytes. A SOCKS request has one byte for the length.
const MAX_HOST: usize = 255;

/// Host and port that a proxy connects to. The host is a name or an IP address.
///
/// The connectors of this [module](super) accept every type that converts to it: `"host:port"`
/// as `&str` or `String`, `(host, port)`, and the address types of the standard library. An
/// IPv6 address in a text needs brackets. A host of a pair may have them.
///
/// ```
/// use getty::net::proxy::ProxyTarget;
///
/// let target: ProxyTarget = "example.com:7000".parse()?;
/// assert_eq!((target.host(), target.port(), target.ip()), ("example.com", 7000, None));
/// let target = ProxyTarget::new("2001:db8::1", 7000)?;
/// assert_eq!(target.to_string(), "[2001:db8::1]:7000");
/// assert!("no port".parse::<ProxyTarget>().is_err());
/// # Ok::<_, getty::net::proxy::ProxyTargetError>(())
/// ```
///
/// With the feature `tls` it is a `TlsTarget`: certificates are verified for its host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyTarget {
    /// Host without brackets. An IP address is in its canonical form.
    host: Box<str>,
    port: u16,
}

impl ProxyTarget {
    /// Creates a new target.
    ///
    /// # Errors
    ///
    /// Fails if the host is empty, has more than 255 bytes, or contains a character that neither
    /// names nor addresses have. Control characters and spaces are such characters. A name with
    /// characters outside ASCII must be in its ASCII form (`xn--...`).
    pub fn new(host: impl AsRef<str>, port: u16) -> Result<Self, ProxyTargetError> {
        let host = host.as_ref();
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if let Some(address) = bracketed {
            let address = address.parse::<Ipv6Addr>();
            let address = address.map_err(|_| ProxyTargetError::InvalidIpv6)?;
            return Ok((address, port).into());
        }
        if host.is_empty() {
            return Err(ProxyTargetError::EmptyHost);
        }
        if host.len() > MAX_HOST {
            return Err(ProxyTargetError::HostTooLong(host.len()));
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok((address, port).into());
        }
        match host
            .chars()
            .find(|&character| !is_host_character(character))
        {
            Some(character) => Err(ProxyTargetError::InvalidCharacter(character)),
            None => Ok(Self {
                host: host.into(),
                port,
            }),
        }
    }

    /// Returns the host. An IPv6 address is without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the host if it is an IP address.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// Returns `true` if a name in a URL may contain `character` (RFC 3986: unreserved and
/// sub-delims).
const fn is_host_character(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(
            character,
            '-' | '.'
                | '_'
                | '~'
                | '!'
                | '$'
                | '&'
                | '\''
                | '('
                | ')'
                | '*'
                | '+'
                | ','
                | ';'
                | '='
        )
}

impl fmt::Display for ProxyTarget {
    /// Writes `host:port`, with an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl FromStr for ProxyTarget {
    type Err = ProxyTargetError;

    fn from_str(target: &str) -> Result<Self, ProxyTargetError> {
        let (host, port) = target.rsplit_once(':').ok_or(ProxyTargetError::NoPort)?;
        let port = port.parse().map_err(|_| ProxyTargetError::NoPort)?;
        // Without brackets the last group of an IPv6 address could be meant as the port.
        if host.contains(':') && !host.starts_with('[') {
            return Err(ProxyTargetError::InvalidCharacter(':'));
        }
        Self::new(host, port)
    }
}

impl TryFrom<&str> for ProxyTarget {
    type Error = ProxyTargetError;

    fn try_from(target: &str) -> Result<Self, ProxyTargetError> {
        target.parse()
    }
}

impl TryFrom<String> for ProxyTarget {
    type Error = ProxyTargetError;

    fn try_from(target: String) -> Result<Self, ProxyTargetError> {
        target.parse()
    }
}

impl TryFrom<(&str, u16)> for ProxyTarget {
    type Error = ProxyTargetError;

    fn try_from((host, port): (&str, u16)) -> Result<Self, ProxyTargetError> {
        Self::new(host, port)
    }
}

impl TryFrom<(String, u16)> for ProxyTarget {
    type Error = ProxyTargetError;

    fn try_from((host, port): (String, u16)) -> Result<Self, ProxyTargetError> {
        Self::new(host, port)
    }
}

/// Implements the conversion from addresses. The scope of an IPv6 address is dropped because it
/// has no meaning on the proxy's machine.
macro_rules! addresses {
    ($($type:ty: |$target:ident| $ip:expr, $port:expr;)*) => { $(
        impl From<$type> for ProxyTarget {
            fn from($target: $type) -> Self {
                Self {
                    host: $ip.to_string().into(),
                    port: $port,
                }
            }
        }
    )* };
}

addresses! {
    SocketAddr: |target| target.ip(), target.port();
    SocketAddrV4: |target| target.ip(), target.port();
    SocketAddrV6: |target| target.ip(), target.port();
    (IpAddr, u16): |target| target.0, target.1;
    (Ipv4Addr, u16): |target| target.0, target.1;
    (Ipv6Addr, u16): |target| target.0, target.1;
}

#[cfg(feature = "tls")]
mod tls {
    use tokio_rustls::rustls::pki_types::ServerName;

    use super::ProxyTarget;
    use crate::tls::TlsTarget;

    impl TlsTarget for ProxyTarget {
        fn server_name(&self) -> Option<ServerName<'static>> {
            ServerName::try_from(self.host.to_string()).ok()
        }
    }
}

/// Error of a [`ProxyTarget`] that cannot be created.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyTargetError {
    /// The text does not end with a colon and a port.
    NoPort,
    /// The host is empty.
    EmptyHost,
    /// The host has this many bytes, which exceeds 255.
    HostTooLong(usize),
    /// The host contains this character. For a colon, an IPv6 address may lack its brackets.
    InvalidCharacter(char),
    /// The host has brackets and is not an IPv6 address.
    InvalidIpv6,
}

impl fmt::Display for ProxyTargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str("the target does not end with a port"),
            Self::EmptyHost => f.write_str("the host is empty"),
            Self::HostTooLong(bytes) => {
                write!(f, "the host has {bytes} bytes, the maximum is {MAX_HOST}")
            }
            // Escaped because the character may be a control character.
            Self::InvalidCharacter(character) => {
                write!(f, "the host contains the character {character:?}")
            }
            Self::InvalidIpv6 => f.write_str("the host in brackets is not an IPv6 address"),
        }
    }
}

impl Error for ProxyTargetError {}

impl From<Infallible> for ProxyTargetError {
    fn from(error: Infallible) -> Self {
        match error {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_made_of_every_type_of_address() {
        let name = ProxyTarget::new("example.com", 7000).unwrap();
        assert_eq!("example.com:7000".try_into(), Ok(name.clone()));
        assert_eq!("example.com:7000".to_owned().try_into(), Ok(name.clone()));
        assert_eq!(("example.com", 7000).try_into(), Ok(name.clone()));
        assert_eq!(("example.com".to_owned(), 7000).try_into(), Ok(name));

        let ip = ProxyTarget::new("::1", 7000).unwrap();
        assert_eq!(ip.ip(), Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(ProxyTarget::try_from("[::1]:7000"), Ok(ip.clone()));
        assert_eq!(ProxyTarget::try_from(("[::1]", 7000)), Ok(ip.clone()));
        assert_eq!(ProxyTarget::try_from("[0:0::1]:7000"), Ok(ip.clone()));
        let address: SocketAddr = "[::1]:7000".parse().unwrap();
        assert_eq!(ProxyTarget::from(address), ip);
        assert_eq!(ProxyTarget::from((Ipv6Addr::LOCALHOST, 7000)), ip);
        assert_eq!(ip.to_string(), "[::1]:7000");
    }

    #[test]
    fn invalid_targets_name_their_fault() {
        use ProxyTargetError::*;
        let long = format!("{}:1", "a".repeat(256));
        for (target, fault) in [
            ("example.com", NoPort),
            ("example.com:", NoPort),
            ("example.com:65536", NoPort),
            (":1", EmptyHost),
            (&*long, HostTooLong(256)),
            ("a b:1", InvalidCharacter(' ')),
            ("a\r\nb:1", InvalidCharacter('\r')),
            ("a\0b:1", InvalidCharacter('\0')),
            ("a\u{7f}b:1", InvalidCharacter('\u{7f}')),
            ("b\u{fc}cher.example:1", InvalidCharacter('\u{fc}')),
            ("user@host:1", InvalidCharacter('@')),
            ("http://host:1", InvalidCharacter(':')),
            ("host/path:1", InvalidCharacter('/')),
            ("::1:1", InvalidCharacter(':')),
            ("[::1:1", InvalidCharacter('[')),
            ("[]:1", InvalidIpv6),
            ("[host]:1", InvalidIpv6),
            ("[fe80::1%eth0]:1", InvalidIpv6),
        ] {
            assert_eq!(target.parse::<ProxyTarget>(), Err(fault), "{target:?}");
        }
        assert!(ProxyTarget::new("a".repeat(255), 1).is_ok());
    }
}
