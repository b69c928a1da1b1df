//! The opening handshake of a WebSocket, from the client's side.

use std::io::{self, Read, Write};

/// What a client asks with.
pub const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// No server here answers with more.
const LONGEST_HEAD: usize = 4096;

/// Asks over `stream`, which is to be blocking, and reads the answer.
///
/// # Errors
///
/// If the server does not agree.
pub fn open(mut stream: impl Read + Write) -> io::Result<()> {
    stream.write_all(REQUEST)?;
    let mut head = Vec::new();
    let mut buffer = [0; 512];
    // the server says nothing more before it is told something, so that the head is all there is
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
        Err(io::Error::other(format!("no WebSocket: {head}")))
    }
}
