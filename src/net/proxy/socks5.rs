//! SOCKS 5 proxies: the layer and the dialogue (RFC 1928 and RFC 1929).

use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    connect::{Settings, proxy_layer},
    error::ProxyConnectError,
    login::Login,
    target::ProxyTarget,
    via::ProxyKind,
};

const VERSION: u8 = 5;
const CONNECT: u8 = 1;

/// Methods of authentication.
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;

/// Types of addresses.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

proxy_layer! {
    /// Connects through a SOCKS 5 proxy, around any connector that yields a byte stream.
    ///
    /// `P` is the proxy's address, which the connector is called with. The new connector accepts
    /// everything that converts to a [`ProxyTarget`].
    ///
    /// - *ready*: polls the connector.
    /// - *call*: connects to the proxy, logs in if a login is set, and requests the target. The
    ///   replies are read up to their last byte and no further. The transport is unchanged.
    /// - *drop*: abandons the attempt and closes its connection.
    /// - *close*: if the proxy does not connect to the target, the connection closes as
    ///   [`CloseReason::Refused`](crate::CloseReason::Refused) or
    ///   [`CloseReason::HandshakeTimeout`](crate::CloseReason::HandshakeTimeout). The source, which
    ///   is also the error of this service, is a [`ProxyConnectError`].
    ///
    /// Scope: the deadline applies to each call. All clones share the login.
    ///
    /// ```no_run
    /// use getty::{ServiceBuilder, net::{TcpConnector, proxy::Socks5ConnectLayer}};
    /// use tower::ServiceExt;
    ///
    /// # async fn dial() -> Result<(), getty::BoxError> {
    /// let connector = ServiceBuilder::new()
    ///     .layer(Socks5ConnectLayer::new("127.0.0.1:1080").with_login("user", "secret"))
    ///     .service(TcpConnector::new());
    /// let connection = connector.oneshot("example.com:7000").await?;
    /// # Ok(())
    /// # }
    /// ```
    Socks5ConnectLayer, ProxyKind::Socks5,
    /// Sets the user name and password, which are offered to the proxy and sent if it requires
    /// them. The default is none: the proxy is offered a dialogue without a login only. Neither is
    /// shown by `Debug`.
    ///
    /// SOCKS does not encrypt them. Use TLS to the proxy if others can read its traffic. Names of
    /// 0 or more than 255 bytes and passwords of more than 255 bytes fail as
    /// [`InvalidLogin`](ProxyConnectError::InvalidLogin) when the connector is called.
    with_login
}

/// Requests `target` from the proxy.
pub(super) async fn request<T>(
    io: &mut T,
    target: &ProxyTarget,
    login: Option<&Login>,
) -> Result<(), ProxyConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    choose_method(io, login).await?;

    let mut request = vec![VERSION, CONNECT, 0];
    append_address(target, &mut request);
    io.write_all(&request).await?;
    io.flush().await?;

    // The rest of a refusal is not read because some proxies send less.
    let [version, code] = read(io).await?;
    check_version(version)?;
    match code {
        0 => {}
        3..=6 => return Err(ProxyConnectError::Unreachable { code: code.into() }),
        _ => return Err(ProxyConnectError::Refused { code: code.into() }),
    }
    // The address that the proxy dials from, which is of no use here.
    let [_reserved, kind] = read(io).await?;
    let address = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(read::<1, _>(io).await?[0]),
        _ => {
            return Err(ProxyConnectError::InvalidReply(
                "its type of address is unknown",
            ));
        }
    };
    let mut rest = [0; u8::MAX as usize + size_of::<u16>()];
    io.read_exact(&mut rest[..address + size_of::<u16>()])
        .await?;
    Ok(())
}

/// Agrees on the method of authentication and logs in if the proxy requires it.
async fn choose_method<T>(io: &mut T, login: Option<&Login>) -> Result<(), ProxyConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let methods: &[u8] = match login {
        Some(_) => &[VERSION, 2, NO_LOGIN, LOGIN],
        None => &[VERSION, 1, NO_LOGIN],
    };
    io.write_all(methods).await?;
    io.flush().await?;

    let [version, method] = read(io).await?;
    check_version(version)?;
    match (method, login) {
        (NO_LOGIN, _) => Ok(()),
        (LOGIN, Some(login)) => {
            let mut request = Vec::new();
            login.append_socks5(&mut request);
            io.write_all(&request).await?;
            io.flush().await?;
            // The first byte is the version 1. Servers are known that send 5 instead.
            let [_version, status] = read(io).await?;
            if status != 0 {
                return Err(ProxyConnectError::LoginRejected);
            }
            Ok(())
        }
        (NONE_ACCEPTABLE, Some(_)) => Err(ProxyConnectError::LoginRejected),
        (NONE_ACCEPTABLE, None) => Err(ProxyConnectError::AuthRequired),
        _ => Err(ProxyConnectError::InvalidReply(
            "it selects a method that was not offered",
        )),
    }
}

fn append_address(target: &ProxyTarget, request: &mut Vec<u8>) {
    match target.ip() {
        Some(IpAddr::V4(address)) => {
            request.push(IPV4);
            request.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            request.push(IPV6);
            request.extend_from_slice(&address.octets());
        }
        None => {
            let host = target.host();
            let Ok(length) = u8::try_from(host.len()) else {
                unreachable!("a target's host has at most 255 bytes")
            };
            request.extend_from_slice(&[NAME, length]);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&target.port().to_be_bytes());
}

/// Reads exactly `N` bytes.
async fn read<const N: usize, T>(io: &mut T) -> Result<[u8; N], ProxyConnectError>
where
    T: AsyncRead + Unpin,
{
    let mut bytes = [0; N];
    io.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn check_version(version: u8) -> Result<(), ProxyConnectError> {
    if version == VERSION {
        Ok(())
    } else {
        Err(ProxyConnectError::InvalidReply("it is not SOCKS 5"))
    }
}
