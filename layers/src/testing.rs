//! What every layer is tested for, by polling it by hand around a mock service.

use std::{
    fmt::Debug,
    task::{Context, Waker},
};

use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tokio_util::codec::LinesCodec;
use tower::{BoxError, Layer, Service};
use tower_test::mock::{self, Mock};

use getty_core::{CloseReason, Connection, Framed, Request, driver};

/// A connection with lines as messages, as `CodecLayer` makes it.
pub(crate) fn framed() -> Connection<Framed<(), LinesCodec, String>> {
    let connection = Connection::new(());
    let (_, driver) = driver::pair(connection.handle().clone());
    connection.map_transport(|()| Framed::new((), LinesCodec::new(), driver, 1024))
}

/// A message of a session that nobody drives.
pub(crate) fn request<Out: Send + 'static>() -> Request<&'static str, Out> {
    let connection = Connection::new(());
    let (session, _driver) = driver::pair(connection.handle().clone());
    Request::new("hello", session)
}

/// Does what the session loop does in its first turn; gives the driver half and the duty to finish the connection.
pub(crate) fn drive<C>(
    connection: Connection<Framed<(), C, String>>,
) -> (driver::Driver<String>, driver::Lease) {
    let (framed, mut lease) = connection.into_parts();
    let mut driver = framed.into_parts().driver;
    driver.turn(&Context::from_waker(Waker::noop()));
    lease.open();
    (driver, lease)
}

/// Around a mock of an inner service, `layer` is ready when that one is, calls that one and no clone of it, and passes on
/// an error of its readiness and what becomes of a readiness that is not used. `request` is of those that are let
/// through; what the inner service is called with is a `U`.
pub(crate) fn assert_readiness<R, U, A, L>(layer: &L, request: impl Fn() -> R)
where
    L: Layer<Mock<U, A>>,
    L::Service: Service<R, Error: Into<BoxError> + Debug> + Clone,
{
    let spawn = || {
        let (service, handle) = mock::pair::<U, A>();
        (mock::Spawn::new(layer.layer(service)), handle)
    };

    // a clone of one that is ready is not
    let (mut service, mut handle) = spawn();
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
    let mut clone = service.clone();
    let response = service.call(request());
    assert_pending!(clone.poll_ready());
    handle.allow(1);
    assert!(clone.is_woken());
    assert_ready_ok!(clone.poll_ready());
    drop(response);

    // readiness that is dropped is given back
    let (mut service, mut handle) = spawn();
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    drop(service);
    assert!(assert_ready!(handle.poll_request()).is_none());

    // an error of readiness passes through
    let (mut service, mut handle) = spawn();
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.send_error("out of order");
    assert!(service.is_woken());
    let error: BoxError = assert_ready_err!(service.poll_ready()).into();
    assert_eq!(error.to_string(), "out of order");
}

/// Around a mock of an inner service, `layer` passes on readiness, calls, answers, errors and drops, and adds nothing to
/// them. `connection` makes what it is called with; the inner service is called with the transport `U`.
pub(crate) fn assert_transparent<T, U, L>(layer: &L, connection: impl Fn() -> Connection<T>)
where
    L: Layer<Mock<Connection<U>, &'static str>>,
    L::Service: Service<Connection<T>, Response = &'static str, Error: Into<BoxError> + Debug>,
    L::Service: Clone,
{
    let spawn = || {
        let (service, handle) = mock::pair::<Connection<U>, &'static str>();
        (mock::Spawn::new(layer.layer(service)), handle)
    };

    assert_readiness::<_, Connection<U>, _, _>(layer, &connection);

    // an answer passes through, and its waker fires
    let (mut service, mut handle) = spawn();
    assert_ready_ok!(service.poll_ready());
    let given = connection();
    let id = given.handle().id();
    let mut response = task::spawn(service.call(given));
    assert_pending!(response.poll());
    let (request, inner) = assert_ready!(handle.poll_request()).unwrap();
    assert_eq!(request.handle().id(), id);
    inner.send_response("answer");
    assert!(response.is_woken());
    assert_eq!(assert_ready_ok!(response.poll()), "answer");

    // an error passes through, and the service is as good as before
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    assert_pending!(response.poll());
    let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
    inner.send_error("refused");
    assert!(response.is_woken());
    let error: BoxError = assert_ready_err!(response.poll()).into();
    assert_eq!(error.to_string(), "refused");
    assert_ready_ok!(service.poll_ready());

    // a connection that the inner service drops is refused
    let (mut service, mut handle) = spawn();
    assert_ready_ok!(service.poll_ready());
    let given = connection();
    let id = given.handle().clone();
    let mut response = task::spawn(service.call(given));
    assert_pending!(response.poll());
    drop(assert_ready!(handle.poll_request()));
    assert_eq!(id.reason(), Some(CloseReason::Refused));
}
