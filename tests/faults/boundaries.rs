//! Exact limits, and outcomes that must come at once. Each test finds a planted bug that no
//! other test found; see docs/faults.md.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Connection, Request, ServiceBuilder, Session, SessionLayer, SessionTask,
    Transport, codec::Lines, service_fn,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::{Instant, sleep},
};

use crate::app::soon;

/// Opens a session that echoes lines. A line with a number is echoed after this number of
/// seconds.
async fn open<T: Transport + Send + 'static>(
    layer: SessionLayer,
    io: T,
) -> (Session<String>, SessionTask) {
    let connector = service_fn(|io| async { Ok::<_, BoxError>(Connection::new(io)) });
    getty::connect(connector, io, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(link)
            .layer(layer)
            .service_fn(async |request: Request<String>| {
                if let Ok(seconds) = request.message().parse() {
                    sleep(Duration::from_secs(seconds)).await;
                }
                Ok::<_, BoxError>(request.into_message())
            })
    })
    .await
    .unwrap()
}

/// Lets all tasks run.
async fn idle() {
    sleep(Duration::from_millis(1)).await;
}

const TEN_BYTES: &str = "123456abc";

#[tokio::test(start_paused = true)]
async fn pushes_stop_above_the_high_watermark_and_resume_at_the_low_one() {
    let layer = SessionLayer::new().with_watermarks(10, 30);
    let (io, mut peer) = duplex(16);
    let (session, _task) = open(layer, io).await;
    for _ in 0..6 {
        session.try_send(TEN_BYTES.to_owned()).unwrap();
    }
    idle().await;
    // The fourth message begins at 30 bytes, which are not above the watermark.
    assert_eq!(session.stats().messages_out, 4);
    assert_eq!(session.queued(), 2);
    assert_eq!(session.pending_bytes(), 24);
    assert!(session.try_send(String::new()).unwrap_err().is_full());
    let mut read = [0; 13];
    peer.read_exact(&mut read).await.unwrap();
    idle().await;
    assert_eq!(session.pending_bytes(), 11);
    assert_eq!(session.stats().messages_out, 4);
    peer.read_exact(&mut read[..1]).await.unwrap();
    idle().await;
    assert_eq!(session.stats().messages_out, 6, "10 bytes waited");
    assert_eq!(session.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn equal_watermarks_let_pushes_resume_at_both() {
    let layer = SessionLayer::new().with_watermarks(20, 20);
    let (io, _peer) = duplex(10);
    let (session, _task) = open(layer, io).await;
    for _ in 0..6 {
        session.try_send(TEN_BYTES.to_owned()).unwrap();
    }
    idle().await;
    // The pipe takes the first of three messages. 20 bytes wait, so that another one follows.
    assert_eq!(session.stats().messages_out, 4);
    assert_eq!(session.pending_bytes(), 30);
    assert_eq!(session.queued(), 2);
}

#[tokio::test(start_paused = true)]
async fn replies_share_a_write_until_they_are_above_the_high_watermark() {
    let layer = SessionLayer::new().with_watermarks(10, 30);
    let (io, peer) = getty_test::stream();
    let (_session, _task) = open(layer, io).await;
    // Four replies are the first that exceed 30 bytes.
    for (lines, expected) in [(3, 1), (4, 1), (5, 2), (8, 2)] {
        let before = peer.counts().writes;
        peer.send(format!("{TEN_BYTES}\n").repeat(lines));
        peer.bytes(10 * lines).await;
        assert_eq!(peer.counts().writes - before, expected, "{lines} lines");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_write_fails_queued_senders_at_once_while_a_handler_continues() {
    let layer = SessionLayer::new().with_watermarks(1, 10);
    let (io, mut peer) = duplex(16);
    let (session, task) = open(layer, io).await;
    peer.write_all(b"3\n").await.unwrap();
    idle().await;
    let sends: Vec<_> = (0..3)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.send("more than ten bytes".to_owned()).await })
        })
        .collect();
    idle().await;
    assert_eq!(session.stats().messages_out, 1, "the others are queued");
    assert_eq!(session.queued(), 2);
    let start = Instant::now();
    drop(peer);
    for send in sends {
        assert!(soon(send).await.unwrap().is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(!session.is_closed(), "a handler is at work");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.unhandled_messages, 0);
    // Two messages and the reply.
    assert_eq!(closed.unsent_messages, 3);
}

/// The driver has taken four messages and encoded one when another arrives. The three go back
/// to the queue.
#[test]
fn messages_that_return_to_the_queue_precede_newer_ones() {
    let connection = Connection::new(());
    let (session, mut driver) = getty::driver::pair::<u32>(connection.handle().clone());
    for n in 0..4 {
        session.try_send(n).unwrap();
    }
    let cx = Context::from_waker(Waker::noop());
    driver.register(&cx);
    let first = driver.next_outgoing().unwrap();
    assert_eq!(first.into_message(), Some(0));
    session.try_send(4).unwrap();
    driver.set_backpressure(true);
    driver.set_backpressure(false);
    driver.register(&cx);
    let mut rest = Vec::new();
    while let Some(outgoing) = driver.next_outgoing() {
        rest.extend(outgoing.into_message());
    }
    assert_eq!(rest, [1, 2, 3, 4]);
}
