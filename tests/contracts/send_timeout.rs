//! Sends with a separate timeout.

use std::time::Duration;

use getty::{SendError, Session, SessionLayer, service_fn};
use getty_test::stream;
use tokio::task::JoinHandle;

use crate::support::{echo, idle, lines, open, soon};

const SECOND: Duration = Duration::from_secs(1);

fn send_timeout(
    session: &Session<String>,
    message: &str,
) -> JoinHandle<Result<usize, SendError<String>>> {
    let (session, message) = (session.clone(), message.to_owned());
    tokio::spawn(async move { Ok(session.send_timeout(message, SECOND).await?.bytes) })
}

/// Returns the returned message of a timeout error, and `true` if a part was sent.
async fn timed_out(send: JoinHandle<Result<usize, SendError<String>>>) -> (Option<String>, bool) {
    match soon(send).await.unwrap() {
        Err(SendError::Timeout { message, begun }) => (message, begun),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn timeout_returns_the_message_and_reports_whether_it_was_sent() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 8).with_queue(2);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    let begun = send_timeout(&session, "begun");
    idle().await;
    peer.take(2);
    idle().await;
    // There is room for 4 bytes. So this message will be encoded and exceed the watermark.
    let encoded = send_timeout(&session, "encoded");
    idle().await;
    let waits = send_timeout(&session, "waits");
    assert_eq!(timed_out(begun).await, (None, true));
    assert_eq!(timed_out(encoded).await, (None, false));
    assert_eq!(timed_out(waits).await, (Some("waits".to_owned()), false));

    // Messages that were encoded must still be sent. The next send must have its whole timeout.
    let later = {
        let session = session.clone();
        tokio::spawn(async move { session.send("later".to_owned()).await })
    };
    tokio::time::sleep(10 * SECOND).await;
    assert!(!later.is_finished());
    peer.take_all();
    soon(later).await.unwrap().unwrap();
    assert_eq!(peer.output(), "begun\nencoded\nlater\n");
}

#[tokio::test(start_paused = true)]
async fn queued_message_is_taken_back_at_its_timeout_and_makes_room() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_watermarks(0, 4).with_queue(3);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    // Queued together: the first exceeds the watermark, so the encoder must return the others.
    let sends = ["first", "second", "third"].map(|message| send_timeout(&session, message));
    idle().await;
    assert_eq!(session.queued(), 2);
    let [first, second, third] = sends;
    assert_eq!(timed_out(first).await, (None, false));
    assert_eq!(timed_out(second).await, (Some("second".to_owned()), false));
    assert_eq!(timed_out(third).await, (Some("third".to_owned()), false));
    assert_eq!(session.queued(), 0);
    peer.take_all();
    session.send("next".to_owned()).await.unwrap();
    assert_eq!(peer.output(), "first\nnext\n");
}

#[tokio::test(start_paused = true)]
async fn send_within_its_timeout_succeeds() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let sent = session.send_timeout("hello".to_owned(), SECOND).await;
    assert_eq!(sent.unwrap().bytes, 6);
    assert_eq!(peer.output(), "hello\n");
    session.close();
    let refused = session.send_timeout("more".to_owned(), SECOND).await;
    assert!(refused.unwrap_err().is_closed());
}

#[tokio::test(start_paused = true)]
async fn message_that_is_written_and_not_flushed_counts_as_begun() {
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.hold_flush();
    let sent = send_timeout(&session, "written");
    assert_eq!(timed_out(sent).await, (None, true));
}
