use std::{convert::Infallible, future::ready, io, sync::Arc};

use getty_core::{CloseReason, Closed, ConnectionHandle};
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::service_fn;
use tower_test::mock;

use super::*;
use crate::testing::{assert_readiness, request};

type Message = Request<&'static str, String>;

fn message<E: Into<BoxError>>(error: E) -> String {
    error.into().downcast::<Panic>().unwrap().to_string()
}

/// A connection, and what its close callback is told.
fn connection() -> (
    Connection<u8>,
    ConnectionHandle,
    Arc<std::sync::Mutex<Vec<Closed>>>,
) {
    let connection = Connection::new(1);
    let handle = connection.handle().clone();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let tells = told.clone();
    handle.add_close_callback("test", 0, move |closed| {
        tells.lock().unwrap().push(closed.clone());
    });
    (connection, handle, told)
}

#[test]
fn an_answer_and_an_error_pass_through() {
    let (mut service, mut handle) =
        mock::spawn_layer::<Message, Option<String>, _>(CatchPanicLayer::new());
    for fails in [false, true] {
        assert_ready_ok!(service.poll_ready());
        let mut response = task::spawn(service.call(request()));
        assert_pending!(response.poll());
        let (_, inner) = tokio_test::assert_ready!(handle.poll_request()).unwrap();
        if fails {
            inner.send_error("too bad");
        } else {
            inner.send_response(Some("answer".to_owned()));
        }
        assert!(response.is_woken());
        match tokio_test::assert_ready!(response.poll()) {
            Ok(answer) => assert_eq!(answer.as_deref(), Some("answer")),
            Err(error) => assert_eq!(error.to_string(), "too bad"),
        }
    }
}

#[test]
fn it_is_ready_when_the_inner_service_is_and_a_clone_is_not() {
    assert_readiness::<_, Message, Option<String>, _>(&CatchPanicLayer::new(), request);
}

#[test]
fn a_panic_of_a_message_is_an_error_wherever_it_happens() {
    let mut in_call = CatchPanicLayer::new().layer(service_fn(
        |_: Message| -> std::future::Ready<Result<String, Infallible>> { panic!("in call") },
    ));
    let error = assert_ready_err!(task::spawn(in_call.call(request())).poll());
    assert_eq!(message(error), "in call");
    let mut in_poll = CatchPanicLayer::new().layer(service_fn(|_: Message| async {
        tokio::task::yield_now().await;
        panic!("in {}", "poll");
        #[allow(unreachable_code, reason = "the type of the answer")]
        Ok::<String, Infallible>(String::new())
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let error = runtime.block_on(in_poll.call(request())).unwrap_err();
    assert_eq!(message(error), "in poll");
}

#[test]
fn a_panic_of_a_message_may_be_answered_while_errors_pass_through() {
    let layer = CatchPanicLayer::new().with_reply(|panic| format!("ERR {panic}"));
    let mut service = layer.layer(service_fn(|request: Message| {
        assert_ne!(*request.message(), "panic", "as told");
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
    assert!(reply.is_after_error(), "the session takes a fresh stack");
    let (mut messages, _) = reply.into_parts();
    let text = messages.next().unwrap();
    assert!(
        text.starts_with("ERR ") && text.contains("as told"),
        "{text}"
    );
}

#[test]
fn a_panic_that_drops_the_connection_closes_it_with_its_message() {
    // the connection is dropped by the unwinding of: the call, the future's own frame, the future itself
    for place in 0..3_u8 {
        let (connection, handle, told) = connection();
        let mut service =
            CatchPanicLayer::new().layer(service_fn(move |connection: Connection<u8>| {
                assert_ne!(place, 0, "place 0");
                let mut kept = Some(connection);
                std::future::poll_fn(move |_| -> Poll<Result<(), Infallible>> {
                    let _mine = if place == 1 { kept.take() } else { None };
                    let of = kept.is_some();
                    panic!("place {place} {of}");
                })
            }));
        let mut response = task::spawn(service.call(connection));
        let expected = ["place 0", "place 1 false", "place 2 true"][usize::from(place)];
        let error = message(assert_ready_err!(response.poll()));
        assert!(error.contains(expected), "{error}");
        assert!(handle.is_closed(), "when the error is known, all is over");
        let told = told.lock().unwrap();
        let [closed] = &told[..] else {
            panic!("told {} times", told.len())
        };
        assert_eq!(closed.reason, CloseReason::Panicked);
        assert_eq!(closed.source.as_ref().unwrap().to_string(), error);
    }
}

#[test]
fn nested_layers_finish_the_connection_once() {
    let (connection, handle, told) = connection();
    let inner = CatchPanicLayer::new().layer(service_fn(|connection: Connection<u8>| async move {
        let _connection = connection;
        panic!("deep inside");
        #[allow(unreachable_code, reason = "the type of the answer")]
        Ok::<(), Infallible>(())
    }));
    let mut service = CatchPanicLayer::new().layer(inner);
    let error = assert_ready_err!(task::spawn(service.call(connection)).poll());
    assert_eq!(message(error), "deep inside");
    assert!(handle.is_closed());
    assert_eq!(told.lock().unwrap().len(), 1);
}

#[test]
fn a_reason_that_was_there_before_the_panic_stays() {
    let (connection, handle, told) = connection();
    handle.close();
    let mut service =
        CatchPanicLayer::new().layer(service_fn(|connection: Connection<u8>| async move {
            let _connection = connection;
            panic!("too late");
            #[allow(unreachable_code, reason = "the type of the answer")]
            Ok::<(), Infallible>(())
        }));
    assert_ready_err!(task::spawn(service.call(connection)).poll());
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].reason, CloseReason::Local);
    assert!(told[0].source.is_none());
}

#[test]
fn a_panic_in_a_connections_readiness_is_an_error() {
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
fn a_future_that_is_dropped_drops_the_inner_one() {
    let (connection, handle, told) = connection();
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
    assert_eq!(told.lock().unwrap()[0].reason, CloseReason::Refused);
}
