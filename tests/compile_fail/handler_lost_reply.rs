//! A stray semicolon discards the reply of a handler.

use getty::{CodecLayer, ServiceBuilder, SessionLayer, handle};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

async fn upper(line: String) {
    line.to_ascii_uppercase();
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service(handle(upper));
    let _serve = getty::serve(listener, stack);
}

fn main() {}
