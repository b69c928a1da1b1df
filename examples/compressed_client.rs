//! A line client over a compressed stream. It sends the lines of its input and prints those
//! that it receives.
//!
//! ```sh
//! cargo run --release --example echo --features echo -- --tcp 127.0.0.1:7007 --compress deflate
//! cargo run --release --example compressed_client --features compressed_client -- \
//!     deflate 127.0.0.1:7007
//! ```
//!
//! The formats are `deflate`, `zlib`, `snappy` and `zstd`. At the end of its input it ends its
//! direction of the connection. It then waits for the server to do the same, and prints the
//! number of bytes before and after compression on standard error.

mod report;

use std::io::{self, Write};

use getty::{
    BoxError, CloseReason, CodecLayer, NoReply, ServiceBuilder, SessionLayer,
    codec::Lines,
    compress::{CompressionConnectLayer, CompressionStats, Level},
    handle,
    net::TcpConnector,
};

use self::report::Report;

#[tokio::main]
async fn main() -> Result<(), Report> {
    let mut arguments = std::env::args().skip(1);
    let compression = match arguments.next().as_deref() {
        Some("deflate") => CompressionConnectLayer::deflate(Level::DEFAULT),
        Some("zlib") => CompressionConnectLayer::zlib(Level::DEFAULT),
        Some("snappy") => CompressionConnectLayer::snappy(),
        Some("zstd") => CompressionConnectLayer::zstd(0),
        _ => return Err("the first argument must be deflate, zlib, snappy or zstd".into()),
    };
    let address = arguments
        .next()
        .ok_or("the second argument must be an address")?;
    let connector = ServiceBuilder::new()
        .layer(compression)
        .service(TcpConnector::new());
    let (session, task) = getty::connect(connector, address, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(|line: String| {
                writeln!(io::stdout(), "{line}")?;
                Ok::<_, BoxError>(NoReply)
            }))
    })
    .await?;
    let wire: CompressionStats = session.get().ok_or("the connection is compressed")?;

    let lines = tokio::task::spawn_blocking(|| io::stdin().lines().collect::<Result<Vec<_>, _>>());
    for line in lines.await?? {
        session.feed(line).await?;
    }
    session.finish().await?;
    let closed = task.await?;
    eprintln!(
        "sent {} bytes as {}, received {} as {}",
        closed.stats.bytes_out,
        wire.wire_bytes_out(),
        closed.stats.bytes_in,
        wire.wire_bytes_in()
    );
    if closed.reason != CloseReason::PeerClosed {
        return Err(closed.to_string().into());
    }
    Ok(())
}
