//! `CodecLayer` works on connections, but it is inside `SessionLayer`.

use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(SessionLayer::new())
        .layer(CodecLayer::new(LinesCodec::new()))
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
