//! The handler takes a state, and the service has none.

use getty::{CodecLayer, ServiceBuilder, SessionLayer, State, handle};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

#[derive(Clone)]
struct Rooms;

fn say(line: String, State(_rooms): State<Rooms>) -> String {
    line
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service(handle(say));
    let _serve = getty::serve(listener, stack);
}

fn main() {}
