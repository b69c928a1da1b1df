//! Server names in the targets of clients.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    path::{Path, PathBuf},
};

use tokio_rustls::rustls::pki_types::ServerName;

/// Target of a client with the name that the server's certificate is verified for.
///
/// Implement it for other types of targets. If a target has no name, set one with
/// [`TlsConnectLayer::with_server_name`](super::TlsConnectLayer::with_server_name).
///
/// ```
/// use getty::tls::TlsTarget;
///
/// let name = |target: &str| target.server_name().map(|name| name.to_str().into_owned());
/// assert_eq!(name("example.com:7000").as_deref(), Some("example.com"));
/// assert_eq!(name("[2001:db8::1]:7000").as_deref(), Some("2001:db8::1"));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no name for which a server's certificate can be verified",
    label = "implement `getty::tls::TlsTarget` for it, or dial a `\"host:port\"`"
)]
pub trait TlsTarget {
    /// Returns the name or address of the server, or `None` if the target has none.
    fn server_name(&self) -> Option<ServerName<'static>>;
}

fn of_host(host: &str) -> Option<ServerName<'static>> {
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    ServerName::try_from(host.to_owned()).ok()
}

impl TlsTarget for str {
    /// Returns the host of `host:port`.
    fn server_name(&self) -> Option<ServerName<'static>> {
        let (host, _port) = self.rsplit_once(':')?;
        of_host(host)
    }
}

impl TlsTarget for String {
    fn server_name(&self) -> Option<ServerName<'static>> {
        self.as_str().server_name()
    }
}

impl<A: TlsTarget + ?Sized> TlsTarget for &A {
    fn server_name(&self) -> Option<ServerName<'static>> {
        (**self).server_name()
    }
}

impl TlsTarget for (&str, u16) {
    fn server_name(&self) -> Option<ServerName<'static>> {
        of_host(self.0)
    }
}

impl TlsTarget for (String, u16) {
    fn server_name(&self) -> Option<ServerName<'static>> {
        of_host(&self.0)
    }
}

/// Implements [`TlsTarget`] for addresses. The certificate must be issued for the address.
macro_rules! addresses {
    ($($type:ty: |$target:ident| $ip:expr;)*) => { $(
        impl TlsTarget for $type {
            fn server_name(&self) -> Option<ServerName<'static>> {
                let $target = self;
                Some(ServerName::IpAddress(IpAddr::from($ip).into()))
            }
        }
    )* };
}

addresses! {
    SocketAddr: |target| target.ip();
    SocketAddrV4: |target| *target.ip();
    SocketAddrV6: |target| *target.ip();
    (IpAddr, u16): |target| target.0;
    (Ipv4Addr, u16): |target| target.0;
    (Ipv6Addr, u16): |target| target.0;
}

/// Implements [`TlsTarget`] for targets without a name.
macro_rules! nameless {
    ($($type:ty),*) => { $(
        impl TlsTarget for $type {
            fn server_name(&self) -> Option<ServerName<'static>> {
                None
            }
        }
    )* };
}

nameless!((), Path, PathBuf, [SocketAddr], Vec<SocketAddr>);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(target: impl TlsTarget) -> Option<String> {
        target.server_name().map(|name| name.to_str().into_owned())
    }

    #[test]
    fn target_names_its_host_and_not_its_port() {
        let host = Some("example.com".to_owned());
        assert_eq!(name("example.com:7000"), host);
        assert_eq!(name("example.com:7000".to_owned()), host);
        assert_eq!(name(("example.com", 7000)), host);
        assert_eq!(name(("example.com".to_owned(), 7000)), host);
    }

    #[test]
    fn addresses_are_names() {
        let ip = Some("::1".to_owned());
        assert_eq!(name("[::1]:7000"), ip);
        assert_eq!(name("[::1]:7000".parse::<SocketAddr>().unwrap()), ip);
        assert_eq!(name((Ipv6Addr::LOCALHOST, 7000)), ip);
        assert_eq!(name("127.0.0.1:7000").as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn target_without_a_name_returns_none() {
        for target in ["example.com", "no name:7000", ":7000", ""] {
            assert_eq!(name(target), None, "{target}");
        }
        assert_eq!(name(()), None);
        assert_eq!(name(PathBuf::from("/run/socket")), None);
    }
}
