//! Sends of bytes that are encoded already.

use std::sync::Arc;

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, Request, SendError, SessionLayer, service_fn, transport::Framing,
};
use getty_test::{messages, stream};
use tokio::time::Duration;

use crate::support::{echo, idle, lines, open, soon};

/// Returns bytes that identify their position.
fn pattern(seed: usize, len: usize) -> Bytes {
    (0..len)
        .map(|n| u8::try_from((seed * 31 + n * 7 + n / 251) % 251).unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_are_sent_in_order_without_the_codec() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    session.try_send("before".to_owned()).unwrap();
    let (raw, pieces) = tokio::join!(
        session.send_raw(Bytes::from_static(b"raw\n")),
        session.send_raw_vectored(["in ", "", "pieces\n"].map(Bytes::from)),
    );
    session.send("after".to_owned()).await.unwrap();
    assert_eq!((raw.unwrap().bytes, pieces.unwrap().bytes), (4, 10));
    assert_eq!(peer.output(), "before\nraw\nin pieces\nafter\n");
    assert_eq!(session.stats().messages_out, 4);
}

#[tokio::test(start_paused = true)]
async fn pieces_of_any_size_survive_partial_writes_and_stalls() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(200_000, 400_000);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    let sizes = [10, 70_000, 1, 0, 16_384, 16_383, 20_000, 100_000, 3];
    let mut expected = Vec::new();
    let mut sends = Vec::new();
    for round in 0..3 {
        let pieces: Vec<_> = (0..)
            .zip(sizes)
            .map(|(n, len)| pattern(n + round, len))
            .collect();
        pieces
            .iter()
            .for_each(|piece| expected.extend_from_slice(piece));
        expected.extend_from_slice(b"line\n");
        let session = session.clone();
        sends.push(tokio::spawn(async move {
            let sent = session.send_raw_vectored(pieces).await.unwrap();
            session.feed("line".to_owned()).await.unwrap();
            sent.bytes
        }));
        idle().await;
        // The peer takes bytes up to the middle of pieces and up to their ends.
        for taken in [5, 5, 69_999, 1, 1, 4_000, 96, 50_000, 1] {
            peer.take(taken);
            idle().await;
        }
        peer.take_all();
        peer.limit_writes(7_777);
        idle().await;
        peer.stall();
    }
    for send in sends {
        assert_eq!(soon(send).await.unwrap(), sizes.iter().sum::<usize>());
    }
    peer.take_all();
    assert!(soon(peer.bytes(expected.len())).await == expected);
}

#[tokio::test(start_paused = true)]
async fn raw_payload_is_one_unit_with_any_number_of_pieces() {
    let (transport, peer) = messages(Framing::Messages);
    let handler = service_fn(|_: Request<String>| async { Ok::<_, BoxError>(None::<String>) });
    let (session, _task) = open(transport, lines(), SessionLayer::new(), handler).await;
    let large = |n: u8| Bytes::from(vec![b'a' + n % 26; 20_000]);
    let pieces: Vec<_> = (0..60)
        .flat_map(|n| [Bytes::from_static(b"-"), large(n)])
        .collect();
    let expected = pieces.concat();
    let (many, empty, one) = tokio::join!(
        session.send_raw_vectored(pieces),
        session.send_raw(Bytes::new()),
        session.send_raw(large(1)),
    );
    assert_eq!(many.unwrap().bytes, expected.len());
    assert_eq!((empty.unwrap().bytes, one.unwrap().bytes), (0, 20_000));
    assert!(soon(peer.text()).await.into_bytes() == expected);
    assert_eq!(soon(peer.text()).await, "");
    assert_eq!(soon(peer.text()).await.len(), 20_000);
    assert_eq!(peer.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_that_were_not_accepted_are_returned() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 4);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    session.feed("above the mark".to_owned()).await.unwrap();
    idle().await;
    let (raw, pieces) = (pattern(0, 10_000), vec![pattern(1, 5), pattern(2, 9_000)]);
    let (first, second) = (session.clone(), session.clone());
    let sends = (raw.clone(), pieces.clone());
    let first = tokio::spawn(async move { first.send_raw(sends.0).await });
    let second = tokio::spawn(async move { second.send_raw_vectored(sends.1).await });
    idle().await;
    session.close();
    let first = soon(first).await.unwrap().unwrap_err();
    let second = soon(second).await.unwrap().unwrap_err();
    assert!(first.is_closed() && second.is_closed());
    assert_eq!(first.into_message(), Some(raw.clone()));
    assert_eq!(second.into_message(), Some(pieces));
    // The same must hold for a session that is closed already.
    match session.send_raw(raw.clone()).await {
        Err(SendError::Closed { message, reason }) => {
            assert_eq!((message, reason), (Some(raw), CloseReason::Local));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn raw_send_that_is_dropped_before_there_is_room_sends_nothing() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_queue(1);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    session.try_send("fills it".to_owned()).unwrap();
    let dropped = tokio::time::timeout(Duration::ZERO, session.send_raw(pattern(0, 10)));
    let pieces = session.send_raw_vectored([pattern(0, 10)]);
    let vectored = tokio::time::timeout(Duration::ZERO, pieces);
    let (dropped, vectored) = tokio::join!(biased; dropped, vectored);
    assert!(dropped.is_err() && vectored.is_err());
    session.send("next".to_owned()).await.unwrap();
    assert_eq!(peer.output(), "fills it\nnext\n");
}

#[tokio::test(start_paused = true)]
async fn bytes_of_large_pieces_are_not_copied() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    let bytes = pattern(0, 64 * 1024);
    let sent = tokio::spawn({
        let (session, bytes) = (session.clone(), bytes.clone());
        async move { session.send_raw(bytes).await }
    });
    idle().await;
    assert!(!bytes.is_unique(), "the writer refers to the bytes");
    peer.take_all();
    soon(sent).await.unwrap().unwrap();
    assert!(bytes.is_unique(), "the writer releases written bytes");
    drop(Arc::new(session));
}
