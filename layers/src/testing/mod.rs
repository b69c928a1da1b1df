//! Test helpers: assertions that apply to every layer, around a mock service that is polled by
//! hand.

pub(crate) mod log;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;

use std::{
    fmt::Debug,
    task::{Context, Waker},
};

use getty_core::{CloseReason, Connection, Request, SessionIo, driver};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tokio_util::codec::LinesCodec;
use tower::{BoxError, Layer, Service};
use tower_test::mock::{self, Mock};

/// Returns a connection of lines, as `CodecLayer` creates it.
pub(crate) fn framed() -> Connection<SessionIo<(), LinesCodec, String>> {
    let connection = Connection::new(());
    let (_, driver) = driver::pair(connection.handle().clone());
    connection.map_transport(|()| SessionIo::new((), LinesCodec::new(), driver, 1024))
}

/// Returns a message of a session without a session loop.
pub(crate) fn request<Out: Send + 'static>() -> Request<&'static str, Out> {
    let connection = Connection::new(());
    let (session, _driver) = driver::pair(connection.handle().clone());
    Request::new("hello", session)
}

/// Performs the first poll of the session loop. Returns the driver half, and the guard that
/// closes the connection when it is dropped.
pub(crate) fn drive<C>(
    connection: Connection<SessionIo<(), C, String>>,
) -> (driver::Driver<String>, driver::CloseGuard) {
    let (framed, mut guard) = connection.into_parts();
    let mut driver = framed.into_parts().driver;
    driver.register(&Context::from_waker(Waker::noop()));
    guard.open();
    (driver, guard)
}

/// Asserts the readiness contract of `layer` around a mock service: it is ready when the inner
/// service is, calls the service that was polled ready and not a clone, passes a readiness
/// error on, and gives unused readiness back. `request` must return requests that the layer
/// lets through. `U` is the request of the inner service.
pub(crate) fn assert_readiness<R, U, A, L>(layer: &L, request: impl Fn() -> R)
where
    L: Layer<Mock<U, A>>,
    L::Service: Service<R, Error: Into<BoxError> + Debug> + Clone,
{
    let spawn = || {
        let (service, handle) = mock::pair::<U, A>();
        (mock::Spawn::new(layer.layer(service)), handle)
    };

    // A clone of a ready service is not ready.
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

    // A drop gives readiness back.
    let (mut service, mut handle) = spawn();
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    drop(service);
    assert!(assert_ready!(handle.poll_request()).is_none());

    // A readiness error passes through.
    let (mut service, mut handle) = spawn();
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.send_error("not ready");
    assert!(service.is_woken());
    let error: BoxError = assert_ready_err!(service.poll_ready()).into();
    assert_eq!(error.to_string(), "not ready");
}

/// Asserts that `layer` passes on readiness, calls, responses, errors and drops, and changes
/// nothing. `connection` must return the connection to call it with. The inner service is
/// called with the transport `U`.
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

    // A response passes through and wakes the task.
    let (mut service, mut handle) = spawn();
    assert_ready_ok!(service.poll_ready());
    let given = connection();
    let id = given.handle().id();
    let mut response = task::spawn(service.call(given));
    assert_pending!(response.poll());
    let (request, inner) = assert_ready!(handle.poll_request()).unwrap();
    assert_eq!(request.handle().id(), id);
    inner.send_response("response");
    assert!(response.is_woken());
    assert_eq!(assert_ready_ok!(response.poll()), "response");

    // An error passes through, and the service is still usable.
    assert_ready_ok!(service.poll_ready());
    let mut response = task::spawn(service.call(connection()));
    assert_pending!(response.poll());
    let (_, inner) = assert_ready!(handle.poll_request()).unwrap();
    inner.send_error("refused");
    assert!(response.is_woken());
    let error: BoxError = assert_ready_err!(response.poll()).into();
    assert_eq!(error.to_string(), "refused");
    assert_ready_ok!(service.poll_ready());

    // A connection that the inner service drops is refused.
    let (mut service, mut handle) = spawn();
    assert_ready_ok!(service.poll_ready());
    let given = connection();
    let handle_of_given = given.handle().clone();
    let mut response = task::spawn(service.call(given));
    assert_pending!(response.poll());
    drop(assert_ready!(handle.poll_request()));
    assert_eq!(handle_of_given.reason(), Some(CloseReason::Refused));
}
