//! Heads of HTTP messages, read and written within limits.

use std::io;

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{error::WsHandshakeError, refusal::WsRefusal};

/// Maximum size of a head in bytes and in header fields.
#[derive(Clone, Copy, Debug)]
pub(in crate::ws) struct HeadLimits {
    pub(in crate::ws) bytes: usize,
    pub(in crate::ws) headers: usize,
}

impl HeadLimits {
    pub(in crate::ws) const DEFAULT: Self = Self {
        bytes: 8 * 1024,
        headers: 64,
    };
}

/// Growth of the buffer for a head, in bytes. A handshake that stalls holds little memory.
const STEP: usize = 1024;
/// End of a head.
const END: &[u8] = b"\r\n\r\n";

/// Reads until a head is complete and removes it from `buffer`. Later bytes stay in `buffer`.
async fn read_head<T: AsyncRead + Unpin>(
    io: &mut T,
    buffer: &mut BytesMut,
    limit: usize,
) -> Result<BytesMut, WsHandshakeError> {
    let mut searched = 0;
    loop {
        if let Some(at) = memmem::find(&buffer[searched..], END) {
            let length = searched + at + END.len();
            if length <= limit {
                return Ok(buffer.split_to(length));
            }
        }
        if buffer.len() >= limit {
            let refusal = WsRefusal::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request head is too large",
            );
            return Err(refusal.into());
        }
        searched = buffer.len().saturating_sub(END.len() - 1);
        if buffer.capacity() == buffer.len() {
            buffer.reserve(STEP);
        }
        if io.read_buf(buffer).await? == 0 {
            return Err(WsHandshakeError::PeerClosed);
        }
    }
}

/// Reads the head of a request.
pub(in crate::ws) async fn read_request<T: AsyncRead + Unpin>(
    io: &mut T,
    buffer: &mut BytesMut,
    limits: HeadLimits,
) -> Result<Request<()>, WsHandshakeError> {
    let head = read_head(io, buffer, limits.bytes).await?;
    Ok(parse_request(&head, limits.headers)?)
}

fn parse_request(head: &[u8], max_headers: usize) -> Result<Request<()>, WsRefusal> {
    let bad = |_| WsRefusal::new(StatusCode::BAD_REQUEST, "this is not an HTTP request");
    let mut headers = vec![httparse::EMPTY_HEADER; max_headers];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        // An empty line of another kind would end the head earlier. An intermediary could then see
        // two requests.
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(too_many()),
        _ => return Err(bad(())),
    }
    let mut request = Request::new(());
    *request.version_mut() = version(parsed.version);
    *request.method_mut() =
        Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| bad(()))?;
    *request.uri_mut() = Uri::try_from(parsed.path.unwrap_or_default()).map_err(|_| bad(()))?;
    *request.headers_mut() = map(parsed.headers).ok_or_else(|| bad(()))?;
    Ok(request)
}

/// Reads the head of a response.
pub(in crate::ws) async fn read_response<T: AsyncRead + Unpin>(
    io: &mut T,
    buffer: &mut BytesMut,
    limits: HeadLimits,
) -> Result<Response<()>, WsHandshakeError> {
    let head = read_head(io, buffer, limits.bytes).await?;
    let invalid = || {
        WsHandshakeError::from(io::Error::new(
            io::ErrorKind::InvalidData,
            "the response is not HTTP",
        ))
    };
    let mut headers = vec![httparse::EMPTY_HEADER; limits.headers];
    let mut parsed = httparse::Response::new(&mut headers);
    let result = parsed.parse(&head);
    if result == Err(httparse::Error::TooManyHeaders) {
        return Err(too_many().into());
    }
    if result != Ok(httparse::Status::Complete(head.len())) {
        return Err(invalid());
    }
    let mut response = Response::new(());
    *response.version_mut() = version(parsed.version);
    *response.status_mut() =
        StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| invalid())?;
    *response.headers_mut() = map(parsed.headers).ok_or_else(invalid)?;
    Ok(response)
}

fn version(minor: Option<u8>) -> Version {
    match minor {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    }
}

fn map(parsed: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some(headers)
}

fn too_many() -> WsRefusal {
    WsRefusal::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "the request has too many headers",
    )
}

/// Writes the first line of a message, its header fields, and its body.
pub(in crate::ws) async fn write_head<T: AsyncWrite + Unpin>(
    io: &mut T,
    first: &str,
    headers: &HeaderMap,
    body: &str,
) -> io::Result<()> {
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(first.as_bytes());
    head.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.extend_from_slice(body.as_bytes());
    io.write_all(&head).await?;
    io.flush().await
}
