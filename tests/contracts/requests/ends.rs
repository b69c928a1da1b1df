//! Sessions that end with requests in flight.

use std::{io, time::Duration};

use getty::{
    BoxError, CloseReason, CodecLayer, OpenError, Request, ServiceBuilder, Session, SessionLayer,
    layers::correlate::{Left, RequestError},
    service_fn,
};
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};

use super::{ask, ask_back, asked, asking, left, question, words};
use crate::support::{connector, echo, idle, lines, soon, stream};

#[tokio::test(start_paused = true)]
async fn a_close_in_mid_request_says_whether_it_had_left() {
    let (transport, peer) = stream::pair();
    let layer = SessionLayer::new().with_queue(2).with_watermarks(0, 8);
    let (session, task) = asking(transport, words(), layer, service_fn(echo)).await;
    let gone = ask(&session, "gone");
    question(&peer).await;
    // taken by the encoder and then not by the transport
    peer.stall();
    let begun = ask(&session, "encoded");
    idle().await;
    let waits = ask(&session, "waits");
    idle().await;
    session.close_with(CloseReason::Shutdown);
    for (asked, expected, message) in [
        (gone, Left::Yes, None),
        (waits, Left::No, Some("ask 3074 waits")),
        (begun, Left::Perhaps, None),
    ] {
        match soon(asked).await.unwrap().unwrap_err() {
            RequestError::Closed {
                message: back,
                left,
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
    // and from then on
    let refused = soon(ask(&session, "late")).await.unwrap().unwrap_err();
    assert!(refused.is_closed());
    assert_eq!(refused.into_message().as_deref(), Some("late"));
}

#[tokio::test(start_paused = true)]
async fn what_was_queued_is_still_flushed_at_a_close_and_the_requester_learns_it() {
    let (session, peer, task) = asked(words()).await;
    let mut asked = task::spawn(session.request::<String>("what".to_owned()));
    assert_pending!(asked.poll());
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!(question(&peer).await.1, "what");
    assert!(asked.is_woken());
    assert_eq!(left(assert_ready!(asked.poll())), Left::Yes);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_waits_for_an_answer_does_not_hold_up_the_close() {
    let (transport, peer) = stream::pair();
    let handler = service_fn(ask_back);
    let (session, task) = asking(transport, words(), SessionLayer::new(), handler).await;
    peer.send("ask 7 back\n");
    question(&peer).await;
    let begun = Instant::now();
    session.close();
    let closed = soon(task).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.is_none(), "nothing was cut off");
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_peers_end_fails_what_it_has_not_answered() {
    let (transport, peer) = stream::pair();
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
    // the answer to the first comes behind another message, and then the end
    peer.send(format!("two\nanswer {id} that\n"));
    peer.finish();
    let begun = Instant::now();
    match soon(asked).await.unwrap().unwrap_err() {
        RequestError::Closed { left, reason, .. } => {
            assert_eq!((left, reason), (Left::Yes, CloseReason::PeerClosed));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(soon(peer.line()).await, format!("answer {id} that"));
    assert_eq!(
        soon(peer.line()).await,
        "the session is closed: closed by the peer; the request had not left"
    );
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    assert!(begun.elapsed() < Duration::from_secs(1), "no deadline");
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_fails_and_a_session_that_is_aborted_fail_requests() {
    let (session, peer, task) = asked(words()).await;
    let asked = ask(&session, "what");
    question(&peer).await;
    peer.reset();
    let error = soon(asked).await.unwrap().unwrap_err();
    assert!(matches!(
        error,
        RequestError::Closed {
            reason: CloseReason::Io,
            left: Left::Yes,
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
async fn a_session_refused_while_it_opens_fails_requests() {
    let (transport, _peer) = stream::pair();
    let opening = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(lines()))
            .layer(words())
            .layer(link)
            .layer(getty::layers::OnOpenLayer::new(
                |session: Session<String>| async move {
                    let asked = session.request::<String>("what".to_owned());
                    let error = asked.within(Duration::from_secs(1)).await.unwrap_err();
                    assert!(error.is_deadline(), "nothing is received as yet");
                    Err::<(), _>(io::Error::other("refused"))
                },
            ))
            .layer(SessionLayer::new())
            .service_fn(echo)
    });
    assert!(matches!(soon(opening).await, Err(OpenError::Open(_))));
}
