//! The handler holds an `Rc` across an await, so its future is not `Send`.

use std::rc::Rc;

use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            let line = Rc::new(request.into_message());
            tokio::task::yield_now().await;
            Ok::<_, BoxError>(line.to_uppercase())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
