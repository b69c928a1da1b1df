//! `HandleErrorLayer::typed` handles `io::Error`, but the timeout inside it has boxed errors.

use std::time::Duration;

use getty::{CodecLayer, Request, ServiceBuilder, SessionLayer, layers::HandleErrorLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::typed(|error: std::io::Error| {
            format!("ERR {error}")
        }))
        .timeout(Duration::from_secs(1))
        .service_fn(|request: Request<String>| async move {
            Ok::<_, std::io::Error>(request.into_message())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
