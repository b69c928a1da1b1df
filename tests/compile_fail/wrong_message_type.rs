//! The handler takes `Vec<u8>`, but the codec decodes `String`.

use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Vec<u8>, String>| async move {
            Ok::<_, BoxError>(format!("{} bytes", request.message().len()))
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
