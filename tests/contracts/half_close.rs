//! Half-close of our direction before the end of the session.

use std::{sync::Arc, time::Duration};

use getty::{
    BoxError, CloseReason, Request, SendError, SessionLayer, hooks::HandleExt, service_fn,
    transport::Framing,
};
use getty_test::{messages, stream};

use crate::support::{echo, echo_by_turns, idle, lines, open, soon};

#[tokio::test(start_paused = true)]
async fn finish_ends_our_direction_after_the_flush_and_receiving_continues() {
    let (transport, peer) = stream();
    peer.stay_open();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let handler = service_fn(move |request: Request<String>| {
        sender.send(request.message().clone()).unwrap();
        echo(request)
    });
    let (session, task) = open(transport, lines(), SessionLayer::new(), handler).await;
    peer.stall();
    session.try_send("accepted".to_owned()).unwrap();
    let finish = tokio::spawn({
        let session = session.clone();
        async move { session.finish().await }
    });
    idle().await;
    let refused = session.try_send("late".to_owned()).unwrap_err();
    assert!(matches!(&refused, SendError::Finished(late) if late == "late"));
    assert!(!finish.is_finished() && !session.is_finished() && !peer.is_shut());

    peer.take_all();
    soon(finish).await.unwrap().unwrap();
    assert!(peer.is_shut() && session.is_finished() && !session.is_closing());
    soon(session.finish()).await.unwrap();
    soon(session.flush()).await.unwrap();

    // Handlers must be called as before. Their replies are dropped.
    peer.send("one\ntwo\n");
    assert_eq!(soon(received.recv()).await.unwrap(), "one");
    assert_eq!(soon(received.recv()).await.unwrap(), "two");
    idle().await;
    assert_eq!(session.stats().dropped, 2);
    for refused in [
        session.feed("late".to_owned()).await.unwrap_err(),
        session.send("late".to_owned()).await.unwrap_err(),
    ] {
        assert_eq!(refused.into_message().as_deref(), Some("late"));
    }
    assert!(matches!(
        session.writable().await,
        Err(SendError::Finished(()))
    ));

    peer.finish();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert_eq!(peer.output(), "accepted\n");
}

#[tokio::test(start_paused = true)]
async fn senders_behind_finish_get_their_messages_back() {
    let (transport, peer) = stream();
    peer.stay_open();
    let layer = SessionLayer::new().with_watermarks(0, 4);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    peer.stall();
    session.try_send("above the mark".to_owned()).unwrap();
    idle().await;
    let finish = tokio::spawn({
        let session = session.clone();
        async move { session.finish().await }
    });
    idle().await;
    let waits = tokio::spawn({
        let session = session.clone();
        async move { session.send("waits".to_owned()).await }
    });
    idle().await;
    peer.take_all();
    soon(finish).await.unwrap().unwrap();
    let refused = soon(waits).await.unwrap().unwrap_err();
    assert!(matches!(&refused, SendError::Finished(message) if message == "waits"));
}

#[tokio::test(start_paused = true)]
async fn message_transport_cannot_finish_and_continues() {
    let (transport, peer) = messages(Framing::Messages);
    let (session, _task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    assert!(matches!(
        soon(session.finish()).await,
        Err(SendError::Unsupported)
    ));
    assert!(!session.is_finished());
    session.send("goes on".to_owned()).await.unwrap();
    assert_eq!(soon(peer.text()).await, "goes on\n");
}

#[tokio::test(start_paused = true)]
async fn finish_that_is_dropped_before_there_is_room_does_nothing() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_queue(1);
    let (session, _task) = open(transport, lines(), layer, service_fn(echo)).await;
    session.try_send("fills it".to_owned()).unwrap();
    let dropped = tokio::time::timeout(Duration::ZERO, session.finish());
    let (dropped, _) = tokio::join!(biased; dropped, async {});
    assert!(dropped.is_err());
    session.send("goes on".to_owned()).await.unwrap();
    assert!(!peer.is_shut());
}

#[tokio::test(start_paused = true)]
async fn finish_during_the_close_fails() {
    let (transport, peer) = stream();
    let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
    peer.stall();
    session.try_send("stuck".to_owned()).unwrap();
    let finish = tokio::spawn({
        let session = session.clone();
        async move { session.finish().await }
    });
    idle().await;
    session.close();
    assert!(soon(finish).await.unwrap().unwrap_err().is_closed());
    soon(task).await.unwrap();
    assert!(session.finish().await.unwrap_err().is_closed());
}

#[tokio::test]
async fn peer_over_tcp_sees_the_end_and_may_continue() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let mut client = client.unwrap();
    let handler = service_fn(|request: Request<String>| async move {
        let session = request.session().clone();
        session
            .send(format!("you said {}", request.message()))
            .await?;
        session.finish().await?;
        Ok::<_, BoxError>(Some("goes nowhere".to_owned()))
    });
    // The handler awaits its own session, which must continue meanwhile.
    let (session, task) = open(accepted.unwrap().0, lines(), SessionLayer::new(), handler).await;
    client.write_all(b"hello\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "you said hello\n");
    assert!(session.is_finished() && !session.is_closing());
    client.shutdown().await.unwrap();
    let closed = task.await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(closed.stats.dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn input_end_guard_is_dropped_at_the_end_of_input_while_handlers_continue() {
    let (turns, handler) = echo_by_turns();
    let (transport, peer) = stream();
    // A single handler would stop the decoding until it finishes, and with it the end of input.
    let layer = SessionLayer::new().with_in_flight(2);
    let (session, task) = open(transport, lines(), layer, handler).await;
    let kept = Arc::new(());
    session.drop_on_input_end(Arc::clone(&kept));
    peer.send("last\n");
    idle().await;
    assert_eq!(Arc::strong_count(&kept), 2);
    peer.finish();
    idle().await;
    assert_eq!(Arc::strong_count(&kept), 1);
    assert!(!session.is_closing());
    // Values that are added later must be dropped.
    session.drop_on_input_end(Arc::clone(&kept));
    idle().await;
    assert_eq!(Arc::strong_count(&kept), 1);
    turns.add_permits(1);
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert_eq!(peer.output(), "last\n");
}
