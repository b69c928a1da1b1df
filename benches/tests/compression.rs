//! Tests the memory of compressed sessions: at rest, for each message, and for a bomb.
//! `--nocapture` prints the table.
//!
//! The counter covers the whole process, so this binary must contain only one test.

use std::{alloc::System, future::ready, io::Write};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, CodecLayer, Listener, Request, ServiceBuilder, Session, SessionLayer,
    codec::{Deflated, LengthDelimited},
    compress::{CompressionConnectLayer, Contexts, InflateBomb, Level},
    net::{MemoryConnector, memory},
};
use getty_benches::workload::runtime;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Maximum memory that an idle session has in addition to one without compression, in bytes.
const IDLE: f64 = 210.0;
/// Maximum memory of a session that inflates a bomb, in bytes.
const BOMB: usize = 1 << 20;

#[test]
fn compressed_sessions_stay_within_their_memory_bounds() {
    let sessions = match std::env::var("SESSIONS") {
        Ok(sessions) => sessions.parse().expect("SESSIONS must be a number"),
        Err(_) => 1_000,
    };
    idle(sessions);
    bombs();
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Deflated,
    Deflate,
    Zlib,
    Snappy,
    Zstd,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Plain,
        Self::Deflated,
        Self::Deflate,
        Self::Zlib,
        Self::Snappy,
        Self::Zstd,
    ];

    fn layer(self) -> Option<CompressionConnectLayer> {
        Some(match self {
            Self::Plain | Self::Deflated => return None,
            Self::Deflate => CompressionConnectLayer::deflate(Level::FAST),
            Self::Zlib => CompressionConnectLayer::zlib(Level::FAST),
            Self::Snappy => CompressionConnectLayer::snappy(),
            Self::Zstd => CompressionConnectLayer::zstd(0),
        })
    }
}

/// Opens a session, which belongs to a task.
async fn open(
    kind: Kind,
    layer: Option<CompressionConnectLayer>,
    connector: MemoryConnector,
) -> Session<Bytes> {
    macro_rules! connect {
        ($connector:expr, $codec:expr) => {
            getty::connect($connector, (), |link| {
                ServiceBuilder::new()
                    .layer(CodecLayer::new($codec))
                    .layer(link)
                    .layer(SessionLayer::new())
                    .service_fn(|_: Request<Bytes>| ready(Ok::<_, BoxError>(None::<Bytes>)))
            })
            .await
            .expect("the listener exists")
            .0
        };
    }
    let frames = LengthDelimited::new();
    match layer {
        Some(layer) => connect!(
            ServiceBuilder::new().layer(layer).service(connector),
            frames
        ),
        None if kind == Kind::Deflated => connect!(connector, Deflated::new(frames)),
        None => connect!(connector, frames),
    }
}

/// Prints and checks the memory of sessions that have sent a message.
fn idle(sessions: usize) {
    println!(
        "\n| {sessions} sessions that have sent | bytes each | more than plain |\n|---|--:|--:|"
    );
    let mut plain = 0.0;
    for kind in Kind::ALL {
        let bytes = runtime().block_on(idle_bytes(kind, sessions));
        if kind == Kind::Plain {
            plain = bytes;
        }
        println!("| {kind:?} | {bytes:.0} | {:.0} |", bytes - plain);
        assert!(
            bytes - plain <= IDLE,
            "{kind:?}: {bytes} bytes, plain {plain}"
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "the counts are a few millions")]
async fn idle_bytes(kind: Kind, sessions: usize) -> f64 {
    let (mut listener, connector) = memory(4 * 1024);
    let contexts = Contexts::new(16);
    let layer = kind.layer().map(|layer| layer.with_contexts(contexts));
    let mut held = Vec::with_capacity(sessions + 32);
    let mut state = 1_u32;
    let noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let message: Bytes = std::iter::repeat_with(noise).take(1_000).collect();
    let mut in_pipe = 0;
    let mut sent = async |held: &mut Vec<(Session<Bytes>, DuplexStream)>| {
        let session = open(kind, layer.clone(), connector.clone()).await;
        let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
        let (mut peer, _rest) = accepted.expect("it was dialed").take_transport();
        // Random bytes, so that a context has much to remember.
        session
            .send(message.clone())
            .await
            .expect("the peer takes it");
        let mut read = [0; 2_048];
        // The pipe keeps the memory of what it has held, which belongs to no session.
        in_pipe = peer.read(&mut read).await.expect("it was sent");
        held.push((session, peer));
    };
    // The pools of buffers and contexts fill.
    for _ in 0..32 {
        sent(&mut held).await;
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..sessions {
        sent(&mut held).await;
    }
    let change = region.change();
    let held = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
    held / sessions as f64 - in_pipe as f64
}

/// Checks that a bomb allocates little until its session closes. The counter has no maximum, so
/// that freed memory counts as well: a read buffer for each 64 KiB. The limit is lower
/// therefore.
fn bombs() {
    println!("\n| bomb | compressed | inflated | allocated in all |\n|---|--:|--:|--:|");
    for (kind, ratio) in [
        (Kind::Deflate, 250),
        (Kind::Zlib, 250),
        (Kind::Snappy, 10),
        (Kind::Zstd, 250),
    ] {
        // The pools of buffers fill.
        runtime().block_on(bomb(kind, ratio));
        let region = Region::new(ALLOCATOR);
        let bomb = runtime().block_on(bomb(kind, ratio));
        let allocated = region.change().bytes_allocated;
        let InflateBomb {
            plain, compressed, ..
        } = bomb;
        println!("| {kind:?} | {compressed} | {plain} | {allocated} |");
        assert!(allocated <= BOMB, "{kind:?}: {allocated} bytes");
    }
}

/// Returns the error of a session that receives 64 MiB of zeros, which are empty messages.
async fn bomb(kind: Kind, ratio: u32) -> InflateBomb {
    let (mut listener, connector) = memory(4 * 1024);
    let layer = kind
        .layer()
        .map(|layer| layer.with_max_ratio(ratio, 1 << 18));
    let session = open(kind, layer, connector).await;
    let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await;
    let (mut peer, _rest) = accepted.expect("it was dialed").take_transport();
    // The peer compresses nothing here: its memory would count.
    for piece in compressed(kind).chunks(1_024) {
        if peer.write_all(piece).await.is_err() {
            break;
        }
    }
    let closed = session.closed().await;
    assert_eq!(closed.reason, CloseReason::Decode, "{kind:?}");
    let source = closed.source.expect("its source is the bomb");
    *source
        .downcast_ref::<InflateBomb>()
        .expect("its source is the bomb")
}

/// Returns 64 MiB of zeros, compressed once for each kind.
fn compressed(kind: Kind) -> &'static [u8] {
    use std::sync::OnceLock;
    static BOMBS: [OnceLock<Vec<u8>>; 6] = [const { OnceLock::new() }; 6];
    let zeros = vec![
        0;
        if BOMBS[kind as usize].get().is_some() {
            0
        } else {
            64 << 20
        }
    ];
    BOMBS[kind as usize].get_or_init(|| match kind {
        Kind::Deflate | Kind::Zlib => {
            let mut encoder =
                flate2::Compress::new(flate2::Compression::best(), kind == Kind::Zlib);
            let mut out = Vec::with_capacity(1 << 20);
            encoder
                .compress_vec(&zeros, &mut out, flate2::FlushCompress::Sync)
                .expect("it fits");
            out
        }
        Kind::Snappy => {
            let mut encoder = snap::write::FrameEncoder::new(Vec::new());
            encoder.write_all(&zeros).expect("a vector takes all");
            encoder.into_inner().expect("a vector takes all")
        }
        Kind::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(Vec::new(), 3);
            let mut encoder = encoder.expect("its level is valid");
            encoder.window_log(20).expect("its window is valid");
            encoder.write_all(&zeros).expect("a vector takes all");
            encoder.finish().expect("a vector takes all")
        }
        Kind::Plain | Kind::Deflated => Vec::new(),
    })
}
