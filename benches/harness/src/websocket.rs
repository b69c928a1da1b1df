//! The opening handshake of a WebSocket on the client's side.

use std::io::{self, Read, Write};

/// The upgrade request.
pub const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Maximum size of the response, in bytes. All servers here send less.
const LONGEST_HEAD: usize = 4096;

/// Sends the request over a blocking `stream` and reads the response.
///
/// # Errors
///
/// If the server does not accept the upgrade.
pub fn open(mut stream: impl Read + Write) -> io::Result<()> {
    stream.write_all(REQUEST)?;
    let mut head = Vec::new();
    let mut buffer = [0; 512];
    // A server must not send before the first message. So no bytes can follow the response.
    while !head.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 || head.len() > LONGEST_HEAD {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&buffer[..length]);
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        Ok(())
    } else {
        let head = String::from_utf8_lossy(&head);
        Err(io::Error::other(format!("the upgrade was refused: {head}")))
    }
}
