//! Transports that keep message boundaries: one unit is one message.

use std::io;

use bytes::BytesMut;
use getty::{
    BoxError, CloseReason, Request, SendError, SessionLayer, service_fn, session::LeftoverBytes,
    transport::Framing,
};
use getty_test::messages;
use tokio_util::codec::{Decoder, Encoder};

use crate::{
    sending::Picky,
    support::{echo, idle, lines, open, soon},
};

/// A codec for which each unit is one message, even an empty one. It consumes some units
/// itself.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Decoder for Raw {
    type Item = String;
    type Error = io::Error;

    fn decode(&mut self, _: &mut BytesMut) -> io::Result<Option<String>> {
        Ok(None)
    }

    fn decode_eof(&mut self, buf: &mut BytesMut) -> io::Result<Option<String>> {
        let unit = buf.split();
        if unit.starts_with(b"bad") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if &unit[..] == b"kept" {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&unit).into_owned()))
    }
}

impl Encoder<String> for Raw {
    type Error = io::Error;

    fn encode(&mut self, message: String, buf: &mut BytesMut) -> io::Result<()> {
        buf.extend_from_slice(message.as_bytes());
        if message == "unsaid" {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }
}

const KINDS: [Framing; 2] = [Framing::Messages, Framing::Datagrams];

#[tokio::test(start_paused = true)]
async fn each_unit_is_one_message_in_both_directions_even_an_empty_one() {
    for kind in KINDS {
        let (transport, peer) = messages(kind);
        let (session, task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
        let messages = ["one", "", "two\nlines", "", ""];
        for message in messages {
            peer.send(message);
        }
        for message in messages {
            assert_eq!(soon(peer.text()).await, message);
        }
        peer.finish();
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::PeerClosed);
        assert_eq!(
            closed.stats.messages_in, 5,
            "the end does not count as a message"
        );
        assert_eq!(closed.stats.messages_out, 5);
        assert_eq!(peer.waiting(), 0);
        assert_eq!(peer.closed_with(), Some(CloseReason::PeerClosed));
        assert!(session.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn units_that_the_codec_consumes_do_not_delay_others() {
    for kind in KINDS {
        let (transport, peer) = messages(kind);
        // All units have arrived before the first read.
        for message in ["kept", "kept", "one", "kept", "two"] {
            peer.send(message);
        }
        let (_session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
        assert_eq!(soon(peer.text()).await, "one", "{kind:?}");
        assert_eq!(soon(peer.text()).await, "two", "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pending_transport_is_read_once_per_poll() {
    let (transport, peer) = messages(Framing::Messages);
    let (_session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
    idle().await;
    for message in ["one", "two"] {
        let asked = peer.counts().reads;
        peer.send(message);
        assert_eq!(soon(peer.text()).await, message);
        idle().await;
        // One read for the message and one for the next. There must be none after the reply.
        assert_eq!(peer.counts().reads - asked, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn replies_are_flushed_if_announced_input_does_not_arrive() {
    for framing in [Framing::Messages, Framing::Datagrams] {
        let (transport, peer) = messages(framing);
        let (_session, _task) =
            open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
        peer.promise_more();
        peer.send("one\n");
        assert_eq!(soon(peer.text()).await, "one\n");
    }
}

#[tokio::test(start_paused = true)]
async fn unit_needs_no_delimiter_with_a_codec_for_streams() {
    let (transport, peer) = messages(Framing::Messages);
    let (_session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send("no newline");
    assert_eq!(soon(peer.text()).await, "no newline\n");
    peer.send("with newline\n");
    assert_eq!(soon(peer.text()).await, "with newline\n");
}

#[tokio::test(start_paused = true)]
async fn bad_unit_closes_on_messages_and_is_skipped_on_datagrams() {
    for (kind, layer, skips) in [
        (Framing::Messages, SessionLayer::new(), false),
        (Framing::Datagrams, SessionLayer::new(), true),
        (
            Framing::Messages,
            SessionLayer::new().with_bad_messages_skipped(true),
            true,
        ),
        (
            Framing::Datagrams,
            SessionLayer::new().with_bad_messages_skipped(false),
            false,
        ),
    ] {
        let (transport, peer) = messages(kind);
        let (session, task) = open(transport, Raw, layer, service_fn(echo)).await;
        for message in ["good", "bad", "bad again", "better"] {
            peer.send(message);
        }
        assert_eq!(soon(peer.text()).await, "good");
        if skips {
            assert_eq!(soon(peer.text()).await, "better");
            assert_eq!(session.stats().skipped, 2);
            assert!(!session.is_closing());
        } else {
            let closed = soon(task).await.unwrap();
            assert_eq!(closed.reason, CloseReason::Decode);
            assert!(closed.source.unwrap().is::<io::Error>());
            assert_eq!(peer.closed_with(), Some(CloseReason::Decode));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unit_with_bytes_behind_its_message_is_bad() {
    let (transport, peer) = messages(Framing::Messages);
    let (_session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send("one\ntwo\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Decode);
    let leftover: LeftoverBytes = *closed.source.unwrap().downcast_ref().unwrap();
    assert_eq!(leftover.bytes, 4);

    let (transport, peer) = messages(Framing::Datagrams);
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send("one\ntwo\n");
    peer.send("three\n");
    assert_eq!(soon(peer.text()).await, "three\n");
    assert_eq!(session.stats().skipped, 1);
}

#[tokio::test(start_paused = true)]
async fn message_that_no_task_awaits_and_the_codec_refuses_is_skipped_on_datagrams() {
    for (kind, skips) in [(Framing::Messages, false), (Framing::Datagrams, true)] {
        let (transport, peer) = messages(kind);
        let (session, task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
        peer.send("unsaid");
        peer.send("said");
        if skips {
            assert_eq!(soon(peer.text()).await, "said");
            session.feed("unsaid".to_owned()).await.unwrap();
            idle().await;
            assert_eq!(session.stats().skipped, 2);
            assert_eq!(peer.waiting(), 0, "no part may be sent");
        } else {
            assert_eq!(soon(task).await.unwrap().reason, CloseReason::Encode);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refused_send_fails_and_is_not_counted_as_skipped() {
    let (transport, _peer) = messages(Framing::Datagrams);
    let (session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
    let refused = soon(session.send("unsaid".to_owned())).await;
    assert!(matches!(refused, Err(SendError::Encode(_))));
    assert_eq!(session.stats().skipped, 0);
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_the_transport_keep_their_boundaries() {
    let (transport, peer) = messages(Framing::Datagrams);
    let (session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    session.feed("first".to_owned()).await.unwrap();
    let empty = tokio::spawn({
        let session = session.clone();
        async move { session.send(String::new()).await }
    });
    idle().await;
    session.feed("unsaid".to_owned()).await.unwrap();
    session.feed("last".to_owned()).await.unwrap();
    idle().await;
    assert!(
        !empty.is_finished(),
        "the empty message waits behind the first"
    );
    peer.take_all();
    assert_eq!(soon(empty).await.unwrap().unwrap().bytes, 0);
    assert!(peer.waiting() >= 2, "both messages were sent");
    for message in ["first", "", "last"] {
        assert_eq!(soon(peer.text()).await, message);
    }
}

#[tokio::test(start_paused = true)]
async fn send_of_an_empty_message_completes_after_it_is_written() {
    let (transport, peer) = messages(Framing::Datagrams);
    let (session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    let empty = tokio::spawn({
        let session = session.clone();
        async move { session.send(String::new()).await }
    });
    idle().await;
    assert!(!empty.is_finished());
    peer.take_all();
    assert!(soon(empty).await.unwrap().is_ok());
    assert_eq!(peer.waiting(), 1);
}

#[tokio::test(start_paused = true)]
async fn frame_in_two_units_is_bad() {
    let (transport, peer) = messages(Framing::Messages);
    let (_session, task) = open(transport, Picky, SessionLayer::new(), service_fn(echo)).await;
    peer.send("half ");
    peer.send("a line\n");
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Decode);
}

#[tokio::test(start_paused = true)]
async fn many_messages_are_answered_in_order() {
    let (transport, peer) = messages(Framing::Messages);
    let slow = service_fn(|request: Request<String>| async move {
        tokio::task::yield_now().await;
        Ok::<_, BoxError>(request.into_message())
    });
    let layer = SessionLayer::new().with_in_flight(8);
    let (_session, _task) = open(transport, Raw, layer, slow).await;
    for n in 0..1000 {
        peer.send(n.to_string());
    }
    for n in 0..1000 {
        assert_eq!(soon(peer.text()).await, n.to_string());
    }
}
