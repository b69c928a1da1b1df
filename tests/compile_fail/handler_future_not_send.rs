//! The future of an `async` handler holds an `Rc` across an `await`.

use getty::{CodecLayer, ServiceBuilder, SessionLayer, handle};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

async fn say(line: String) -> String {
    let line = std::rc::Rc::new(line);
    tokio::task::yield_now().await;
    line.to_ascii_uppercase()
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service(handle(say));
    let _serve = getty::serve(listener, stack);
}

fn main() {}
