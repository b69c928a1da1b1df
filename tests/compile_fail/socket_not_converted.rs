//! A socket of the standard library is served as it is.

use std::net::UdpSocket;

use getty::{CodecLayer, ServiceBuilder, SessionLayer, codec::Text, handle};

fn run(socket: UdpSocket) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Text::new()))
        .layer(SessionLayer::new())
        .service(handle(|text: String| text));
    let _serve = getty::serve(socket, stack);
}

fn main() {}
