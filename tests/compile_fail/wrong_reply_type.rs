//! The handler replies with a number, but the session sends `String`.

use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(request.message().len())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
