//! Sessions that end with requests in flight.

use std::{io, time::Duration};

use getty::{
    BoxError, CloseReason, CodecLayer, OpenError, Request, ServiceBuilder, Session, SessionLayer,
    layers::correlate::{Delivery, RequestError},
    service_fn,
};
use getty_test::stream;
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};

use super::{ask, ask_back, asked, asking, left, question, words};
use crate::support::{connector, echo, idle, lines, soon};

#[tokio::test(start_paused = true)]
async fn close_during_a_request_reports_whether_it_was_sent() {
    let (transport, peer) = stream();
    let layer = SessionLayer::new().with_queue(2).with_watermarks(0, 8);
    let (session, task) = asking(transport, words(), layer, service_fn(echo)).await;
    let gone = ask(&session, "gone");
    question(&peer).await;
    // This request is encoded but not taken by the transport.
    peer.stall();
    let begun = ask(&session, "encoded");
    idle().await;
    let waits = ask(&session, "waits");
    idle().await;
    session.close_with(CloseReason::Shutdown);
    for (asked, expected, message) in [
        (gone, Delivery::Sent, None),
        (waits, Delivery::NotSent, Some("ask 3074 waits")),
        (begun, Delivery::Unknown, None),
    ] {
        match soon(asked).await.unwrap().unwrap_err() {
            RequestError::Closed {
                message: back,
                delivery: left,
                reason,
            } => {
                assert_eq!(left, expected);
                assert_eq!(back.as_deref(), message);
                assert_eq!(reason, CloseReason::Shutdown);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::Shutdown);
    // Later requests must fail too.
    let refused = soon(ask(&session, "late")).await.unwrap().unwrap_err();
    assert!(refused.is_closed());
    assert_eq!(refused.into_message().as_deref(), Some("late"));
}

#[tokio::test(start_paused = true)]
async fn queued_request_is_flushed_at_a_close_and_its_requester_notified() {
    let (session, peer, task) = asked(words()).await;
    let mut asked = task::spawn(session.request::<String>("what".to_owned()));
    assert_pending!(asked.poll());
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(question(&peer).await.1, "what");
    assert!(asked.is_woken());
    assert_eq!(left(assert_ready!(asked.poll())), Delivery::Sent);
}

#[tokio::test(start_paused = true)]
async fn handler_that_awaits_a_response_does_not_delay_the_close() {
    let (transport, peer) = stream();
    let handler = service_fn(ask_back);
    let (session, task) = asking(transport, words(), SessionLayer::new(), handler).await;
    peer.send("ask 7 back\n");
    question(&peer).await;
    let start = Instant::now();
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.is_none(), "nothing was cut off");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn end_of_the_peer_fails_requests_without_a_response() {
    let (transport, peer) = stream();
    let handler = service_fn(|request: Request<String>| async move {
        let (message, session) = request.into_parts();
        let asked: Result<String, _> = session.request(message).await;
        Ok::<_, BoxError>(Some(match asked {
            Ok(answer) => answer,
            Err(error) => error.to_string(),
        }))
    });
    let (session, task) = asking(transport, words(), SessionLayer::new(), handler).await;
    peer.send("one\n");
    let (id, _) = question(&peer).await;
    let asked = ask(&session, "from outside");
    question(&peer).await;
    // The response to the first request is behind another message. The end follows.
    peer.send(format!("two\nanswer {id} that\n"));
    peer.finish();
    let start = Instant::now();
    match soon(asked).await.unwrap().unwrap_err() {
        RequestError::Closed {
            delivery: left,
            reason,
            ..
        } => {
            assert_eq!((left, reason), (Delivery::Sent, CloseReason::PeerClosed));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(soon(peer.line()).await, format!("answer {id} that"));
    assert_eq!(
        soon(peer.line()).await,
        "the session is closed: closed by the peer; the request was not sent"
    );
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the end must not wait for the deadline"
    );
}

#[tokio::test(start_paused = true)]
async fn failed_transport_and_aborted_session_fail_requests() {
    let (session, peer, task) = asked(words()).await;
    let asked = ask(&session, "what");
    question(&peer).await;
    peer.reset();
    let error = soon(asked).await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        RequestError::Closed {
            reason: CloseReason::Io,
            delivery: Delivery::Sent,
            ..
        }
    ));
    soon(task).await.unwrap();

    let (session, peer, task) = self::asked(words()).await;
    let asked = ask(&session, "what");
    question(&peer).await;
    task.abort();
    let error = soon(asked).await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        RequestError::Closed {
            reason: CloseReason::Dropped,
            ..
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn refused_session_fails_requests() {
    let (transport, _peer) = stream();
    let opening = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(words())
            .layer(link)
            .layer(getty::layers::OnOpenLayer::new(
                |session: Session<String>| async move {
                    let asked = session.request::<String>("what".to_owned());
                    let error = asked.within(Duration::from_secs(1)).await.unwrap_err();
                    assert!(error.is_deadline(), "nothing has been received yet");
                    Err::<(), _>(io::Error::other("refused"))
                },
            ))
            .layer(SessionLayer::new())
            .service_fn(echo)
    });
    assert!(matches!(soon(opening).await, Err(OpenError::Open(_))));
}
