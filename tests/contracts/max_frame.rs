//! The maximum frame of an open session.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::BytesMut;
use getty::{
    CloseReason, Closed, CodecLayer, Connection, ConnectionHandle, Pipeline, Request,
    ServiceBuilder, SessionLayer, Transport,
    codec::{Bytes, Decoder, FrameLimit, Frames, LengthDelimited, Lines, Text},
    transport::Framing,
};
use getty_test::{messages, stream};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::codec::LinesCodec;
use tower::ServiceExt;

use crate::support::{Answer, connector, idle, soon};

/// Replies with the length of the message. `max N` sets the maximum and replies with the
/// result.
async fn handle(request: Request<String>) -> Answer {
    Ok(Some(match request.message().strip_prefix("max ") {
        Some(max) => request.session().set_max_frame(max.parse()?).to_string(),
        None => request.message().len().to_string(),
    }))
}

/// Lines of at most 10 bytes.
fn short_lines<T: Transport + Send + 'static>() -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new().with_max_length(10)).with_settable_max_frame())
        .layer(SessionLayer::new())
        .service_fn(handle)
}

fn run<T, S>(transport: T, stack: S) -> (ConnectionHandle, JoinHandle<Closed>)
where
    T: Send + 'static,
    S: Pipeline<T>,
{
    let connection = Connection::new(transport);
    let handle = connection.handle().clone();
    let call = async move { stack.oneshot(connection).await.map_err(Into::into).unwrap() };
    (handle, tokio::spawn(call))
}

async fn reason(task: JoinHandle<Closed>) -> CloseReason {
    soon(task).await.unwrap().reason
}

#[tokio::test(start_paused = true)]
async fn message_behind_the_one_that_raises_the_maximum_may_be_longer() {
    let (transport, peer) = stream();
    let (_handle, task) = run(transport, short_lines());
    // in one segment: the client does not wait for the reply
    peer.send(format!("max 100\n{}\n", "x".repeat(100)));
    assert_eq!(soon(peer.lines(2)).await, ["true", "100"]);
    peer.send(format!("{}\n", "x".repeat(101)));
    assert_eq!(reason(task).await, CloseReason::Decode);
}

#[tokio::test(start_paused = true)]
async fn message_behind_the_one_that_lowers_the_maximum_must_be_short() {
    let (transport, peer) = stream();
    let (_handle, task) = run(transport, short_lines());
    peer.send("max 7\n1234567\n12345678\n");
    assert_eq!(soon(peer.lines(2)).await, ["true", "7"]);
    assert_eq!(reason(task).await, CloseReason::Decode);
}

#[tokio::test(start_paused = true)]
async fn lower_maximum_holds_for_frames_that_have_not_begun() {
    for whole in [false, true] {
        let (transport, peer) = stream();
        let (handle, task) = run(transport, short_lines());
        peer.send("12345");
        idle().await;
        assert!(handle.set_max_frame(6));
        if !whole {
            idle().await; // the session applies it while the frame is incomplete
        }
        peer.send("6789\n");
        assert_eq!(soon(peer.line()).await, "9");
        peer.send("123456\n");
        assert_eq!(soon(peer.line()).await, "6");
        peer.send("1234567\n");
        assert_eq!(reason(task).await, CloseReason::Decode);
    }
}

#[tokio::test(start_paused = true)]
async fn last_maximum_that_was_set_during_a_frame_wins() {
    let (transport, peer) = stream();
    let (handle, _task) = run(transport, short_lines());
    peer.send("12345");
    idle().await;
    for max in [2, 1_000, 50] {
        assert!(handle.set_max_frame(max));
        idle().await;
    }
    peer.send(format!("678\n{}\n", "x".repeat(50)));
    assert_eq!(soon(peer.lines(2)).await, ["8", "50"]);
    peer.send(format!("{}\n", "x".repeat(51)));
    soon(handle.closed()).await;
}

#[tokio::test(start_paused = true)]
async fn maximum_of_a_message_transport_changes_between_messages() {
    let (transport, peer) = messages(Framing::Messages);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Text::new().with_max_length(10)).with_settable_max_frame())
        .layer(SessionLayer::new())
        .service_fn(handle);
    let (handle, task) = run(transport, stack);
    for message in ["max 20", "", &"x".repeat(20)] {
        peer.send(message);
    }
    for reply in ["true", "0", "20"] {
        assert_eq!(soon(peer.text()).await, reply);
    }
    assert!(handle.set_max_frame(3));
    idle().await;
    peer.send("xxx");
    assert_eq!(soon(peer.text()).await, "3");
    peer.send("xxxx");
    assert_eq!(reason(task).await, CloseReason::Decode);
}

#[tokio::test(start_paused = true)]
async fn client_sets_the_maximum_of_its_session() {
    let (transport, peer) = stream();
    let (session, task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new().with_max_length(10)).with_settable_max_frame())
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(handle)
    })
    .await
    .unwrap();
    assert!(session.set_max_frame(30));
    peer.send(format!("{}\n", "x".repeat(30)));
    assert_eq!(soon(peer.line()).await, "30");
    session.close();
    soon(task).await.unwrap();
    assert!(!session.set_max_frame(40));
}

#[tokio::test(start_paused = true)]
async fn codec_of_another_crate_is_set_by_a_function() {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(
            CodecLayer::new(LinesCodec::new_with_max_length(10)).with_frame_limit(
                // The codec has no setter, so it is replaced.
                |codec: &mut LinesCodec, max| *codec = LinesCodec::new_with_max_length(max),
            ),
        )
        .layer(SessionLayer::new())
        .service_fn(handle);
    let (handle, _task) = run(transport, stack);
    // longer than the bound on undecoded bytes, which the codec does not reserve
    let long = "x".repeat(200_000);
    peer.send("max 200000\n");
    assert_eq!(soon(peer.line()).await, "true");
    peer.send_in_pieces(format!("{long}\n"), 10_000);
    assert_eq!(soon(peer.line()).await, "200000");
    peer.send("max 10\n");
    assert_eq!(soon(peer.line()).await, "true");
    peer.send("0123456789x\n");
    soon(handle.closed()).await;
}

/// As when another thread sets it in that moment.
#[tokio::test(start_paused = true)]
async fn maximum_that_is_set_while_the_codec_takes_another_is_not_lost() {
    let (transport, peer) = stream();
    let handle_of_setter: Arc<OnceLock<ConnectionHandle>> = Arc::default();
    let setter = Arc::clone(&handle_of_setter);
    let stack = ServiceBuilder::new()
        .layer(
            CodecLayer::new(LinesCodec::new_with_max_length(10)).with_frame_limit(
                move |codec: &mut LinesCodec, max| {
                    *codec = LinesCodec::new_with_max_length(max);
                    if max < 200_000 {
                        assert!(setter.get().unwrap().set_max_frame(200_000));
                    }
                },
            ),
        )
        .layer(SessionLayer::new())
        .service_fn(handle);
    let (handle, _task) = run(transport, stack);
    handle_of_setter.set(handle.clone()).unwrap();
    idle().await;
    assert!(handle.set_max_frame(100));
    idle().await;
    peer.send_in_pieces(format!("{}\n", "x".repeat(200_000)), 10_000);
    assert_eq!(soon(peer.line()).await, "200000");
}

/// The session reads ahead up to 64 KiB, or one frame of the maximum if that is more.
#[tokio::test(start_paused = true)]
async fn read_ahead_bound_follows_the_maximum() {
    const KIB: usize = 1024;
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new()).with_settable_max_frame())
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<String>| {
            if request.message() == "wait" {
                std::future::pending::<()>().await;
            }
            handle(request).await
        });
    let (handle, _task) = run(transport, stack);
    peer.send("wait\n");
    peer.send_endlessly("0123456\n".repeat(512));
    idle().await;
    let read = || usize::try_from(handle.stats().bytes_in).unwrap();
    let before = read();
    assert!((64 * KIB..=72 * KIB).contains(&before), "{before}");
    assert!(handle.set_max_frame(512 * KIB));
    idle().await;
    let after = read();
    assert!((512 * KIB..=520 * KIB).contains(&after), "{after}");
    // A lower bound reads no more, and what was read stays.
    assert!(handle.set_max_frame(16));
    idle().await;
    assert_eq!(read(), after);
    assert_eq!(handle.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn codec_without_the_setting_keeps_its_maximum() {
    let (transport, peer) = stream();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new().with_max_length(10)))
        .layer(SessionLayer::new())
        .service_fn(handle);
    let (_handle, task) = run(transport, stack);
    peer.send("max 100\n");
    assert_eq!(soon(peer.line()).await, "false");
    peer.send("0123456789x\n");
    assert_eq!(reason(task).await, CloseReason::Decode);
}

#[test]
fn every_codec_of_frames_has_a_maximum_that_can_be_set() {
    fn check<C: Decoder<Error: std::fmt::Debug> + FrameLimit>(mut codec: C, frame: &[u8]) {
        let mut buffer = BytesMut::from(frame);
        codec.set_max_frame(4);
        assert!(codec.decode(&mut buffer.clone()).is_err());
        codec.set_max_frame(5);
        assert!(codec.decode(&mut buffer).unwrap().is_some());
        codec.set_max_frame(usize::MAX);
        codec.set_max_frame(0);
    }
    check(Lines::new(), b"hello\n");
    check(LengthDelimited::new(), b"\0\0\0\x05hello");
    check(Frames::new(), b"\0\0\0\x05hello");
    check(getty::codec::VarintDelimited::new(), b"\x05hello");
    let mut raw = getty::codec::Raw::new();
    raw.set_max_frame(0);
    assert_eq!(raw.max_length(), 1);
    raw.set_max_frame(2);
    let part: Bytes = raw.decode(&mut BytesMut::from("abc")).unwrap().unwrap();
    assert_eq!(part, "ab");
}

/// The session sleeps, or decodes, in another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maximum_of_another_thread_holds_for_what_the_peer_sends_later() {
    for _ in 0..200 {
        let (transport, peer) = stream();
        let (handle, task) = run(transport, short_lines());
        assert!(handle.opened().await);
        let setter = std::thread::spawn(move || {
            assert!(handle.set_max_frame(20));
            assert!(handle.set_max_frame(100));
        });
        for _ in 0..20 {
            peer.send("short\n");
        }
        setter.join().unwrap();
        // The setting happened before this message.
        let long = "x".repeat(100);
        peer.send(format!("{long}\n"));
        let lines = timeout(Duration::from_secs(60), peer.lines(21)).await;
        assert_eq!(lines.unwrap().last().unwrap(), "100");
        peer.send(format!("{long}x\n"));
        let closed = timeout(Duration::from_secs(60), task).await.unwrap();
        assert_eq!(closed.unwrap().reason, CloseReason::Decode);
    }
}
