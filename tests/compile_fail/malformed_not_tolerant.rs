//! `HandleMalformedLayer` has nothing to reply to, because the codec is not tolerant.

use getty::codec::{Json, Lines};
use getty::{CodecLayer, ServiceBuilder, SessionLayer, handle, layers::HandleMalformedLayer};
use tokio::net::TcpListener;

fn add((a, b): (u32, u32)) -> Vec<u32> {
    vec![a + b]
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Json::new(Lines::new())))
        .layer(SessionLayer::new())
        .layer(HandleMalformedLayer::new(|_| 0))
        .service(handle(add));
    let _serve = getty::serve(listener, stack);
}

fn main() {}
