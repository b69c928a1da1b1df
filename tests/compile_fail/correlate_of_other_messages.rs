//! `CorrelateLayer` matches numbers, but the messages of the session are strings.

use getty::layers::{Correlate, CorrelateLayer};
use getty::{BoxError, CodecLayer, Request, ServiceBuilder, SessionLayer};
use tokio::net::TcpListener;
use tokio_util::codec::LinesCodec;

struct Words;

impl Correlate<u32> for Words {
    fn put(&self, id: u64, message: &mut u32) {
        *message = id as u32;
    }

    fn response_id(&self, message: &u32) -> Option<u64> {
        Some((*message).into())
    }
}

fn run(listener: TcpListener) {
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(CorrelateLayer::new(Words))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<String>| async move {
            Ok::<_, BoxError>(request.into_message())
        });
    let _serve = getty::serve(listener, stack);
}

fn main() {}
