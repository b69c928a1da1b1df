//! The codec of `--udp` without `--codec`.

use std::io;

use bytes::{Bytes, BytesMut};
use getty::codec::{Decoder, Encoder};

/// Takes each datagram as one message, unchanged. The datagram may be empty.
#[derive(Clone)]
pub(crate) struct DatagramCodec;

impl Decoder for DatagramCodec {
    type Item = Bytes;
    type Error = io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok(None)
    }

    fn decode_eof(&mut self, datagram: &mut BytesMut) -> io::Result<Option<Bytes>> {
        Ok(Some(datagram.split().freeze()))
    }
}

impl Encoder<Bytes> for DatagramCodec {
    type Error = io::Error;

    fn encode(&mut self, message: Bytes, datagram: &mut BytesMut) -> io::Result<()> {
        datagram.extend_from_slice(&message);
        Ok(())
    }
}
