//! A type that is no argument of handlers.

use getty::{CodecLayer, ServiceBuilder, SessionLayer, handle};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

struct User(String);

fn say(line: String, user: User) -> String {
    format!("{}: {line}", user.0)
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service(handle(say));
    let _serve = getty::serve(listener, stack);
}

fn main() {}
