//! Sends with a deadline of their own.

use std::time::Duration;

use getty::{SendError, Session, SessionLayer, service_fn};
use tokio::task::JoinHandle;

use crate::support::{echo, idle, lines, open, soon, stream};

const SECOND: Duration = Duration::from_secs(1);

fn send_timeout(
    session: &Session<String>,
    message: &str,
) -> JoinHandle<Result<usize, SendError<String>>> {
    let (session, message) = (session.clone(), message.to_owned());
    tokio::spawn(async move { Ok(session.send_timeout(message, SECOND).await?.bytes) })
}

/// What a timeout says: the message that came back, and whether bytes of it had left.
async fn timed_out(send: JoinHandle<Result<usize, SendError<String>>>) -> (Option<String>, bool) {
    match soon(send).await.unwrap() {
        Err(SendError::Timeout { message, begun }) => (message, begun),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_tells_what_was_taken_and_what_had_left() {
    let (transport, peer) = stream::pair();
    let layer = SessionLayer::new().with_watermarks(0, 8).with_queue(2);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    let begun = send_timeout(&session, "begun");
    idle().await;
    peer.take(2);
    idle().await;
    // 4 bytes are left, so that this is encoded, and goes above the mark
    let encoded = send_timeout(&session, "encoded");
    idle().await;
    let waits = send_timeout(&session, "waits");
    assert_eq!(timed_out(begun).await, (None, true));
    assert_eq!(timed_out(encoded).await, (None, false));
    assert_eq!(timed_out(waits).await, (Some("waits".to_owned()), false));

    // what had begun, and what was encoded, is sent all the same; and the next has as much time as it is given
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
async fn what_lies_in_the_queue_is_taken_back_and_makes_room() {
    let (transport, peer) = stream::pair();
    let layer = SessionLayer::new().with_watermarks(0, 4).with_queue(3);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    // queued in one go: the first goes above the mark, the others come back from the encoder
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
async fn a_send_in_time_is_like_any_other() {
    let (transport, peer) = stream::pair();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    let sent = session.send_timeout("hello".to_owned(), SECOND).await;
    assert_eq!(sent.unwrap().bytes, 6);
    assert_eq!(peer.output(), "hello\n");
    session.close();
    let refused = session.send_timeout("more".to_owned(), SECOND).await;
    assert!(refused.unwrap_err().is_closed());
}

#[tokio::test(start_paused = true)]
async fn written_and_not_flushed_has_begun() {
    let (transport, peer) = stream::pair();
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.hold_flush();
    let sent = send_timeout(&session, "written");
    assert_eq!(timed_out(sent).await, (None, true));
}
