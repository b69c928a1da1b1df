//! A compressed stream carries a session. TLS and WebSocket belong outside the compression.

use getty::{
    BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer,
    codec::Text,
    compress::{CompressionLayer, Level},
    ws::WsLayer,
};
use tokio::net::TcpListener;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CompressionLayer::deflate(Level::FAST))
        .layer(WsLayer::new())
        .layer(CodecLayer::new(Text::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
