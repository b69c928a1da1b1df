//! `Frames` in sessions: messages that share the memory they were read into.

use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, SessionLayer,
    codec::{Frame, Frames},
    layers::{CorrelateLayer, Group},
    service_fn,
};
use getty_test::stream;
use tokio::task::yield_now;

use crate::support::{connector, open, soon};

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    Frames::default()
        .encode(payload.to_vec().into(), &mut frame)
        .unwrap();
    frame.to_vec()
}

/// Returns empty and small frames and some that are longer than a block.
fn many() -> Vec<u8> {
    let length = |n: usize| match n % 40 {
        0 => 0,
        39 => 20_000,
        rest => rest * 7,
    };
    (0..600)
        .flat_map(|n| frame(&vec![u8::try_from(n % 251).unwrap(); length(n)]))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn slow_handlers_answer_frames_in_order_after_the_peer_has_finished() {
    let sent = many();
    for (piece, in_flight) in [(sent.len(), 1), (70_000, 5), (9_000, 3), (777, 1)] {
        let (transport, peer) = stream();
        let handler = service_fn(|request: Request<Frame>| async move {
            let frame = request.into_message();
            for _ in 0..frame.len() % 3 {
                yield_now().await;
            }
            Ok::<_, BoxError>(frame)
        });
        let layer = SessionLayer::new().with_in_flight(in_flight);
        let (_session, task) = open(transport, Frames::default(), layer, handler).await;
        peer.send_in_pieces(&sent, piece);
        peer.finish();
        assert!(soon(peer.bytes(sent.len())).await == sent, "{piece}");
        assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    }
}

#[tokio::test(start_paused = true)]
async fn response_among_frames_that_arrived_together_matches_its_request() {
    let (transport, peer) = stream();
    let correlate =
        CorrelateLayer::in_order().with_push(|frame: &Frame| !frame.starts_with(b"answer"));
    let (_session, _task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Frames::default()))
            .layer(correlate)
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(|request: Request<Frame>| async move {
                let (message, session) = request.into_parts();
                if message != "go" {
                    return Ok(message);
                }
                let answer: Frame = session.request("what".into()).await?;
                Ok::<_, BoxError>(answer)
            })
    })
    .await
    .unwrap();
    let between = [frame(b"one"), frame(b""), frame(b"two")].concat();
    for round in 0..3 {
        let sent = [&frame(b"go"), &between, &frame(b"answer"), &between];
        peer.send(sent.map(|part| &part[..]).concat());
        let (what, answer) = (frame(b"what"), frame(b"answer"));
        let expected = [&what, &answer, &between, &between].map(|part| &part[..]);
        let expected = expected.concat();
        assert_eq!(soon(peer.bytes(expected.len())).await, expected, "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn kept_frames_can_be_broadcast_and_outlive_their_session() {
    let members = Group::<Frame>::new();
    let kept: Arc<Mutex<Vec<Frame>>> = Arc::default();
    let handler = service_fn({
        let (members, kept) = (members.clone(), Arc::clone(&kept));
        move |request: Request<Frame>| {
            let frame = request.into_message();
            kept.lock().unwrap().push(frame.clone());
            members.broadcast(frame);
            async { Ok::<Option<Frame>, BoxError>(None) }
        }
    });
    let (transport, sender) = stream();
    let (other_transport, other) = stream();
    // Clones of one codec share encoded messages. These two codecs do not.
    let (session, task) = open(
        transport,
        Frames::default(),
        SessionLayer::new(),
        handler.clone(),
    )
    .await;
    let (other_session, _other_task) = open(
        other_transport,
        Frames::default(),
        SessionLayer::new(),
        handler,
    )
    .await;
    members.join(&session);
    members.join(&other_session);
    let sent: Vec<u8> = (0..50).flat_map(|n| frame(&[n; 30])).collect();
    sender.send(&sent);
    assert!(soon(other.bytes(sent.len())).await == sent);
    assert!(soon(sender.bytes(sent.len())).await == sent);
    sender.finish();
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);

    let kept = std::mem::take(&mut *kept.lock().unwrap());
    let late: Vec<u8> = kept.iter().flat_map(|each| frame(each)).collect();
    assert_eq!(late, sent);
    for frame in kept {
        soon(other_session.feed(frame)).await.unwrap();
    }
    assert!(soon(other.bytes(sent.len())).await == sent);
}
