//! Compression of byte streams as a layer for servers and around connectors.
//!
//! [`CompressionLayer`] turns `Connection<T>` into `Connection<Compressed<T>>`, over any byte
//! stream. [`CompressionConnectLayer`] does the same for a client around a connector. Both
//! peers must be set up for the same format, because there is no negotiation.
//!
//! For a custom protocol use [`codec::Deflated`](crate::codec::Deflated) first, which
//! compresses each message alone. Use this module if the peer already speaks a compressed
//! stream, such as the Go library getty after `SetCompressType`, or if many small messages
//! resemble each other.
//!
//! ```
//! use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec, net};
//! use getty::compress::{CompressionConnectLayer, CompressionLayer, CompressionStats, Level};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let app = ServiceBuilder::new()
//!     // .layer(TlsLayer::new(config)) would be here
//!     .layer(CompressionLayer::deflate(Level::FAST))
//!     .layer(CodecLayer::new(codec::Lines::new()))
//!     .layer(SessionLayer::new())
//!     .service_fn(|request: Request<String>| async move {
//!         Ok::<_, BoxError>(request.into_message().to_uppercase())
//!     });
//! let (listener, connector) = net::memory(64 * 1024);
//! tokio::spawn(async move { getty::serve(listener, app).await });
//!
//! let connector = ServiceBuilder::new()
//!     .layer(CompressionConnectLayer::deflate(Level::FAST))
//!     .service(connector);
//! # let (answers, mut answer) = tokio::sync::mpsc::channel(1);
//! let (session, _task) = getty::connect(connector, (), |link| {
//!     ServiceBuilder::new()
//!         .layer(CodecLayer::new(codec::Lines::new()))
//!         .layer(link)
//!         .layer(SessionLayer::new())
//!         .service_fn(move |request: Request<String>| {
//!             // ...
//! #           let answers = answers.clone();
//! #           async move {
//! #               answers.send(request.into_message()).await?;
//! #               Ok::<_, BoxError>(None)
//! #           }
//!         })
//! })
//! .await?;
//! session.send("hello ".repeat(1_000)).await?;
//! # assert_eq!(answer.recv().await, Some("HELLO ".repeat(1_000)));
//! let wire: CompressionStats = session.get().ok_or("not compressed")?;
//! assert!(wire.wire_bytes_out() < 100);
//! assert_eq!(session.stats().bytes_out, 6_001);
//! # Ok(())
//! # }
//! ```
//!
//! # Order
//!
//! The layer belongs inside `TlsLayer` and outside `CodecLayer`.
//!
//! | mistake | effect |
//! |---|---|
//! | outside `TlsLayer` or `WsLayer` | does not compile: [`Compressed`] is no byte stream |
//! | inside `CodecLayer` | does not compile: it needs a connection without a codec |
//! | one peer only, or another format | [`CloseReason::Decode`] with an [`InflateError`] |
//! | over WebSocket or UDP | does not compile; use [`codec::Deflated`] |
//!
//! # Flushes and ends
//!
//! A session writes all waiting output at once and then flushes. Each write is compressed to
//! its last byte, so that the peer can inflate it. A [`send`](crate::Session::send) completes
//! after the flush. A write costs five bytes with deflate and zlib, about four with zstd, and a
//! header of eight bytes with snappy. A handler that pushes a few bytes at a time should gather
//! them with [`with_flush_delay`](crate::SessionLayer::with_flush_delay).
//!
//! | format | the end of this side's direction | an accepted end of the peer's |
//! |---|---|---|
//! | deflate | none, after the last flush | after a sync flush or a final block |
//! | zlib | final block and checksum | after a sync flush, or after the checksum |
//! | snappy | none, after the last chunk | after a chunk |
//! | zstd | end of the frame | after a frame |
//!
//! At any other end the input was cut off. The session closes as [`CloseReason::Io`] with an
//! [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof). Without TLS an attacker can cut a
//! stream after any flush, and the session cannot recognize it.
//!
//! Most inflaters expect a final block. The reader of Go's `compress/flate` returns
//! `io.ErrUnexpectedEOF` at the end of a deflate stream from this side, after the last message.
//!
//! # Memory
//!
//! A session that waits holds no buffer and no compression context. Contexts belong to a
//! [`Contexts`] pool. The state for inflating cannot be shared, because the peer may refer to
//! earlier bytes at any time.
//!
//! | choice | for the process | for a session that has sent | and has received |
//! |---|--:|--:|--:|
//! | [`codec::Deflated`] | 440 KB per thread | 40 B | 40 B |
//! | deflate, zlib | 165 KB per context, 42 MB at most | 210 B | 48 KB |
//! | snappy | 34 KB per thread | 210 B | 300 B |
//! | zstd | 1 MB per context, 256 MB at most | 210 B | window + 160 KB |
//!
//! The window of zstd is the peer's choice up to 1 MiB. With this module's layers it is 128
//! KiB.
//!
//! # Costs
//!
//! Each cell has the sent bytes as a percentage of the message, and the microseconds of CPU
//! time to send and to receive it. The messages are similar and are flushed one at a time, on
//! one core of a small virtual machine.
//!
//! | message | deflate, `FAST` | deflate, `DEFAULT` | snappy | zstd | `Deflated`, `FAST` |
//! |---|--:|--:|--:|--:|--:|
//! | JSON of 100 B | 46% 0.3 / 0.2 | 41% 2.7 / 0.2 | 108% 0.1 / 0.0 | 46% 1.1 / 0.2 | 105% 0.0 / 0.0 |
//! | JSON of 1 KiB | 36% 2.7 / 1.4 | 24% 10 / 2.1 | 52% 1.3 / 0.5 | 26% 6.1 / 1.9 | 45% 3.9 / 1.4 |
//! | JSON of 16 KiB | 35% 40 / 17 | 21% 106 / 17 | 38% 24 / 8.6 | 22% 50 / 11 | 35% 37 / 16 |
//! | random, 1 KiB | 106% 4.8 / 2.2 | 101% 23 / 0.2 | 101% 0.5 / 0.1 | 100% 6.0 / 0.4 | 100% 5.0 / 0.0 |
//! | random, 16 KiB | 106% 72 / 32 | 100% 234 / 1.3 | 100% 9.8 / 1.4 | 100% 19 / 1.2 | 100% 62 / 0.1 |
//!
//! The bench `compression` of the repository measures them. Random bytes stand for images and
//! for encrypted or compressed content, which should not be compressed. A session whose context
//! was given to another one will take some microseconds more for its next message, and will
//! send more bytes.
//!
//! A message to N sessions of a [`Group`](crate::Group) is compressed N times, because each
//! stream has a separate window. [`codec::Deflated`] compresses it once. Vectored and raw
//! writes are copied.
//!
//! # Limits
//!
//! A few compressed bytes can inflate to a thousand times as many. Inflated bytes are given to
//! the codec in parts of at most 16 KiB, so the codec's maximum bounds the memory of a session.
//! [`with_max_ratio`](CompressionLayer::with_max_ratio) bounds the CPU time that a peer can
//! cause with few bytes. It closes the session with an [`InflateBomb`]. At most 64 KiB of
//! compressed input are held, or one chunk of snappy with 75 KiB. Inflating and deflating take
//! a unit of tokio's cooperative budget every 32 KiB. When deflate and zstd inflate, they also
//! take one every 4 KiB of input, because blocks without content take as long as others.
//!
//! # Security
//!
//! Compression before encryption reveals something about the content through its length. If an
//! attacker can add text to a stream with a secret, and can see the length on the wire, the
//! stream is shorter if the text repeats a part of the secret. The attacker finds the secret
//! byte by byte. The attacks CRIME and BREACH did this with cookies and tokens in HTTP.
//!
//! - Do not compress a stream that carries a secret together with text that others choose, such
//!   as a session token beside chat messages. This also applies to secrets of the server.
//! - [`codec::Deflated`] keeps messages apart. A secret is then safe from the content of other
//!   messages, but not from text in the same message. Messages below its threshold are not
//!   compressed, so a login with a token of usual length is sent as it is.
//! - Compression is off by default.
//!
//! [`codec::Deflated`]: crate::codec::Deflated
//! [`CloseReason::Decode`]: crate::CloseReason::Decode
//! [`CloseReason::Io`]: crate::CloseReason::Io

mod connect;
pub(crate) mod contexts;
mod error;
mod input;
mod layer;
mod level;
mod output;
mod settings;
mod snappy;
mod stats;
mod transport;
pub(crate) mod work;
pub(crate) mod zlib;
#[cfg(feature = "zstd")]
mod zstd;

pub use self::{
    connect::{CompressionConnect, CompressionConnectLayer, CompressionConnecting},
    contexts::Contexts,
    error::{InflateBomb, InflateError},
    layer::{Compression, CompressionLayer},
    level::Level,
    stats::CompressionStats,
    transport::Compressed,
};
