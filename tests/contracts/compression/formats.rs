//! Peers that speak the formats with other implementations or with the bare libraries.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use getty::{
    Connection, Service,
    compress::{Compressed, CompressionConnectLayer, Level},
};
use getty_test::{Peer, Stream, stream};
use tower::{Layer, ServiceExt};

use crate::support::connector;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Deflate,
    Zlib,
    Snappy,
    #[cfg(feature = "zstd")]
    Zstd,
}

pub(super) const FORMATS: &[Format] = &[
    Format::Deflate,
    Format::Zlib,
    Format::Snappy,
    #[cfg(feature = "zstd")]
    Format::Zstd,
];

impl Format {
    pub(super) fn layer(self) -> CompressionConnectLayer {
        match self {
            Self::Deflate => CompressionConnectLayer::deflate(Level::FAST),
            Self::Zlib => CompressionConnectLayer::zlib(Level::DEFAULT),
            Self::Snappy => CompressionConnectLayer::snappy(),
            #[cfg(feature = "zstd")]
            Self::Zstd => CompressionConnectLayer::zstd(0),
        }
    }

    /// Returns a stream with these pieces, each flushed. `finished` is a stream with its end.
    pub(super) fn compress(self, pieces: &[&[u8]], finished: bool) -> Vec<u8> {
        match self {
            Self::Deflate | Self::Zlib => {
                let mut compress = Compress::new(Compression::default(), self == Self::Zlib);
                let mut out = Vec::new();
                for piece in pieces {
                    deflate(&mut compress, piece, FlushCompress::Sync, &mut out);
                }
                if finished {
                    deflate(&mut compress, &[], FlushCompress::Finish, &mut out);
                }
                out
            }
            Self::Snappy => {
                let mut encoder = snap::write::FrameEncoder::new(Vec::new());
                for piece in pieces {
                    encoder.write_all(piece).unwrap();
                    encoder.flush().unwrap();
                }
                encoder.into_inner().unwrap()
            }
            #[cfg(feature = "zstd")]
            Self::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
                encoder.window_log(20).unwrap();
                for piece in pieces {
                    encoder.write_all(piece).unwrap();
                    encoder.flush().unwrap();
                }
                if finished {
                    encoder.finish().unwrap()
                } else {
                    encoder.get_ref().clone()
                }
            }
        }
    }

    /// Returns what a peer can inflate from the beginning of a stream.
    pub(super) fn inflate(self, stream: &[u8]) -> Vec<u8> {
        match self {
            Self::Deflate | Self::Zlib => {
                let mut inflate = Decompress::new(self == Self::Zlib);
                let mut out = Vec::with_capacity(64 * 1024);
                loop {
                    if out.len() == out.capacity() {
                        out.reserve(out.len());
                    }
                    let rest = &stream[usize::try_from(inflate.total_in()).unwrap()..];
                    let before = out.len();
                    let flush = FlushDecompress::None;
                    let status = inflate.decompress_vec(rest, &mut out, flush).unwrap();
                    if status == Status::StreamEnd {
                        assert_eq!(inflate.total_in(), stream.len() as u64);
                        return out;
                    }
                    if out.len() == before && out.len() < out.capacity() {
                        return out;
                    }
                }
            }
            Self::Snappy => {
                let mut out = Vec::new();
                snap::read::FrameDecoder::new(stream)
                    .read_to_end(&mut out)
                    .unwrap();
                out
            }
            #[cfg(feature = "zstd")]
            Self::Zstd => {
                use zstd::stream::raw::{Decoder, Operation};
                let (mut decoder, mut out) = (Decoder::new().unwrap(), Vec::new());
                let (mut room, mut at) = (vec![0; 1 << 17], 0);
                loop {
                    let step = decoder.run_on_buffers(&stream[at..], &mut room).unwrap();
                    at += step.bytes_read;
                    out.extend_from_slice(&room[..step.bytes_written]);
                    if step.bytes_written < room.len() && at == stream.len() {
                        return out;
                    }
                }
            }
        }
    }
}

pub(super) fn deflate(
    compress: &mut Compress,
    mut input: &[u8],
    flush: FlushCompress,
    out: &mut Vec<u8>,
) {
    loop {
        out.reserve(1024);
        let before = compress.total_in();
        let (length, capacity) = (out.len(), out.capacity());
        compress.compress_vec(input, out, flush).unwrap();
        input = &input[usize::try_from(compress.total_in() - before).unwrap()..];
        if input.is_empty() && out.len() < capacity {
            let _ = length;
            return;
        }
    }
}

/// Bytes that do not compress.
pub(super) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Creates a compressed transport, without a session.
pub(super) async fn compressed(
    layer: CompressionConnectLayer,
) -> (Connection<Compressed<Stream>>, Peer) {
    let (io, peer) = stream();
    let connection = layer.layer(connector()).oneshot(io).await.unwrap();
    (connection, peer)
}

/// Creates a connector for a session over compressed streams.
pub(super) fn dial(
    layer: &CompressionConnectLayer,
) -> impl Service<
    Stream,
    Response = Connection<Compressed<Stream>>,
    Error = std::convert::Infallible,
    Future: Send,
> + Clone {
    layer.layer(connector())
}

pub(super) fn shared<T>(value: T) -> Arc<std::sync::Mutex<T>> {
    Arc::new(std::sync::Mutex::new(value))
}
