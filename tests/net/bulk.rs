//! Large amounts of data over real sockets. Frames are views of the read buffer.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, Request, ServiceBuilder, Session, SessionLayer,
    codec::{Frame, Frames, LengthDelimitedError},
    layers::OnOpenLayer,
    net::{TcpListener, UdpListener},
    transport::Transport,
    ws::WsLayer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::{TcpStream, UdpSocket},
    sync::{Notify, mpsc, oneshot},
    task::yield_now,
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use crate::kinds::{App, Io, KINDS, Server, soon};

/// Maximum length of a frame.
const MAX_LEN: usize = 200_000;
/// Length of a frame whose handler waits for a signal.
const HELD: usize = 3;

/// An echo that may keep, delay or move frames.
#[derive(Clone)]
struct Echo {
    max_len: usize,
    max_frame: usize,
    release: Arc<Notify>,
    /// Kept frames: about one in 30.
    kept: Arc<Mutex<Vec<Frame>>>,
    /// Number of calls of the handler.
    called: Arc<AtomicU64>,
    opened: mpsc::UnboundedSender<Session<Frame>>,
}

impl Echo {
    fn new() -> (Self, mpsc::UnboundedReceiver<Session<Frame>>) {
        let (opened, sessions) = mpsc::unbounded_channel();
        let echo = Self {
            max_len: MAX_LEN,
            max_frame: 64 * 1024,
            release: Arc::default(),
            kept: Arc::default(),
            called: Arc::default(),
            opened,
        };
        (echo, sessions)
    }

    async fn answer(self, request: Request<Frame>) -> Result<Frame, BoxError> {
        let frame = request.into_message();
        let called = self.called.fetch_add(1, SeqCst);
        match frame.len() % 11 {
            _ if frame.len() == HELD => self.release.notified().await,
            0 if called.is_multiple_of(3) => self.kept.lock().unwrap().push(frame.clone()),
            1 => yield_now().await,
            2 => return Ok(tokio::spawn(async move { frame }).await?),
            _ => {}
        }
        Ok(frame)
    }

    fn app<T: Transport + Send + 'static>(&self) -> impl Pipeline<T> + Clone + use<T> {
        let (this, opened) = (self.clone(), self.opened.clone());
        let codec = Frames::new().max_frame_length(self.max_len);
        ServiceBuilder::new()
            .layer(CodecLayer::new(codec).with_max_frame(self.max_frame))
            .layer(OnOpenLayer::new(move |session: Session<Frame>| {
                let sent = opened.send(session);
                async move { sent.map_err(|_| BoxError::from("the receiver is gone")) }
            }))
            .layer(SessionLayer::new())
            .service_fn(move |request| this.clone().answer(request))
    }
}

impl App for Echo {
    fn stack<T: Transport + Send + 'static>(&self) -> impl Pipeline<T> + Clone {
        self.app()
    }
}

/// Returns a frame of `size` bytes.
fn frame(size: usize) -> Bytes {
    let mut frame = BytesMut::with_capacity(4 + size);
    frame.put_u32(u32::try_from(size).unwrap());
    frame.put_bytes(u8::try_from(size % 251).unwrap(), size);
    frame.freeze()
}

/// Returns frames of many sizes, including those around the sizes of buffers. Their sum is
/// about 7 MB.
fn many() -> Vec<Bytes> {
    const SIZES: [usize; 18] = [
        0, 1, 100, 1_000, 4_092, 4_096, 8_187, 8_188, 8_189, 20_000, 32_768, 65_531, 65_532,
        65_536, 65_540, 70_000, 100_001, MAX_LEN,
    ];
    let sizes = SIZES.iter().chain(SIZES.iter().rev());
    sizes
        .cycle()
        .take(SIZES.len() * 12)
        .map(|size| frame(*size))
        .collect()
}

/// Returns `frames` frames of 64 KiB. They make a session's buffers large.
fn bulk(frames: usize) -> Vec<u8> {
    frame(64 * 1024 - 4).repeat(frames)
}

/// Sends `sent` and returns the answer.
async fn echoed(io: &mut (impl Io + ?Sized), sent: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = split(io);
    let mut answer = vec![0; sent.len()];
    let write = async {
        write.write_all(sent).await.unwrap();
        write.flush().await.unwrap();
    };
    let read = async {
        read.read_exact(&mut answer).await.unwrap();
    };
    soon(async { tokio::join!(write, read) }).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_all_sizes_are_echoed_whole_even_if_some_are_kept() {
    for kind in KINDS {
        let (echo, mut sessions) = Echo::new();
        let server = Server::new(kind, &echo).await;
        let mut io = server.dial().await;
        let frames = many();
        let sent = frames.concat();
        for _ in 0..2 {
            assert!(echoed(&mut *io, &sent).await == sent, "{kind:?}");
        }
        io.shutdown().await.unwrap();
        let mut rest = Vec::new();
        soon(io.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
        let session = soon(sessions.recv()).await.unwrap();
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::PeerClosed);
        assert_eq!(closed.stats.messages_in, 2 * frames.len() as u64);

        // The kept frames must be unchanged. They can be sent to another session.
        let mut other = server.dial().await;
        let session = soon(sessions.recv()).await.unwrap();
        let kept = std::mem::take(&mut *echo.kept.lock().unwrap());
        assert!(kept.len() > 10);
        let expected: Vec<_> = kept.iter().map(|kept| frame(kept.len())).collect();
        let sends = async {
            for frame in kept {
                session.feed(frame).await.unwrap();
            }
        };
        let mut sent = vec![0; expected.iter().map(Bytes::len).sum()];
        let (_, read) = soon(async { tokio::join!(sends, other.read_exact(&mut sent)) }).await;
        read.unwrap();
        assert!(sent == expected.concat(), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_receives_a_large_answer_whole() {
    for kind in KINDS {
        let (echo, _sessions) = Echo::new();
        let server = Server::new(kind, &echo).await;
        let (mut read, mut write) = split(server.dial().await);
        let sent = many().concat();
        let writes = tokio::spawn({
            let sent = sent.clone();
            async move {
                write.write_all(&sent).await.unwrap();
                write.flush().await.unwrap();
                write
            }
        });
        let mut answer = Vec::new();
        for piece in [1, 500, 5_000, 70_000, 300_000, 7].into_iter().cycle() {
            let left = sent.len() - answer.len();
            if left == 0 {
                break;
            }
            let piece = piece.min(left) as u64;
            soon((&mut read).take(piece).read_to_end(&mut answer))
                .await
                .unwrap();
            for _ in 0..piece % 19 {
                yield_now().await;
            }
        }
        assert!(answer == sent, "{kind:?}");
        soon(writes).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_pauses_within_a_frame_continues_where_it_stopped() {
    for kind in KINDS {
        let (echo, mut sessions) = Echo::new();
        let server = Server::new(kind, &echo).await;
        let mut io = server.dial().await;
        let session = soon(sessions.recv()).await.unwrap();
        let (large, next) = (bulk(60), frame(MAX_LEN));
        for begun in [1, 4, 5, 4_000, 20_000, 33_000, 64_000, 66_000, 150_000] {
            assert!(echoed(&mut *io, &large).await == large, "{kind:?}");
            let before = session.stats().bytes_in;
            io.write_all(&next[..begun]).await.unwrap();
            io.flush().await.unwrap();
            soon(async {
                while session.stats().bytes_in < before + begun as u64 {
                    yield_now().await;
                }
            })
            .await;
            assert!(echoed(&mut *io, &next[begun..]).await.len() == next.len() - begun);
            let mut rest = vec![0; begun];
            soon(io.read_exact(&mut rest)).await.unwrap();
            assert!(rest == next[next.len() - begun..], "{kind:?} {begun}");
        }
        // The session must distinguish a peer that ends within a frame from one that ends after a
        // frame.
        io.write_all(&[&large, &next[..40_000]].concat()[..40_000])
            .await
            .unwrap();
        io.shutdown().await.unwrap();
        soon(io.read_to_end(&mut Vec::new())).await.unwrap();
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode, "{kind:?}");
        let error = closed.source.unwrap();
        let error = error.downcast_ref::<LengthDelimitedError>().unwrap();
        assert!(
            matches!(error, LengthDelimitedError::Truncated { .. }),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frame_that_is_too_long_closes_the_session_after_earlier_ones_are_answered() {
    for kind in KINDS {
        let (echo, mut sessions) = Echo::new();
        let server = Server::new(kind, &echo).await;
        let mut io = server.dial().await;
        let session = soon(sessions.recv()).await.unwrap();
        let large = bulk(20);
        assert!(echoed(&mut *io, &large).await == large);
        let small = frame(100).repeat(50);
        let header = u32::try_from(MAX_LEN + 1).unwrap().to_be_bytes();
        io.write_all(&[&small[..], &header].concat()).await.unwrap();
        io.flush().await.unwrap();
        let mut rest = Vec::new();
        soon(io.read_to_end(&mut rest)).await.unwrap();
        assert!(rest == small, "{kind:?}: {}", rest.len());
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode);
        let error = closed.source.unwrap();
        let error = error.downcast_ref::<LengthDelimitedError>().unwrap();
        assert!(
            matches!(error, LengthDelimitedError::TooLong { .. }),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_during_a_large_transfer_loses_no_answer() {
    for kind in KINDS {
        let (echo, mut sessions) = Echo::new();
        let server = Server::new(kind, &echo).await;
        let (mut read, mut write) = split(server.dial().await);
        let session = soon(sessions.recv()).await.unwrap();
        // More than the buffers between the server and a peer that does not read.
        let sent = bulk(400);
        let writes = tokio::spawn({
            let sent = sent.clone();
            async move {
                let _ = write.write_all(&sent).await;
                write
            }
        });
        let mut answers = vec![0; 3_000_000];
        soon(read.read_exact(&mut answers)).await.unwrap();
        // Wait until nothing moves for many polls. Then the answers wait for this peer, and unread
        // data fills the server's socket.
        soon(async {
            let (mut last, mut same) = (0, 0);
            while same < 20_000 {
                yield_now().await;
                let now = session.stats().bytes_in;
                same = if now == last { same + 1 } else { 0 };
                last = now;
            }
        })
        .await;
        // The peer must send no further data: unread data would make the server reset the
        // connection.
        writes.abort();
        let _ = writes.await;
        server.stop.send(()).unwrap();
        soon(read.read_to_end(&mut answers)).await.unwrap();
        drop(read);
        assert!(sent.starts_with(&answers), "{kind:?}");
        let one = frame(64 * 1024 - 4).len();
        assert_eq!(answers.len() % one, 0, "{kind:?}");
        assert_eq!((answers.len() / one) as u64, echo.called.load(SeqCst));
        assert_eq!(soon(session.closed()).await.reason, CloseReason::Shutdown);
        soon(server.task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_ahead_stays_within_its_limit() {
    // Maximum of data that `Frames` has taken out of the buffer. The limit does not include it.
    const TAKEN: u64 = 8 * 1024;
    for kind in KINDS {
        for (max_frame, in_bulk) in [(8 * 1024, false), (8 * 1024, true), (64 * 1024, false)] {
            let (mut echo, mut sessions) = Echo::new();
            echo.max_len = 4_000;
            echo.max_frame = max_frame;
            let server = Server::new(kind, &echo).await;
            let mut io = server.dial().await;
            let session = soon(sessions.recv()).await.unwrap();
            if in_bulk {
                let large = frame(3_000).repeat(1_000);
                assert!(echoed(&mut *io, &large).await == large);
            }
            let before = session.stats().bytes_in;
            let (mut read, mut write) = split(io);
            let flood = [frame(HELD), frame(3_000).repeat(3_000).into()].concat();
            let writes = tokio::spawn({
                let flood = flood.clone();
                async move {
                    write.write_all(&flood).await.unwrap();
                    write.flush().await.unwrap();
                    write
                }
            });
            let read_ahead = || session.stats().bytes_in - before;
            soon(async {
                // Wait until many polls read no more.
                let (mut last, mut same) = (0, 0);
                while last == 0 || same < 20_000 {
                    yield_now().await;
                    same = if read_ahead() == last { same + 1 } else { 0 };
                    last = read_ahead();
                }
            })
            .await;
            let bound = max_frame as u64 + TAKEN + frame(HELD).len() as u64;
            assert!(
                read_ahead() <= bound,
                "{kind:?} {max_frame}: {}",
                read_ahead()
            );
            echo.release.notify_one();
            let mut answers = vec![0; flood.len()];
            soon(read.read_exact(&mut answers)).await.unwrap();
            assert!(answers == flood, "{kind:?}");
            soon(writes).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_websocket_each_message_is_a_frame_and_others_are_errors() {
    let (mut echo, mut sessions) = Echo::new();
    echo.max_frame = 2 * MAX_LEN;
    let layer = WsLayer::new().with_max_message(2 * MAX_LEN);
    let stack = ServiceBuilder::new().layer(layer).service(echo.app());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.get_ref().local_addr().unwrap();
    let (_stop, stopped) = oneshot::channel();
    let _server = Server::serve(listener, stack, stopped);
    let dial = || async {
        let io = TcpStream::connect(address).await.unwrap();
        let (ws, _) = soon(client_async("ws://example.com/", io)).await.unwrap();
        ws
    };
    let (mut write, mut read) = dial().await.split();
    let session = soon(sessions.recv()).await.unwrap();
    let frames = many();
    let writes = tokio::spawn({
        let frames = frames.clone();
        async move {
            for frame in frames {
                write.send(Message::Binary(frame)).await.unwrap();
            }
            write
        }
    });
    for frame in &frames {
        let answer = soon(read.next()).await.unwrap().unwrap();
        assert!(answer.into_data() == frame, "{}", frame.len());
        if frame.len() % 7 == 0 {
            yield_now().await;
        }
    }
    drop(writes.await.unwrap());
    drop(read);
    soon(session.closed()).await;

    let (one, long) = (frame(10), frame(MAX_LEN + 1));
    let two = frame(10).repeat(2);
    for (bad, expected) in [
        (&one[..12], "ended after 12 of 14 bytes"),
        (&two[..], "14 bytes left over"),
        (&long[..], "200001 bytes exceeds the maximum of 200000"),
    ] {
        let mut ws = dial().await;
        let session = soon(sessions.recv()).await.unwrap();
        let bad = Message::Binary(Bytes::copy_from_slice(bad));
        ws.send(bad).await.unwrap();
        // The session must read the frame that closes it, and answer it.
        while soon(ws.next()).await.is_some_and(|read| read.is_ok()) {}
        let closed = soon(session.closed()).await;
        assert_eq!(closed.reason, CloseReason::Decode, "{expected}");
        let source = closed.source.unwrap().to_string();
        assert!(source.contains(expected), "{source}");
    }
}

#[tokio::test]
async fn over_udp_each_datagram_is_a_frame_and_others_are_skipped_and_counted() {
    let (echo, mut sessions) = Echo::new();
    let listener = UdpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = oneshot::channel();
    let _server = Server::serve(listener, echo.app(), stopped);
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    peer.connect(address).await.unwrap();
    let mut answer = vec![0; 70_000];
    for size in [0, 1, 2, 11, 12, 1_400, 9_000, 60_000, 0, 5] {
        let frame = frame(size);
        peer.send(&frame).await.unwrap();
        let length = soon(peer.recv(&mut answer)).await.unwrap();
        assert!(answer[..length] == frame, "{size}");
    }
    let session = soon(sessions.recv()).await.unwrap();
    for bad in [&frame(10)[..12], &frame(10).repeat(2), b"x"] {
        peer.send(bad).await.unwrap();
    }
    peer.send(&frame(7)).await.unwrap();
    let length = soon(peer.recv(&mut answer)).await.unwrap();
    assert!(answer[..length] == frame(7));
    assert_eq!(session.stats().skipped, 3);
}
