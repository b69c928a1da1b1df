//! tower's `map_request` takes messages here, but it is outside `SessionLayer`.

use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .map_request(|request: Request<String>| request.map(|line| line.trim().to_owned()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
