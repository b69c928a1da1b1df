//! The close reason of a connection that is dropped between `CodecLayer` and `SessionLayer`.

use getty_core::{CloseReason, Connection, SessionIo};
use getty_layers::CodecLayer;
use tokio_test::{assert_ready, task};
use tokio_util::codec::LinesCodec;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

#[test]
fn connection_dropped_before_its_session_opens_was_refused() {
    type Request = Connection<SessionIo<(), LinesCodec, String>>;

    let connection = Connection::new(());
    let handle = connection.handle().clone();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(LinesCodec::new()))
        .layer(tower::layer::layer_fn(|_| {
            service_fn(|connection: Request| async move {
                drop(connection);
                Err::<(), _>(BoxError::from("not you"))
            })
        }))
        .service(());
    let mut refused = task::spawn(stack.oneshot(connection));
    assert!(assert_ready!(refused.poll()).is_err());
    assert_eq!(handle.reason(), Some(CloseReason::Refused));
}
