//! A stray semicolon discards the reply.

use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            request.into_message();
            Ok::<_, BoxError>(())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
