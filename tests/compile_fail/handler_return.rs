//! The handler returns a type that is not a reply.

use getty::{CodecLayer, ServiceBuilder, SessionLayer, handle};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

async fn length(line: String) -> usize {
    line.len()
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service(handle(length));
    let _serve = getty::serve(listener, stack);
}

fn main() {}
