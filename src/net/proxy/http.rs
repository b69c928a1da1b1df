//! HTTP proxies: the layer and the dialogue (RFC 9110, section 9.3.6).

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{error::ProxyConnectError, login::Login, target::ProxyTarget};

/// Maximum size of the heads of all responses to one request, in bytes.
const MAX_HEAD: usize = 8 * 1024;

/// Requests `target` from the proxy.
pub(super) async fn request<T>(
    io: &mut T,
    target: &ProxyTarget,
    login: Option<&Login>,
) -> Result<(), ProxyConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(login) = login {
        request.extend_from_slice(b"Proxy-Authorization: ");
        login.append_basic(&mut request);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    io.write_all(&request).await?;
    io.flush().await?;

    let mut left = MAX_HEAD;
    loop {
        match read_head(io, &mut left).await? {
            101 => return Err(ProxyConnectError::InvalidReply("it switches protocols")),
            100..=199 => {}
            200..=299 => return Ok(()),
            // 401 is not for proxies, but tinyproxy answers a wrong login with it.
            401 | 407 if login.is_some() => return Err(ProxyConnectError::LoginRejected),
            401 | 407 => return Err(ProxyConnectError::AuthRequired),
            code @ 502..=504 => return Err(ProxyConnectError::Unreachable { code }),
            code => return Err(ProxyConnectError::Refused { code }),
        }
    }
}

/// Reads the head of a response and returns its status. A head with a status below 300 is
/// consumed to its last byte. For any other status only the start of the status line is
/// consumed.
async fn read_head<T>(io: &mut T, left: &mut usize) -> Result<u16, ProxyConnectError>
where
    T: AsyncRead + Unpin,
{
    let mut line = [0; STATUS_LINE.len()];
    let mut filled = 0;
    while filled < line.len() {
        filled += read(io, &mut line[filled..], left).await?;
        check_status_line(&line[..filled])?;
    }
    let [.., hundreds, tens, ones, separator] = line;
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    if status >= 300 {
        return Ok(status);
    }
    let mut end = HeadEnd::InLine.after(separator);
    while end.missing() > 0 {
        let mut bytes = [0; 2];
        let n = read(io, &mut bytes[..end.missing()], left).await?;
        for byte in &bytes[..n] {
            end = end.after(*byte);
        }
    }
    Ok(status)
}

/// Start of a status line. `d` is a digit and the last byte any separator.
const STATUS_LINE: [u8; 13] = *b"HTTP/1.d ddd ";

/// Checks the first bytes of a status line, so that a peer of another protocol fails at its
/// first byte.
fn check_status_line(line: &[u8]) -> Result<(), ProxyConnectError> {
    let fits = |(n, byte): (usize, &u8)| match STATUS_LINE[n] {
        b'd' => byte.is_ascii_digit(),
        _ if n == STATUS_LINE.len() - 1 => matches!(byte, b' ' | b'\r' | b'\n'),
        expected => *byte == expected,
    };
    if !line.iter().enumerate().all(fits) {
        return Err(ProxyConnectError::InvalidReply(
            "it does not start with an HTTP/1 status line",
        ));
    }
    if line.get(9) == Some(&b'0') {
        return Err(ProxyConnectError::InvalidReply("its status is below 100"));
    }
    Ok(())
}

/// Position relative to the end of a head. A line may end with a line feed alone, as some
/// proxies send it (RFC 9112, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadEnd {
    InLine,
    /// At the start of a line.
    LineStart,
    /// Behind a carriage return at the start of a line.
    EmptyLine,
    Reached,
}

impl HeadEnd {
    const fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::InLine, b'\n') => Self::LineStart,
            (Self::LineStart, b'\r') => Self::EmptyLine,
            (Self::LineStart | Self::EmptyLine, b'\n') | (Self::Reached, _) => Self::Reached,
            _ => Self::InLine,
        }
    }

    /// Returns the minimum number of bytes up to the end. More must not be read at a time: they
    /// might be the first bytes of the target.
    const fn missing(self) -> usize {
        match self {
            Self::InLine => 2,
            Self::LineStart | Self::EmptyLine => 1,
            Self::Reached => 0,
        }
    }
}

/// Reads up to `bytes.len()` bytes of a head that may have `left` more.
async fn read<T>(io: &mut T, bytes: &mut [u8], left: &mut usize) -> Result<usize, ProxyConnectError>
where
    T: AsyncRead + Unpin,
{
    // At least the missing bytes of the head follow.
    if bytes.len() > *left {
        return Err(ProxyConnectError::HeadTooLong(MAX_HEAD));
    }
    let n = io.read(bytes).await?;
    *left -= n;
    if n == 0 {
        return Err(ProxyConnectError::PeerClosed);
    }
    Ok(n)
}
