use std::{convert::Infallible, future::ready, io, sync::Arc};

use getty_core::{CloseReason, Closed, ConnectionHandle};
use getty_test::assert_layer_contract;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::service_fn;
use tower_test::mock;

use super::*;
use crate::testing::request;

type Message = Request<&'static str, String>;

fn message<E: Into<BoxError>>(error: E) -> String {
    error.into().downcast::<Panic>().unwrap().to_string()
}

/// Returns a connection, its handle, and the calls of its close callback.
fn connection() -> (
    Connection<u8>,
    ConnectionHandle,
    Arc<std::sync::Mutex<Vec<Closed>>>,
) {
    let connection = Connection::new(1);
    let handle = connection.handle().clone();
    let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
    let callback = calls.clone();
    handle.add_close_callback("test", 0, move |closed| {
        callback.lock().unwrap().push(closed.clone());
    });
    (connection, handle, calls)
}

#[test]
fn responses_and_errors_pass_through() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Message, Option<String>, _>(CatchPanicLayer::new());
    for fails in [false, true] {
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        assert_pending!(response.poll());
        let (_, inner) = tokio_test::assert_ready!(handle.poll_request()).unwrap();
        if fails {
            inner.send_error("handler failed");
        } else {
            inner.send_response(Some("response".to_owned()));
        }
        assert!(response.is_woken());
        match tokio_test::assert_ready!(response.poll()) {
            Ok(response) => assert_eq!(response.as_deref(), Some("response")),
            Err(error) => assert_eq!(error.to_string(), "handler failed"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn layer_follows_the_contract() {
    assert_layer_contract(&CatchPanicLayer::new(), request::<String>).await;
}

#[test]
fn panic_in_call_or_poll_becomes_an_error() {
    let mut in_call = CatchPanicLayer::new().layer(service_fn(
        |_: Message| -> std::future::Ready<Result<String, Infallible>> { panic!("in call") },
    ));
    let error = assert_ready_err!(task::spawn(in_call.call(request())).poll());
    assert_eq!(message(error), "in call");
    let mut in_poll = CatchPanicLayer::new().layer(service_fn(|_: Message| async {
        tokio::task::yield_now().await;
        panic!("in {}", "poll");
        #[allow(unreachable_code, reason = "the type of the response")]
        Ok::<String, Infallible>(String::new())
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let error = runtime.block_on(in_poll.call(request())).unwrap_err();
    assert_eq!(message(error), "in poll");
}

#[test]
fn panic_becomes_a_reply_and_errors_pass_through() {
    let layer = CatchPanicLayer::new().with_reply(|panic| format!("ERR {panic}"));
    let mut service = layer.layer(service_fn(|request: Message| {
        assert_ne!(*request.message(), "panic", "panic on request");
        ready(match *request.message() {
            "hello" => Ok(request.into_message().to_owned()),
            _ => Err(io::Error::other("disk full")),
        })
    }));
    let reply = assert_ready_ok!(task::spawn(service.call(request())).poll());
    assert_eq!(reply, Reply::one("hello".to_owned()));
    let error = task::spawn(service.call(request().map(|_| "fail"))).poll();
    assert_eq!(assert_ready_err!(error).to_string(), "disk full");
    let reply = task::spawn(service.call(request().map(|_| "panic"))).poll();
    let reply = assert_ready_ok!(reply);
    assert!(reply.is_after_error(), "the session must use a fresh stack");
    let (mut messages, _) = reply.into_parts();
    let text = messages.next().unwrap();
    assert!(
        text.starts_with("ERR ") && text.contains("panic on request"),
        "{text}"
    );
}

#[test]
fn panic_that_drops_the_connection_closes_it_with_its_message() {
    // The unwinding drops the connection as part of: the call, the future's frame, the future
    // itself.
    for place in 0..3_u8 {
        let (connection, handle, calls) = connection();
        let mut service =
            CatchPanicLayer::new().layer(service_fn(move |connection: Connection<u8>| {
                assert_ne!(place, 0, "place 0");
                let mut kept = Some(connection);
                std::future::poll_fn(move |_| -> Poll<Result<(), Infallible>> {
                    let _local = if place == 1 { kept.take() } else { None };
                    let in_future = kept.is_some();
                    panic!("place {place} {in_future}");
                })
            }));
        let mut response = task::spawn(service.call(connection));
        let expected = ["place 0", "place 1 false", "place 2 true"][usize::from(place)];
        let error = message(assert_ready_err!(response.poll()));
        assert!(error.contains(expected), "{error}");
        assert!(
            handle.is_closed(),
            "the connection is closed before the error is returned"
        );
        let calls = calls.lock().unwrap();
        let [closed] = &calls[..] else {
            panic!("called {} times", calls.len())
        };
        assert_eq!(closed.reason, CloseReason::Panicked);
        assert_eq!(closed.source.as_ref().unwrap().to_string(), error);
    }
}

#[test]
fn nested_layers_close_the_connection_once() {
    let (connection, handle, calls) = connection();
    let inner = CatchPanicLayer::new().layer(service_fn(|connection: Connection<u8>| async move {
        let _connection = connection;
        panic!("deep inside");
        #[allow(unreachable_code, reason = "the type of the response")]
        Ok::<(), Infallible>(())
    }));
    let mut service = CatchPanicLayer::new().layer(inner);
    let error = assert_ready_err!(task::spawn(service.call(connection)).poll());
    assert_eq!(message(error), "deep inside");
    assert!(handle.is_closed());
    assert_eq!(calls.lock().unwrap().len(), 1);
}

#[test]
fn earlier_close_reason_is_kept() {
    let (connection, handle, calls) = connection();
    handle.close();
    let mut service =
        CatchPanicLayer::new().layer(service_fn(|connection: Connection<u8>| async move {
            let _connection = connection;
            panic!("too late");
            #[allow(unreachable_code, reason = "the type of the response")]
            Ok::<(), Infallible>(())
        }));
    assert_ready_err!(task::spawn(service.call(connection)).poll());
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].reason, CloseReason::Local);
    assert!(calls[0].source.is_none());
}

#[test]
fn panic_in_readiness_of_connections_becomes_an_error() {
    #[derive(Debug)]
    struct Bad;
    impl Service<Connection<u8>> for Bad {
        type Response = ();
        type Error = Infallible;
        type Future = std::future::Ready<Result<(), Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            panic!("not ready at all")
        }

        fn call(&mut self, _: Connection<u8>) -> Self::Future {
            ready(Ok(()))
        }
    }

    let mut service = CatchPanic::new(Bad);
    let error = service.poll_ready(&mut Context::from_waker(std::task::Waker::noop()));
    assert_eq!(message(assert_ready_err!(error)), "not ready at all");
}

#[test]
fn dropped_future_drops_the_inner_future() {
    let (connection, handle, calls) = connection();
    let mut service =
        CatchPanicLayer::new().layer(service_fn(|connection: Connection<u8>| async move {
            let _connection = connection;
            std::future::pending::<Result<(), Infallible>>().await
        }));
    let mut response = task::spawn(service.call(connection));
    assert_pending!(response.poll());
    assert!(!handle.is_closed());
    drop(response);
    assert!(handle.is_closed());
    assert_eq!(calls.lock().unwrap()[0].reason, CloseReason::Refused);
}
