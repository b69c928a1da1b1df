//! Shared helpers: sessions over the transports of the test kit.

#[allow(dead_code, reason = "only tests of log lines use it")]
pub(crate) mod log;
pub(crate) mod words;

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use getty::{
    BoxError, Connection, IntoReply, Panic, Request, Service, ServiceBuilder, Session,
    SessionLayer, SessionTask, SharedError, Transport, layers::CodecLayer, service_fn,
};
use getty_test::{Probe, ProbeHandle, probe};
use tokio::{sync::Semaphore, time};
use tokio_util::codec::{Decoder, Encoder, LinesCodec};

/// Return type of handlers in these tests.
pub(crate) type Answer = Result<Option<String>, BoxError>;

pub(crate) fn lines() -> LinesCodec {
    LinesCodec::new_with_max_length(8 * 1024)
}

pub(crate) async fn echo(request: Request<String>) -> Answer {
    Ok(Some(request.into_message()))
}

/// Handler that echoes, and that checks how it is called.
type EchoProbe = Probe<fn(Request<String>) -> Answer>;

/// Returns a handler that echoes, and that checks how it is called.
pub(crate) fn echo_probe() -> (EchoProbe, ProbeHandle) {
    fn echo(request: Request<String>) -> Answer {
        Ok(Some(request.into_message()))
    }
    probe(echo as fn(_) -> _)
}

/// A handler that echoes a message for each permit of the semaphore. It waits when there is
/// none.
pub(crate) fn echo_by_turns() -> (
    Arc<Semaphore>,
    impl Service<Request<String>, Response = Option<String>, Error = BoxError, Future: Send>
    + Clone
    + Send,
) {
    let turns = Arc::new(Semaphore::new(0));
    let taken = Arc::clone(&turns);
    let handler = service_fn(move |request| {
        let turns = Arc::clone(&taken);
        async move {
            turns.acquire().await?.forget();
            echo(request).await
        }
    });
    (turns, handler)
}

/// Runs one session over `transport` on a separate task.
pub(crate) async fn open<T, C, Out, S>(
    transport: T,
    codec: C,
    layer: SessionLayer,
    handler: S,
) -> (Session<Out>, SessionTask)
where
    T: Transport + Send + 'static,
    C: Decoder<Error: Into<BoxError>> + Encoder<Out, Error: Into<BoxError>>,
    C: Clone + Send + 'static,
    C::Item: Send + 'static,
    Out: Send + 'static,
    S: Service<Request<C::Item, Out>, Future: Send> + Clone + Send + 'static,
    S::Response: IntoReply<Out> + Send + 'static,
    S::Error: Into<BoxError> + Send + 'static,
{
    getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(codec))
            .layer(link)
            .layer(layer)
            .service(handler)
    })
    .await
    .expect("the dial cannot fail")
}

/// A connector whose address is the transport.
pub(crate) fn connector<T: Send>()
-> impl Service<T, Response = Connection<T>, Error = Infallible, Future: Send> + Clone {
    service_fn(|transport| async { Ok(Connection::new(transport)) })
}

/// Returns the output of `future`. With the clock paused, a future that never resolves must
/// fail the test instead of hanging it.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    time::timeout(Duration::from_secs(24 * 3600), future)
        .await
        .expect("the future never resolves")
}

/// Lets all tasks run until each one waits. The clock must be paused. Then it can only advance
/// when no task can run.
pub(crate) async fn idle() {
    time::sleep(Duration::from_millis(1)).await;
}

/// Returns the message of the panic in `source`.
pub(crate) fn panic_message(source: Option<&SharedError>) -> String {
    let source = source.expect("a panic is recorded with its message");
    let panic: &Panic = source.downcast_ref().expect("the source is a `Panic`");
    panic.to_string()
}
