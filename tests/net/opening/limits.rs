//! Limits of a dialogue in time and size. It must also end at a close or a failed peer.

use std::{io, time::Duration};

use getty::{
    BoxError, CloseReason, Connection, Layer, Pipeline,
    codec::{LengthDelimited, Lines, LinesError},
    net::TcpListener,
    transport::{ByteStream, Prefixed},
    upgrade::{Opening, OpeningConnectLayer, OpeningError, OpeningLayer},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::mpsc, time::Instant};
use tower::ServiceExt;

use super::{Server, ask, lines, rest};

const SECOND: Duration = Duration::from_secs(1);

/// Waits for one line before a session of lines.
async fn one_line<T: ByteStream>(
    mut dialogue: Opening<T, Lines>,
) -> Result<Connection<Prefixed<T>>, BoxError> {
    dialogue.receive().await?.ok_or("no line")?;
    Ok(dialogue.carry()?)
}

fn app<T: ByteStream>() -> impl Pipeline<T> + Clone {
    OpeningLayer::new(Lines::new(), one_line).layer(lines())
}

#[tokio::test(start_paused = true)]
async fn single_bytes_do_not_extend_the_deadline() {
    let opening = OpeningLayer::new(Lines::new(), one_line);
    for (opening, limit) in [
        (opening.clone(), 10 * SECOND),
        (opening.with_handshake_timeout(3 * SECOND), 3 * SECOND),
    ] {
        let mut server = Server::new(opening.layer(lines()));
        let started = Instant::now();
        let mut peer = server.dial().await;
        let slowly = tokio::spawn(async move {
            while peer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SECOND / 2).await;
            }
        });
        let (closed, error) = server.refusal().await;
        assert_eq!(started.elapsed(), limit);
        assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
        assert!(matches!(error, OpeningError::TimedOut(time) if time == limit));
        slowly.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_reads_nothing_does_not_extend_the_deadline() {
    let opening = OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
        loop {
            dialogue.send("a greeting without an end").await?;
            if dialogue.handle().is_closed() {
                return Ok(dialogue.carry()?);
            }
        }
    });
    let mut server = Server::new(opening.layer(lines()));
    let _peer = server.dial().await;
    assert_eq!(server.end().await.reason, CloseReason::HandshakeTimeout);
}

#[tokio::test(start_paused = true)]
async fn client_gives_up_a_server_that_does_not_answer() {
    let server = Server::new(app());
    let (opened, mut handles) = mpsc::unbounded_channel();
    let client = OpeningConnectLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        opened.send(dialogue.handle().clone()).unwrap();
        async move {
            dialogue.receive().await?;
            Ok(dialogue.carry()?)
        }
    });
    let client = client.with_handshake_timeout(2 * SECOND);
    let started = Instant::now();
    let connected = client.layer(server.connector.clone()).oneshot(()).await;
    let error = connected.unwrap_err();
    assert_eq!(started.elapsed(), 2 * SECOND);
    let error: &OpeningError = error.downcast_ref().unwrap();
    assert!(matches!(error, OpeningError::TimedOut(time) if *time == 2 * SECOND));
    let closed = handles.recv().await.unwrap().closed().await;
    assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
    assert!(closed.source.unwrap().is::<OpeningError>());
}

#[tokio::test(start_paused = true)]
async fn stalled_dialogue_does_not_delay_others() {
    let server = Server::new(app());
    let started = Instant::now();
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(server.dial().await);
    }
    let mut peer = server.dial().await;
    assert_eq!(&ask(&mut peer, b"login\nhi\n").await, b"HI\n");
    assert!(started.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_dialogue_at_once() {
    let (opened, mut handles) = mpsc::unbounded_channel();
    let opening = OpeningLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        opened.send(dialogue.handle().clone()).unwrap();
        async move {
            dialogue.receive().await?;
            Ok(dialogue.carry()?)
        }
    });
    let mut server = Server::new(opening.layer(lines()));
    let started = Instant::now();
    let mut peer = server.dial().await;
    handles.recv().await.unwrap().close();
    assert_eq!(server.end().await.reason, CloseReason::Local);
    assert_eq!(rest(&mut peer).await, "");
    assert!(started.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn message_over_the_bound_is_refused() {
    // A codec without a bound of its size.
    let codec = || LengthDelimited::new().max_frame_length(1 << 20);
    let opening = OpeningLayer::new(
        codec(),
        |mut dialogue: Opening<_, LengthDelimited>| async move {
            dialogue.receive().await?.ok_or("no frame")?;
            dialogue.write_all(b"ok\n").await?;
            Ok(dialogue.carry()?)
        },
    );
    let sent = |length: usize| {
        let header = u32::try_from(length).unwrap().to_be_bytes();
        [&header[..], &vec![0; length]].concat()
    };
    for (opening, max) in [
        (opening.clone(), 64 * 1024),
        (opening.with_max_frame(100), 100),
    ] {
        let mut server = Server::new(opening.layer(lines()));
        let mut peer = server.dial().await;
        assert_eq!(&ask(&mut peer, &sent(max - 4)).await, b"ok\n");

        let mut peer = server.dial().await;
        peer.write_all(&sent(max - 3)).await.unwrap();
        let (closed, error) = server.refusal().await;
        assert_eq!(closed.reason, CloseReason::Refused);
        assert!(
            matches!(error, OpeningError::FrameTooLong(n) if n == max),
            "{error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn message_that_cannot_be_decoded_refuses_with_the_error_of_the_codec() {
    let mut server = Server::new(app());
    let mut peer = server.dial().await;
    peer.write_all(b"\xff\n").await.unwrap();
    let (closed, error) = server.refusal().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    assert!(matches!(error, OpeningError::Decode(source) if source.is::<LinesError>()));
}

#[tokio::test(start_paused = true)]
async fn message_that_cannot_be_encoded_is_not_sent_and_another_may_be() {
    let opening = OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
        let error = dialogue.send("two\nlines").await.unwrap_err();
        assert!(matches!(&error, OpeningError::Encode(source) if source.is::<LinesError>()));
        dialogue.send("one line").await?;
        Err(error.into())
    });
    let mut server = Server::new(opening.layer(lines::<tokio::io::DuplexStream>()));
    let mut peer = server.dial().await;
    assert_eq!(rest(&mut peer).await, "one line\n");
    assert_eq!(server.end().await.reason, CloseReason::Refused);
}

#[tokio::test]
async fn reset_by_the_peer_refuses_with_the_error_of_the_transport() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (end, mut ends) = mpsc::unbounded_channel();
    let stack = getty::ServiceBuilder::new()
        .layer(getty::layers::CloseCallbackLayer::new(
            "test",
            1,
            move |closed| {
                let _ = end.send(closed.clone());
            },
        ))
        .service(app());
    tokio::spawn(async move { getty::serve(listener, stack).await });
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(b"a part of a line").await.unwrap();
    let socket = socket2::SockRef::from(&peer);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let closed = ends.recv().await.unwrap();
    assert_eq!(closed.reason, CloseReason::Refused);
    let source = closed.source.unwrap();
    let Some(OpeningError::Io(error)) = source.downcast_ref() else {
        panic!("{source:?}");
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_is_dropped_closes_its_connection() {
    let mut server = Server::new(app());
    let (opened, mut handles) = mpsc::unbounded_channel();
    let client = OpeningConnectLayer::new(Lines::new(), move |dialogue: Opening<_, Lines>| {
        opened.send(dialogue.handle().clone()).unwrap();
        one_line(dialogue)
    });
    let attempt = client.layer(server.connector.clone()).oneshot(());
    assert!(tokio::time::timeout(SECOND, attempt).await.is_err());
    let closed = handles.recv().await.unwrap().closed().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    assert_eq!(server.end().await.source.unwrap().to_string(), "no line");
}
