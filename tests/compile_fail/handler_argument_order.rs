//! The message is not the first argument.

use getty::{CodecLayer, ServiceBuilder, SessionLayer, Session, handle};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

async fn say(session: Session<String>, line: String) -> String {
    format!("{session}: {line}")
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service(handle(say));
    let _serve = getty::serve(listener, stack);
}

fn main() {}
