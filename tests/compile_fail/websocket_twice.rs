//! The stack has two `WsLayer`s. `TlsLayer` inside `WsLayer` is the same mistake.

use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, codec::Text, ws::WsLayer};
use tokio::net::TcpListener;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(WsLayer::new())
        .layer(WsLayer::new())
        .layer(CodecLayer::new(Text::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
