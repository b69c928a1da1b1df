//! Default settings. The queue's bound is tested with sending and the read-ahead bound with
//! readiness. Sockets and reconnects are tested in their own files.

use std::{future::pending, time::Duration};

use bytes::{Bytes, BytesMut};
use getty::{
    BoxError, CloseReason, CodecLayer, Request, Service, ServiceBuilder, SessionLayer,
    codec::{Decoder, Encoder, LengthDelimited, Lines, Raw, Text},
    layers::HandshakeTimeoutLayer,
    net, serve, service_fn,
};
use getty_test::stream;
use tokio::{sync::mpsc, time::Instant};
use tower::Layer;

use crate::support::{Answer, echo, idle, lines, open, soon};

const LARGEST: usize = 64 * 1024;

#[test]
fn codecs_take_frames_of_64_kib_and_none_beyond() {
    let frame = |length: usize| "x".repeat(length);
    let mut out = BytesMut::new();

    Lines::new().encode(frame(LARGEST), &mut out).unwrap();
    assert!(Lines::new().decode(&mut out).unwrap().is_some());
    assert!(Lines::new().encode(frame(LARGEST + 1), &mut out).is_err());
    let mut long = BytesMut::from(&*(frame(LARGEST + 1) + "\n"));
    assert!(Lines::new().decode(&mut long).is_err());

    out.clear();
    let bytes = |length| Bytes::from(frame(length));
    LengthDelimited::new()
        .encode(bytes(LARGEST), &mut out)
        .unwrap();
    assert!(LengthDelimited::new().decode(&mut out).unwrap().is_some());
    assert!(
        LengthDelimited::new()
            .encode(bytes(LARGEST + 1), &mut out)
            .is_err()
    );
    let mut header = BytesMut::from(&[0, 1, 0, 1][..]);
    assert!(LengthDelimited::new().decode(&mut header).is_err());

    out.clear();
    Text::new().encode(frame(LARGEST), &mut out).unwrap();
    assert!(Text::new().decode_eof(&mut out).unwrap().is_some());
    assert!(Text::new().encode(frame(LARGEST + 1), &mut out).is_err());
    let mut long = BytesMut::from(&*frame(LARGEST + 1));
    assert!(Text::new().decode_eof(&mut long).is_err());

    let mut long = BytesMut::from(&*frame(LARGEST + 1));
    let message = Raw::new().decode(&mut long).unwrap().unwrap();
    assert_eq!((message.len(), long.len()), (LARGEST, 1));
}

#[tokio::test(start_paused = true)]
async fn watermarks_are_64_and_32_kib() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    for line in 0..8 {
        assert!(!session.is_backpressured(), "after {line} KiB by eight");
        session.try_send("x".repeat(8 * 1024 - 1)).unwrap();
        idle().await;
    }
    assert!(!session.is_backpressured(), "exactly at the high watermark");
    session.try_send(String::new()).unwrap();
    idle().await;
    assert!(session.is_backpressured(), "above the high watermark");
    peer.take(32 * 1024);
    idle().await;
    assert!(session.is_backpressured(), "a byte above the low watermark");
    peer.take(1);
    idle().await;
    assert!(!session.is_backpressured());
}

#[tokio::test(start_paused = true)]
async fn peer_that_takes_nothing_is_given_30_s() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    let start = Instant::now();
    session.try_send("hello".to_owned()).unwrap();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::WriteTimeout);
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn peer_that_sends_nothing_or_half_a_message_has_no_timeout() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(30 * 24 * 3600)).await;
        assert!(!session.is_closing());
        assert_eq!(peer.written(), 0, "no heartbeat");
        peer.send("hal");
    }
}

#[tokio::test(start_paused = true)]
async fn handlers_have_5_s_once_their_session_closes_or_their_server_stops() {
    async fn never(_: Request<String>) -> Answer {
        pending().await
    }
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(never)).await;
    peer.send("hello\n");
    idle().await;
    let start = Instant::now();
    session.close();
    soon(task).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 5);

    let (listener, connector) = net::memory(1024);
    let (called, mut calls) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(lines()))
        .layer(SessionLayer::new().with_drain_deadline(Duration::from_secs(60)))
        .service_fn(move |request| {
            called.send(()).unwrap();
            never(request)
        });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = serve(listener, stack).with_graceful_shutdown(async move {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serving.into_future());
    let mut client = connector.connect().await.unwrap().into_parts().0;
    tokio::io::AsyncWriteExt::write_all(&mut client, b"hello\n")
        .await
        .unwrap();
    soon(calls.recv()).await.unwrap();
    let start = Instant::now();
    drop(stop);
    let drained = soon(serving).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (0, 1));
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn handshakes_have_10_s() {
    let inner = service_fn(|connection: getty::Connection<()>| async move {
        let _connection = connection;
        pending::<Result<getty::Closed, BoxError>>().await
    });
    let mut service = HandshakeTimeoutLayer::default().layer(inner);
    let start = Instant::now();
    soon(service.call(getty::Connection::new(())))
        .await
        .unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 10);
}
