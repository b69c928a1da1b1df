//! Dialogue with a SOCKS 5 proxy (RFC 1928 and RFC 1929).

use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{error::ProxyConnectError, login::Login, target::ProxyTarget};

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
    // The address that the proxy dials from is not used.
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
