//! Flush delay: small messages share a write.

use std::time::Duration;

use getty::{SessionLayer, service_fn};
use getty_test::stream;
use tokio::time::sleep;

use crate::support::{echo, idle, lines, open, soon};

const DELAY: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn replies_of_one_delay_share_a_write_at_its_end() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_flush_delay(DELAY);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    for n in 0..9 {
        peer.send(format!("{n}\n"));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(peer.written(), 0, "after {n} ms");
    }
    assert_eq!(session.pending_bytes(), 18);
    sleep(Duration::from_millis(3)).await;
    assert_eq!(peer.output(), "0\n1\n2\n3\n4\n5\n6\n7\n8\n");
    assert_eq!(peer.counts().writes, 1);
    // The next delay must begin with the next reply.
    peer.send("9\n");
    sleep(Duration::from_millis(8)).await;
    assert_eq!(peer.written(), 18);
    assert_eq!(soon(peer.lines(10)).await[9], "9");
}

#[tokio::test(start_paused = true)]
async fn awaited_send_is_written_at_once_with_all_before_it() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_flush_delay(Duration::from_secs(3600));
    let (session, task) = open(transport, lines(), layer, service_fn(echo)).await;
    let began = tokio::time::Instant::now();
    session.try_send("held".to_owned()).unwrap();
    idle().await;
    assert_eq!(peer.written(), 0);
    session.send("awaited".to_owned()).await.unwrap();
    assert_eq!(peer.output(), "held\nawaited\n");
    session.try_send("held".to_owned()).unwrap();
    session.flush().await.unwrap();
    assert_eq!(peer.output(), "held\nawaited\nheld\n");
    session.try_send("last".to_owned()).unwrap();
    idle().await;
    session.close();
    soon(task).await.unwrap();
    assert_eq!(peer.output(), "held\nawaited\nheld\nlast\n");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn bytes_above_the_low_watermark_are_not_delayed() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new()
        .with_flush_delay(Duration::from_secs(3600))
        .with_watermarks(20, 100);
    let (_session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.send("123456789\n123456789\n");
    idle().await;
    assert_eq!(peer.written(), 0);
    peer.send("1\n");
    idle().await;
    assert_eq!(peer.written(), 22);
}

#[tokio::test(start_paused = true)]
async fn write_timeout_ends_a_stalled_peer_with_a_delay() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_flush_delay(DELAY);
    let (_session, task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    peer.send("hello\n");
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, getty::CloseReason::WriteTimeout);
}
