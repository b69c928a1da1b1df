//! `HandleErrorLayer` works on messages, but it is outside `SessionLayer`.

use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer, layers::HandleErrorLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(HandleErrorLayer::new(|error| error.to_string()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
