//! Transports that keep message boundaries: one unit, one message.

use std::io;

use bytes::BytesMut;
use getty::{
    BoxError, CloseReason, Request, SendError, SessionLayer, service_fn, session::LeftoverBytes,
    transport::Framing,
};
use tokio_util::codec::{Decoder, Encoder};

use crate::{
    sending::Picky,
    support::{echo, idle, lines, open, soon, units},
};

/// Each unit is one message, even an empty one, but for what the codec keeps to itself.
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
async fn each_unit_is_one_message_both_ways_even_an_empty_one() {
    for kind in KINDS {
        let (transport, peer) = units::pair(kind);
        let (session, task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
        let said = ["one", "", "two\nlines", "", ""];
        for message in said {
            peer.send(message);
        }
        for message in said {
            assert_eq!(soon(peer.message()).await, message);
        }
        peer.finish();
        let closed = soon(task).await.unwrap();
        assert_eq!(closed.reason, CloseReason::PeerClosed);
        assert_eq!(closed.stats.messages_in, 5, "the end is no message");
        assert_eq!(closed.stats.messages_out, 5);
        assert_eq!(peer.waiting(), 0);
        assert_eq!(peer.closed_with(), Some(CloseReason::PeerClosed));
        assert!(session.is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn units_that_the_codec_keeps_to_itself_hold_up_none_behind_them() {
    for kind in KINDS {
        let (transport, peer) = units::pair(kind);
        // all of them are there when it first reads
        for message in ["kept", "kept", "one", "kept", "two"] {
            peer.send(message);
        }
        let (_session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
        assert_eq!(soon(peer.message()).await, "one", "{kind:?}");
        assert_eq!(soon(peer.message()).await, "two", "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_asks_no_transport_that_has_said_it_will_wake_it() {
    let (transport, peer) = units::pair(Framing::Messages);
    let (_session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
    idle().await;
    for message in ["one", "two"] {
        let asked = peer.asked();
        peer.send(message);
        assert_eq!(soon(peer.message()).await, message);
        idle().await;
        // for the message, and for another; not again once that is answered
        assert_eq!(peer.asked() - asked, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn replies_are_flushed_though_the_transport_promised_more_and_had_none() {
    for framing in [Framing::Messages, Framing::Datagrams] {
        let (transport, peer) = units::pair(framing);
        let (_session, _task) =
            open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
        peer.promise_more();
        peer.send("one\n");
        assert_eq!(soon(peer.message()).await, "one\n");
    }
}

#[tokio::test(start_paused = true)]
async fn a_unit_needs_no_delimiter_and_a_codec_of_streams_works() {
    let (transport, peer) = units::pair(Framing::Messages);
    let (_session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send("no newline");
    assert_eq!(soon(peer.message()).await, "no newline\n");
    peer.send("with newline\n");
    assert_eq!(soon(peer.message()).await, "with newline\n");
}

#[tokio::test(start_paused = true)]
async fn a_bad_unit_closes_on_messages_and_is_skipped_and_counted_on_datagrams() {
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
        let (transport, peer) = units::pair(kind);
        let (session, task) = open(transport, Raw, layer, service_fn(echo)).await;
        for message in ["good", "bad", "bad again", "better"] {
            peer.send(message);
        }
        assert_eq!(soon(peer.message()).await, "good");
        if skips {
            assert_eq!(soon(peer.message()).await, "better");
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
async fn bytes_left_over_after_the_message_make_the_unit_bad() {
    let (transport, peer) = units::pair(Framing::Messages);
    let (_session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send("one\ntwo\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Decode);
    let leftover: LeftoverBytes = *closed.source.unwrap().downcast_ref().unwrap();
    assert_eq!(leftover.bytes, 4);

    let (transport, peer) = units::pair(Framing::Datagrams);
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.send("one\ntwo\n");
    peer.send("three\n");
    assert_eq!(soon(peer.message()).await, "three\n");
    assert_eq!(session.stats().skipped, 1);
}

#[tokio::test(start_paused = true)]
async fn an_unattended_message_that_the_codec_refuses_is_skipped_on_datagrams() {
    for (kind, skips) in [(Framing::Messages, false), (Framing::Datagrams, true)] {
        let (transport, peer) = units::pair(kind);
        let (session, task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
        peer.send("unsaid");
        peer.send("said");
        if skips {
            assert_eq!(soon(peer.message()).await, "said");
            session.feed("unsaid".to_owned()).await.unwrap();
            idle().await;
            assert_eq!(session.stats().skipped, 2);
            assert_eq!(peer.waiting(), 0, "nothing of it has left");
        } else {
            assert_eq!(soon(task).await.unwrap().reason, CloseReason::Encode);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_send_that_the_codec_refuses_is_told_and_not_counted_as_skipped() {
    let (transport, _peer) = units::pair(Framing::Datagrams);
    let (session, _task) = open(transport, Raw, SessionLayer::new(), service_fn(echo)).await;
    let refused = soon(session.send("unsaid".to_owned())).await;
    assert!(matches!(refused, Err(SendError::Encode(_))));
    assert_eq!(session.stats().skipped, 0);
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_the_transport_stay_apart_and_whole() {
    let (transport, peer) = units::pair(Framing::Datagrams);
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
    assert!(!empty.is_finished(), "it waits behind the first");
    peer.take_all();
    assert_eq!(soon(empty).await.unwrap().unwrap().bytes, 0);
    assert!(peer.waiting() >= 2, "it has left");
    for message in ["first", "", "last"] {
        assert_eq!(soon(peer.message()).await, message);
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_message_is_not_sent_before_it_has_left() {
    let (transport, peer) = units::pair(Framing::Datagrams);
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
async fn a_frame_split_over_two_units_is_bad() {
    let (transport, peer) = units::pair(Framing::Messages);
    let (_session, task) = open(transport, Picky, SessionLayer::new(), service_fn(echo)).await;
    peer.send("half ");
    peer.send("a line\n");
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Decode);
}

#[tokio::test(start_paused = true)]
async fn many_messages_are_answered_in_order() {
    let (transport, peer) = units::pair(Framing::Messages);
    let slow = service_fn(|request: Request<String>| async move {
        tokio::task::yield_now().await;
        Ok::<_, BoxError>(request.into_message())
    });
    let layer = SessionLayer::new().in_flight(8);
    let (_session, _task) = open(transport, Raw, layer, slow).await;
    for n in 0..1000 {
        peer.send(n.to_string());
    }
    for n in 0..1000 {
        assert_eq!(soon(peer.message()).await, n.to_string());
    }
}
