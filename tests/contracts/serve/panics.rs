//! A panic in the stack must end one connection, or the server if its readiness panics.

use std::{
    future::Ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use getty::{BoxError, CloseReason, Connection, Panic, Request, Service, serve, service_fn};
use getty_test::{Stream, listener};

use super::{Records, app, recorded, run, sleep};
use crate::support::{Answer, echo, idle, soon};

#[tokio::test(start_paused = true)]
async fn panic_in_the_readiness_of_the_stack_ends_the_server_like_an_error() {
    #[derive(Clone, Debug)]
    struct Shaky<S> {
        inner: S,
        ready: usize,
    }
    impl<S: Service<Connection<Stream>>> Service<Connection<Stream>> for Shaky<S> {
        type Response = S::Response;
        type Error = S::Error;
        type Future = S::Future;
        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            self.ready += 1;
            assert!(self.ready < 2, "a bad limit");
            self.inner.poll_ready(cx)
        }
        fn call(&mut self, connection: Connection<Stream>) -> S::Future {
            self.inner.call(connection)
        }
    }

    let (listener, dialer) = listener();
    let app = Shaky {
        inner: app(sleep),
        ready: 0,
    };
    let served = tokio::spawn(serve(listener, app).into_future());
    let busy = dialer.dial();
    busy.send("3\n");
    idle().await;
    let refused = dialer.dial();
    let error = soon(served).await.unwrap().unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<Panic>());
    assert_eq!(source.to_string(), "a bad limit");
    assert_eq!(
        (busy.output().as_str(), error.drained().finished),
        ("3\n", 1)
    );
    assert!(refused.is_gone());
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_layer_ends_only_its_connection() {
    for panics_late in [false, true] {
        let (listener, dialer) = listener();
        let records = Records::default();
        let count = Arc::new(AtomicUsize::new(0));
        let mut inner = app(echo);
        let shaky =
            tower::util::BoxCloneService::new(service_fn(move |connection: Connection<Stream>| {
                let panics = count.fetch_add(1, SeqCst) == 1;
                assert!(!panics || panics_late, "a bad layer");
                let session = inner.call(connection);
                async move {
                    assert!(!panics, "a bad layer");
                    session.await.map_err(Into::into)
                }
            }));
        let app = recorded(&records, |_| {}, shaky);
        let (served, stop) = run(serve(listener, app));
        let peers = [dialer.dial(), dialer.dial(), dialer.dial()];
        idle().await;
        assert!(peers[1].is_gone());
        for peer in [&peers[0], &peers[2]] {
            peer.send("alive\n");
            assert_eq!(soon(peer.line()).await, "alive");
        }
        assert_eq!(records.lock().unwrap().len(), 1);
        let reason = records.lock().unwrap()[0].reason.clone();
        assert_eq!(reason, CloseReason::Panicked);
        stop.send(()).unwrap();
        let drained = soon(served).await.unwrap().unwrap();
        assert_eq!((drained.finished, drained.aborted), (2, 0));
    }
}

/// A panic payload whose destructor panics again.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a bad payload");
    }
}

#[tokio::test(start_paused = true)]
async fn server_survives_a_panic_payload_that_panics_when_it_is_dropped() {
    let (listener, dialer) = listener();
    let count = Arc::new(AtomicUsize::new(0));
    let mut inner = app(echo);
    let shaky =
        tower::util::BoxCloneService::new(service_fn(move |connection: Connection<Stream>| {
            if count.fetch_add(1, SeqCst) == 0 {
                std::panic::panic_any(Payload);
            }
            let session = inner.call(connection);
            async move { session.await.map_err(Into::<BoxError>::into) }
        }));
    let (served, stop) = run(serve(listener, shaky));
    let peers = [dialer.dial(), dialer.dial()];
    idle().await;
    assert!(peers[0].is_gone());
    peers[1].send("alive\n");
    assert_eq!(soon(peers[1].line()).await, "alive");
    stop.send(()).unwrap();
    assert_eq!(soon(served).await.unwrap().unwrap().finished, 1);
}

#[tokio::test(start_paused = true)]
async fn record_of_a_panic_in_the_stack_contains_its_message() {
    let (listener, dialer) = listener();
    let records = Records::default();
    let panics = app(|_: Request<String>| -> Ready<Answer> { panic!("a bad handler") });
    let app = recorded(&records, |_| {}, panics);
    let (served, stop) = run(serve(listener, app));
    let peer = dialer.dial();
    peer.send("hello\n");
    idle().await;
    let record = records.lock().unwrap().pop().unwrap();
    assert_eq!(record.reason, CloseReason::Panicked);
    assert!(record.source.unwrap().is::<Panic>());
    stop.send(()).unwrap();
    assert_eq!(soon(served).await.unwrap().unwrap().finished, 0);
}
