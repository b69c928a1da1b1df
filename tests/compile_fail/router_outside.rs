//! The stack has no `SessionLayer`, and its handlers are in a `Router`.

use getty::{BoxError, CodecLayer, Router, ServiceBuilder, handler::Packet, layers::HandleErrorLayer};
use getty::codec::{LengthDelimited, Packets};
use tokio::net::TcpListener;

fn echo(packet: Packet) -> Packet {
    packet
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Packets::new(LengthDelimited::new())))
        .layer(HandleErrorLayer::new(|error: BoxError| Packet::new(0, error.to_string())))
        .service(Router::<Packet, Packet>::new().route(1, echo));
    let _serve = getty::serve(listener, stack);
}

fn main() {}
