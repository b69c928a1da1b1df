//! Messages of a dialogue and the session that follows.

use std::{fmt, io, time::Duration};

use futures_util::FutureExt;
use getty::{
    BoxError, BoxTransport, CloseReason, Connection, Layer, Panic, Pipeline, ServiceBuilder,
    codec::{BytesMut, Decoder, Encoder, Frames, LengthDelimited, Lines, Raw},
    net::{TcpConnector, TcpListener},
    transport::{ByteStream, Prefixed},
    upgrade::{Opening, OpeningConnectLayer, OpeningError, OpeningLayer},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::ServiceExt;

use super::{Server, User, ask, frames, lines, open_lines, rest};

#[derive(Debug, PartialEq)]
struct UnknownUser(String);

impl fmt::Display for UnknownUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown user {}", self.0)
    }
}

impl std::error::Error for UnknownUser {}

/// Runs a login in lines before a session of binary frames.
fn login<T: ByteStream>() -> impl Pipeline<T> + Clone {
    ServiceBuilder::new()
        .layer(OpeningLayer::new(
            Lines::new(),
            |mut dialogue: Opening<_, Lines>| async move {
                dialogue.send("name?").await?;
                let name = dialogue.receive().await?.ok_or("no login")?;
                if name == "mallory" {
                    return Err(dialogue.refuse("ERR", UnknownUser(name)).await);
                }
                dialogue.handle().insert(User(name));
                dialogue.send("OK").await?;
                Ok(dialogue.carry()?)
            },
        ))
        .service(frames())
}

#[tokio::test(start_paused = true)]
async fn login_in_lines_is_followed_by_binary_frames() {
    let server = Server::new(login());
    let mut peer = server.dial().await;
    assert_eq!(&ask::<9>(&mut peer, b"ada\n").await, b"name?\nOK\n");
    assert_eq!(
        &ask::<9>(&mut peer, b"\0\0\0\x02hi").await,
        b"\0\0\0\x05adahi"
    );
}

#[tokio::test(start_paused = true)]
async fn function_needs_no_annotation_of_its_argument() {
    let stack = OpeningLayer::new(Lines::new(), |mut dialogue| async move {
        dialogue.receive().await?.ok_or("no login")?;
        Ok(dialogue.carry()?)
    })
    .layer(lines());
    let server = Server::new(stack);
    let mut peer = server.dial().await;
    assert_eq!(&ask::<3>(&mut peer, b"login\nhi\n").await, b"HI\n");
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_the_dialogue_reach_the_session() {
    let server = Server::new(login());
    let mut peer = server.dial().await;
    let whole = ask::<18>(&mut peer, b"ada\n\0\0\0\x02hi").await;
    assert_eq!(&whole, b"name?\nOK\n\0\0\0\x05adahi");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_a_codec_has_taken_ahead_reach_the_session() {
    let opening = OpeningLayer::new(Frames::default(), |mut dialogue| async move {
        let login = dialogue.receive().await?.ok_or("no login")?;
        dialogue
            .handle()
            .insert(User(String::from_utf8(login.to_vec())?));
        Ok(dialogue.carry()?)
    });
    let server = Server::new(opening.layer(frames()));
    let mut peer = server.dial().await;
    let answer = ask(&mut peer, b"\0\0\0\x03ada\0\0\0\x02hi\0\0\0").await;
    assert_eq!(&answer, b"\0\0\0\x05adahi");
    assert_eq!(&ask(&mut peer, b"\x01!").await, b"\0\0\0\x04ada!");
}

#[tokio::test(start_paused = true)]
async fn bytes_read_ahead_are_refused_at_an_exact_end() {
    fn app<C>(codec: C) -> impl Pipeline<DuplexStream> + Clone
    where
        C: Decoder<Error: Into<BoxError>, Item: Send> + Clone + Send + Sync + 'static,
    {
        OpeningLayer::new(codec, |mut dialogue| async move {
            dialogue.receive().await?.ok_or("no login")?;
            Ok(dialogue.into_connection()?)
        })
        .layer(frames())
    }

    let mut server = Server::new(app(Lines::new()));
    let mut peer = server.dial().await;
    peer.write_all(b"login\nBYE").await.unwrap();
    let (closed, error) = server.refusal().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    assert!(matches!(error, OpeningError::ReadAhead(3)), "{error:?}");
    assert_eq!(rest(&mut peer).await, "");

    // `Frames` holds messages that are no longer in the buffer.
    let mut server = Server::new(app(Frames::default()));
    for (behind, bytes) in [(&b"\0\0\0\x01b"[..], 5), (b"\0", 1)] {
        let mut peer = server.dial().await;
        let sent = [b"\0\0\0\x01a", behind].concat();
        peer.write_all(&sent).await.unwrap();
        let (_, error) = server.refusal().await;
        assert!(
            matches!(error, OpeningError::ReadAhead(n) if n == bytes),
            "{error:?}"
        );
    }
    let mut peer = server.dial().await;
    peer.write_all(b"\0\0\0\x01a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(&ask(&mut peer, b"\0\0\0\x01b").await, b"\0\0\0\x01b");
}

#[tokio::test(start_paused = true)]
async fn client_logs_in_before_its_session() {
    let server = Server::new(
        OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
            let name = dialogue.receive().await?.ok_or("no login")?;
            if name != "ada" {
                return Err(dialogue.refuse("ERR", UnknownUser(name)).await);
            }
            // The server's first message of the session is in the same segment.
            dialogue.send("OK\nwelcome").await.unwrap_err();
            dialogue.write_all(b"OK\nwelcome\n").await?;
            Ok(dialogue.into_connection()?)
        })
        .layer(lines()),
    );
    let client = |name: &'static str| {
        OpeningConnectLayer::new(
            Lines::new(),
            move |mut dialogue: Opening<_, Lines>| async move {
                dialogue.send(name).await?;
                match dialogue.receive().await?.as_deref() {
                    Some("OK") => Ok(dialogue.carry()?),
                    _ => Err(UnknownUser(name.to_owned()).into()),
                }
            },
        )
        .layer(server.connector.clone())
    };
    let (session, _task, mut received) = open_lines(client("ada")).await.unwrap();
    assert_eq!(received.recv().await.unwrap(), "welcome");
    session.send("hi".to_owned()).await.unwrap();
    assert_eq!(received.recv().await.unwrap(), "HI");

    let error = client("mallory").oneshot(()).await.unwrap_err();
    let unknown = UnknownUser("mallory".to_owned());
    assert_eq!(error.downcast_ref(), Some(&unknown));
}

/// Head of a request as in HTTP: its lines up to an empty one.
#[derive(Clone)]
struct Heads;

impl Decoder for Heads {
    type Item = Vec<String>;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> io::Result<Option<Vec<String>>> {
        let Some(end) = src.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = src.split_to(end + 4);
        let head = std::str::from_utf8(&head).map_err(io::Error::other)?;
        Ok(Some(
            head.split_terminator("\r\n").map(str::to_owned).collect(),
        ))
    }
}

impl Encoder<&str> for Heads {
    type Error = io::Error;

    fn encode(&mut self, status: &str, dst: &mut BytesMut) -> io::Result<()> {
        dst.extend_from_slice(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_followed_by_frames() {
    let opening = OpeningLayer::new(Heads, |mut dialogue: Opening<_, Heads>| async move {
        let head = dialogue.receive().await?.ok_or("no head")?;
        if !head.contains(&"Upgrade: frames".to_owned()) {
            return Err(dialogue.refuse("426 Upgrade Required", "no upgrade").await);
        }
        dialogue.send("101 Switching Protocols").await?;
        Ok(dialogue.carry()?)
    });
    let mut server = Server::new(opening.layer(frames()));
    let mut peer = server.dial().await;
    let request = b"GET / HTTP/1.1\r\nUpgrade: frames\r\n\r\n\0\0\0\x02hi";
    let answer = ask::<42>(&mut peer, request).await;
    assert_eq!(
        &answer[..],
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n\0\0\0\x02hi"
    );

    let mut peer = server.dial().await;
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(
        rest(&mut peer).await,
        "HTTP/1.1 426 Upgrade Required\r\n\r\n"
    );
    drop(peer);
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    assert_eq!(closed.source.unwrap().to_string(), "no upgrade");
}

#[tokio::test(start_paused = true)]
async fn refusal_sends_a_last_message_and_closes_with_its_cause() {
    let mut server = Server::new(login());
    let mut peer = server.dial().await;
    peer.write_all(b"mallory\nand more").await.unwrap();
    assert_eq!(rest(&mut peer).await, "name?\nERR\n");
    drop(peer);
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    let unknown = UnknownUser("mallory".to_owned());
    assert_eq!(closed.source.unwrap().downcast_ref(), Some(&unknown));
}

#[tokio::test(start_paused = true)]
async fn refused_peer_that_does_not_close_is_closed_after_a_second() {
    let mut server = Server::new(login());
    let mut peer = server.dial().await;
    let started = tokio::time::Instant::now();
    peer.write_all(b"mallory\n").await.unwrap();
    assert_eq!(server.end().await.reason, CloseReason::Refused);
    assert_eq!(started.elapsed(), Duration::from_secs(1));
}

#[tokio::test]
async fn last_message_of_a_refusal_arrives_over_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { getty::serve(listener, login()).await });
    let mut peer = TcpConnector::new()
        .oneshot(address)
        .await
        .unwrap()
        .into_parts()
        .0;
    // A close with these bytes unread would reset the connection.
    peer.write_all(b"mallory\nand more").await.unwrap();
    assert_eq!(rest(&mut peer).await, "name?\nERR\n");
}

#[tokio::test(start_paused = true)]
async fn peer_that_ends_its_direction_is_received_as_none() {
    let mut server = Server::new(login());
    let mut peer = server.dial().await;
    peer.shutdown().await.unwrap();
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Refused);
    assert_eq!(closed.source.unwrap().to_string(), "no login");

    // The last line may lack its line end as in a session.
    let mut peer = server.dial().await;
    peer.write_all(b"ada").await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(rest(&mut peer).await, "name?\nOK\n");
}

#[tokio::test(start_paused = true)]
async fn bytes_are_received_and_sent_without_the_codec() {
    let opening = OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
        let mut version = [0; 2];
        dialogue.read_exact(&mut version).await?;
        dialogue.write_all(&[version[1]]).await?;
        let line = dialogue.receive().await?.ok_or("no line")?;
        let mut rest = [0; 4];
        dialogue.read_exact(&mut rest).await?;
        dialogue
            .write_all(&[line.as_bytes(), &rest].concat())
            .await?;
        Ok(dialogue.carry()?)
    });
    let mut server = Server::new(opening.layer(lines()));
    let mut peer = server.dial().await;
    assert_eq!(&ask(&mut peer, &[5, 1]).await, &[1]);
    assert_eq!(
        &ask(&mut peer, b"hello\n\0\0\0\0hi\n").await,
        b"hello\0\0\0\0HI\n"
    );

    let mut peer = server.dial().await;
    peer.write_all(&[5]).await.unwrap();
    peer.shutdown().await.unwrap();
    let (_, error) = server.refusal().await;
    assert!(matches!(error, OpeningError::PeerClosed));
}

#[tokio::test(start_paused = true)]
async fn receive_that_is_dropped_loses_nothing() {
    let opening = OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
        let line = loop {
            let wait = tokio::time::timeout(Duration::from_millis(1), dialogue.receive());
            match wait.await {
                Ok(line) => break line?.ok_or("no line")?,
                Err(_) => dialogue.send("?").await?,
            }
        };
        dialogue.send(line).await?;
        Ok(dialogue.carry()?)
    });
    let server = Server::new(opening.layer(lines()));
    let mut peer = server.dial().await;
    for byte in b"hello" {
        assert_eq!(&ask(&mut peer, &[*byte]).await, b"?\n");
    }
    peer.write_all(b"\n").await.unwrap();
    let mut answer = [0; 6];
    peer.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello\n");
}

#[tokio::test(start_paused = true)]
async fn send_that_is_dropped_continues_with_the_next_or_is_an_error() {
    const LONG: usize = 256 * 1024;
    let opening = OpeningLayer::new(Raw::new(), |mut dialogue: Opening<_, Raw>| async move {
        // It exceeds the buffer of the connection.
        let long = vec![b'x'; LONG];
        assert!(dialogue.write_all(&long).now_or_never().is_none());
        let request = dialogue.receive().await?.ok_or("no request")?;
        if request == "more" {
            dialogue.write_all(b"!").await?;
        }
        Ok(dialogue.carry()?)
    });
    let mut server = Server::new(opening.layer(lines()));
    let mut peer = server.dial().await;
    peer.write_all(b"more").await.unwrap();
    let mut received = vec![0; LONG + 1];
    peer.read_exact(&mut received).await.unwrap();
    assert!(received[..LONG].iter().all(|byte| *byte == b'x'));
    assert_eq!(received[LONG], b'!');

    let mut peer = server.dial().await;
    peer.write_all(b"end").await.unwrap();
    let (_, error) = server.refusal().await;
    assert!(
        matches!(error, OpeningError::Unsent(n) if n > 0 && n < LONG),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn codec_of_a_dialogue_can_be_replaced() {
    let opening = OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
        dialogue.receive().await?.ok_or("no line")?;
        let mut dialogue = dialogue.map_codec(|_| LengthDelimited::new())?;
        let frame = dialogue.receive().await?.ok_or("no frame")?;
        dialogue.send(frame).await?;
        Ok(dialogue.carry()?)
    });
    let server = Server::new(opening.layer(lines()));
    let mut peer = server.dial().await;
    let answer = ask(&mut peer, b"line\n\0\0\0\x01ahi\n").await;
    assert_eq!(&answer, b"\0\0\0\x01aHI\n");
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_function_closes_its_connection_only() {
    let opening = OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| {
        assert!(dialogue.handle().get::<()>().is_none(), "this never fails");
        async move {
            let line = dialogue.receive().await?;
            assert_ne!(line.as_deref(), Some("bomb"), "the message of a panic");
            Ok(dialogue.carry()?)
        }
    });
    let mut server = Server::new(opening.layer(lines()));
    let mut other = server.dial().await;
    let mut peer = server.dial().await;
    peer.write_all(b"bomb\n").await.unwrap();
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Panicked);
    let source = closed.source.unwrap();
    let panic: &Panic = source.downcast_ref().unwrap();
    assert!(panic.to_string().contains("the message of a panic"));
    assert_eq!(rest(&mut peer).await, "");
    assert_eq!(&ask(&mut other, b"login\nhi\n").await, b"HI\n");

    // The function itself may panic in either role.
    let opening = OpeningLayer::new(Lines::new(), |dialogue: Opening<_, Lines>| {
        assert!(
            !dialogue.handle().is_closing() && dialogue.read_ahead() == b"bomb",
            "a panic"
        );
        async move { Ok(dialogue.carry()?) }
    });
    let mut server = Server::new(opening.layer(lines()));
    let _peer = server.dial().await;
    assert_eq!(server.end().await.reason, CloseReason::Panicked);
    let client = OpeningConnectLayer::new(Lines::new(), |dialogue: Opening<_, Lines>| {
        assert_eq!(dialogue.read_ahead(), b"bomb", "a panic");
        async move { Ok(dialogue.carry()?) }
    });
    let client = client.layer(server.connector.clone());
    let error = client.oneshot(()).await.unwrap_err();
    assert!(error.is::<Panic>());
}

#[tokio::test(start_paused = true)]
async fn statistics_do_not_count_the_dialogue() {
    let mut server = Server::new(login());
    let mut peer = server.dial().await;
    ask::<9>(&mut peer, b"ada\n").await;
    ask::<9>(&mut peer, b"\0\0\0\x02hi").await;
    drop(peer);
    let stats = server.end().await.stats;
    assert_eq!((stats.bytes_in, stats.bytes_out), (6, 9));
    assert_eq!((stats.messages_in, stats.messages_out), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn dialogue_runs_over_any_byte_stream() {
    async fn pass<T: ByteStream>(
        mut dialogue: Opening<T, Lines>,
    ) -> Result<Connection<Prefixed<T>>, BoxError> {
        dialogue.receive().await?.ok_or("no line")?;
        Ok(dialogue.carry()?)
    }

    // over the bytes that an earlier dialogue has carried on
    let inner = OpeningLayer::new(Lines::new(), pass).layer(lines());
    let twice = OpeningLayer::new(Lines::new(), pass).layer(inner);
    let server = Server::new(twice);
    let mut peer = server.dial().await;
    assert_eq!(&ask(&mut peer, b"one\ntwo\nthree\n").await, b"THREE\n");

    // over a box for listeners of several kinds
    let boxed = ServiceBuilder::new()
        .map_request(|connection: Connection<DuplexStream>| {
            connection.map_transport(|io| Box::new(io) as Box<dyn ByteStream>)
        })
        .layer(OpeningLayer::new(Lines::new(), pass))
        .service(lines());
    let server = Server::new(boxed);
    let mut peer = server.dial().await;
    assert_eq!(&ask(&mut peer, b"one\ntwo\n").await, b"TWO\n");
}

#[tokio::test(start_paused = true)]
async fn branches_of_a_function_end_with_one_boxed_transport() {
    let opening = OpeningLayer::new(Lines::new(), |mut dialogue: Opening<_, Lines>| async move {
        let connection = match dialogue.receive().await?.as_deref() {
            Some("exact") => dialogue.into_connection()?.map_transport(BoxTransport::new),
            _ => dialogue.carry()?.map_transport(BoxTransport::new),
        };
        Ok(connection)
    });
    let server = Server::new(opening.layer(lines()));
    let mut peer = server.dial().await;
    assert_eq!(&ask(&mut peer, b"carry\nhi\n").await, b"HI\n");
}

#[tokio::test(start_paused = true)]
async fn debug_output_does_not_contain_received_bytes() {
    let (shown, mut texts) = tokio::sync::mpsc::unbounded_channel();
    let opening = OpeningLayer::new(Lines::new(), move |mut dialogue: Opening<_, Lines>| {
        let shown = shown.clone();
        async move {
            dialogue.receive().await?;
            shown.send(format!("{dialogue:?}"))?;
            Ok(dialogue.carry()?)
        }
    });
    let server = Server::new(opening.layer(lines()));
    server
        .dial()
        .await
        .write_all(b"login\npassword")
        .await
        .unwrap();
    let text = texts.recv().await.unwrap();
    assert!(
        text.contains("read_ahead_len: 8") && !text.contains("password"),
        "{text}"
    );
}
