//! The stack has no `CodecLayer`.

use getty::{BoxError, Request, ServiceBuilder, SessionLayer};
use tokio::net::TcpListener;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
