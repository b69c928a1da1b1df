//! The server on any runtime. Both programs with ntex use it.

use std::{io, net::TcpListener};

use getty_benches_harness::{
    accept::WORKERS,
    frames::{HEADER, MAX_PAYLOAD},
};
use ntex::{
    codec::{Decoder, Encoder},
    io::Io,
    rt::{Runner, System},
    server,
    service::fn_service,
    util::{BytePages, Bytes, BytesMut},
};

/// Serves with this runtime on each thread.
pub(crate) fn serve(listener: TcpListener, runtime: impl Runner) -> io::Result<()> {
    let system = System::build().name("echo").build(runtime);
    system.block_on(async move {
        server::build()
            .workers(WORKERS)
            .disable_signals()
            .listen("echo", listener, async |_| fn_service(echo))?
            .run()
            .await
    })
}

/// Echoes frames. Encoded frames are written when no more can be decoded or when there are
/// many.
async fn echo(io: Io) -> io::Result<()> {
    while let Some(frame) = io.recv(&Length).await.map_err(|error| error.into_inner())? {
        io.encode(frame, &Length)?;
    }
    Ok(())
}

/// A 4-byte big-endian length and the payload.
struct Length;

impl Decoder for Length {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&self, src: &mut BytesMut) -> io::Result<Option<Bytes>> {
        let Some((header, rest)) = src.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_PAYLOAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if rest.len() < length {
            return Ok(None);
        }
        src.advance_to(HEADER);
        Ok(Some(src.split_to(length)))
    }
}

impl Encoder for Length {
    type Item = Bytes;
    type Error = io::Error;

    fn encodev(&self, frame: Bytes, dst: &mut BytePages) -> io::Result<()> {
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        dst.extend_from_slice(&length.to_be_bytes());
        dst.append(frame);
        Ok(())
    }
}
