//! A panic must end one session as `Panicked` and no other session.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::BytesMut;
use getty::{BoxError, CloseReason, Request, Service, SessionLayer, service_fn};
use getty_test::stream;
use tokio_util::codec::{Decoder, Encoder};

use crate::support::{Answer, echo, idle, lines, open, panic_message, soon};

/// Lines whose decoder or encoder panics on a certain message after half is encoded.
#[derive(Clone, Copy, Debug)]
struct Panicky {
    decodes: bool,
}

impl Decoder for Panicky {
    type Item = String;
    type Error = io::Error;

    fn decode(&mut self, buf: &mut BytesMut) -> io::Result<Option<String>> {
        let Some(end) = buf.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = buf.split_to(end + 1);
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        assert!(!self.decodes || line != "panic", "a bad decoder");
        Ok(Some(line))
    }
}

impl Encoder<String> for Panicky {
    type Error = io::Error;

    fn encode(&mut self, message: String, buf: &mut BytesMut) -> io::Result<()> {
        buf.extend_from_slice(message.as_bytes());
        assert!(self.decodes || message != "panic", "a bad encoder");
        buf.extend_from_slice(b"\n");
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Ready,
    Call,
    Future,
    LateInTheFuture,
}

/// Echoes. Panics on a certain message.
#[derive(Clone, Debug)]
struct Shaky {
    place: Place,
    ready: usize,
}

impl Service<Request<String>> for Shaky {
    type Response = Option<String>;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.ready += 1;
        let panics = matches!(self.place, Place::Ready) && self.ready == 2;
        assert!(!panics, "panics in poll_ready");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let place = self.place;
        let panics = request.message() == "panic";
        assert!(!(panics && matches!(place, Place::Call)), "panics in call");
        Box::pin(async move {
            if panics && matches!(place, Place::LateInTheFuture) {
                tokio::task::yield_now().await;
            }
            assert!(!panics, "panics in the future");
            echo(request).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_handler_ends_its_session_after_encoded_bytes_are_flushed() {
    for (place, message) in [
        (Place::Ready, "panics in poll_ready"),
        (Place::Call, "panics in call"),
        (Place::Future, "panics in the future"),
        (Place::LateInTheFuture, "panics in the future"),
    ] {
        for n in [1, 3] {
            let (transport, peer) = stream();
            let layer = SessionLayer::new().with_in_flight(n);
            let handler = Shaky { place, ready: 0 };
            let (session, task) = open(transport, lines(), layer, handler).await;
            let sent = session.feed("fed".to_owned()).await;
            peer.send("one\n");
            assert!(sent.is_ok());
            soon(peer.lines(2)).await;

            peer.send("panic\nthree\n");
            let closed = soon(task).await.unwrap();
            assert_eq!(closed.reason, CloseReason::Panicked, "{place:?}");
            assert_eq!(panic_message(closed.source.as_ref()), message);
            assert_eq!(peer.output(), "fed\none\n");
            assert!(peer.is_shut(), "the transport was closed in order");
            let third = n > 1 && matches!(place, Place::LateInTheFuture);
            assert_eq!(closed.stats.messages_in, 2 + u64::from(third), "{place:?}");
            assert_eq!(closed.stats.messages_out, 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_decoder_ends_its_session() {
    let (transport, peer) = stream();
    let codec = Panicky { decodes: true };
    let (_session, task) = open(transport, codec, SessionLayer::new(), service_fn(echo)).await;
    peer.send("one\npanic\nthree\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert_eq!(panic_message(closed.source.as_ref()), "a bad decoder");
    assert_eq!(peer.output(), "one\n", "the earlier message is answered");
}

#[tokio::test(start_paused = true)]
async fn panic_of_an_encoder_leaves_no_bytes_of_its_message() {
    for sends in [false, true] {
        let (transport, peer) = stream();
        let codec = Panicky { decodes: false };
        let (session, task) = open(transport, codec, SessionLayer::new(), service_fn(echo)).await;
        peer.send("one\n");
        if sends {
            let outcome = soon(session.send("panic".to_owned())).await;
            assert!(outcome.unwrap_err().is_closed());
        } else {
            peer.send("panic\n");
        }
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::Panicked);
        assert_eq!(panic_message(closed.source.as_ref()), "a bad encoder");
        assert!(["", "one\n"].contains(&peer.output().as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn panic_does_not_affect_other_sessions() {
    let (bad, bad_peer) = stream();
    let (good, good_peer) = stream();
    let stack = Shaky {
        place: Place::Call,
        ready: 0,
    };
    let (_bad, bad_task) = open(bad, lines(), SessionLayer::new(), stack.clone()).await;
    let (_good, _good_task) = open(good, lines(), SessionLayer::new(), stack).await;
    good_peer.send("before\n");
    bad_peer.send("panic\n");
    assert_eq!(soon(bad_task).await.unwrap().reason, CloseReason::Panicked);
    good_peer.send("after\n");
    assert_eq!(soon(good_peer.lines(2)).await, ["before", "after"]);
}

#[tokio::test(start_paused = true)]
async fn callbacks_run_after_a_destructor_panics() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a bad destructor");
        }
    }

    let (transport, peer) = stream();
    let handler = service_fn(|_: Request<String>| async {
        let _bomb = Bomb;
        std::future::pending::<()>().await;
        Ok::<Option<String>, BoxError>(None)
    });
    let (session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    let (ran, runs) = std::sync::mpsc::channel();
    session.add_close_callback("test", 0, move |_| ran.send(()).unwrap());
    peer.send("stuck\n");
    idle().await;
    session.close();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Local);
    assert!(runs.recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn drain_deadline_ends_a_flush_after_a_panic() {
    let (transport, peer) = stream();
    let stack = Shaky {
        place: Place::Call,
        ready: 0,
    };
    let (session, task) = open(transport, lines(), SessionLayer::new(), stack).await;
    peer.stall();
    session.feed("unread".to_owned()).await.unwrap();
    idle().await;
    peer.send("panic\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert_eq!(closed.lifetime.as_secs(), 5);
}

/// A panic payload whose destructor panics again.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a bad payload");
    }
}

#[tokio::test(start_paused = true)]
async fn session_survives_a_panic_payload_that_panics_when_it_is_dropped() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        if request.message() == "panic" {
            std::panic::panic_any(Payload);
        }
        echo(request).await
    });
    let (_session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.send("one\npanic\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Panicked);
    assert_eq!(peer.output(), "one\n", "the earlier message is answered");
    assert!(peer.is_shut());
}
