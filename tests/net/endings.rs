//! The ends of sessions over real sockets. Flushed data must arrive, and arrived messages must
//! be handled.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, Reply, Request, ServiceBuilder, Session,
    SessionLayer,
    codec::{LengthDelimited, Lines},
    layers::OnOpenLayer,
    net::{TcpConnector, TcpListener},
    transport::Transport,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::TcpStream,
    sync::mpsc,
    task::yield_now,
};

use crate::kinds::{App, KINDS, Kind, Server, soon};

/// Answers every line with 3 MiB and closes.
struct Parting;

const ANSWER: usize = 3 << 20;

impl App for Parting {
    fn stack<T: Transport + Send + 'static>(&self) -> impl Pipeline<T> + Clone {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new().with_max_length(ANSWER)))
            .layer(SessionLayer::new())
            .service_fn(|_: Request<String>| async {
                Ok::<_, BoxError>(Reply::one("z".repeat(ANSWER)).and_close())
            })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reply_before_a_close_arrives_while_the_peer_keeps_sending() {
    for kind in KINDS {
        let server = Server::new(kind, &Parting).await;
        let (mut read, mut write) = split(server.dial().await);
        write.write_all(b"get\n").await.unwrap();
        let mut answer = Vec::new();
        soon(async {
            loop {
                let read = read.read_buf(&mut answer).await.expect("no reset");
                if read == 0 {
                    break;
                }
                // Send heartbeats even after the server has ended its direction.
                let _ = write.write_all(b"PING\n").await;
            }
        })
        .await;
        assert_eq!(answer.len(), ANSWER + 1, "{kind:?}");
    }
}

/// Handles and counts lines. Answers them if `replies` is set.
#[derive(Clone)]
struct Counting {
    handled: Arc<AtomicUsize>,
    replies: bool,
    opened: mpsc::UnboundedSender<Session<String>>,
}

impl Counting {
    fn new(replies: bool) -> (Self, mpsc::UnboundedReceiver<Session<String>>) {
        let (opened, sessions) = mpsc::unbounded_channel();
        let counting = Self {
            handled: Arc::default(),
            replies,
            opened,
        };
        (counting, sessions)
    }
}

impl App for Counting {
    fn stack<T: Transport + Send + 'static>(&self) -> impl Pipeline<T> + Clone {
        let Self {
            handled,
            replies,
            opened,
        } = self.clone();
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(OnOpenLayer::new(move |session: Session<String>| {
                let sent = opened.send(session).map_err(|_| "the receiver is gone");
                async move { sent.map_err(BoxError::from) }
            }))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                let handled = Arc::clone(&handled);
                async move {
                    yield_now().await;
                    handled.fetch_add(1, SeqCst);
                    Ok::<_, BoxError>(replies.then(|| request.into_message()))
                }
            })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_arrived_before_a_reset_are_handled() {
    for replies in [false, true] {
        let (app, mut sessions) = Counting::new(replies);
        let (_stop, stopped) = tokio::sync::oneshot::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _server = Server::serve(listener, app.stack::<TcpStream>(), stopped);
        let mut peer = TcpStream::connect(address).await.unwrap();
        peer.write_all(b"insert\n".repeat(200).as_slice())
            .await
            .unwrap();
        let session = soon(sessions.recv()).await.unwrap();
        soon(async {
            while session.stats().bytes_in < 7 * 200 {
                yield_now().await;
            }
        })
        .await;
        // Either request the reset, or let unread answers cause it.
        if !replies {
            let socket = socket2::SockRef::from(&peer);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(peer);
        let closed = soon(session.closed()).await;
        assert_eq!(app.handled.load(SeqCst), 200, "replies: {replies}");
        assert_eq!(closed.stats.messages_in, 200);
        assert_eq!(closed.unhandled_messages, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_ends_with_unread_answers_has_all_its_lines_handled() {
    for kind in KINDS {
        let (app, mut sessions) = Counting::new(true);
        let server = Server::new(kind, &app).await;
        let mut peer = server.dial().await;
        let session = soon(sessions.recv()).await.unwrap();
        peer.write_all(b"insert\n".repeat(200).as_slice())
            .await
            .unwrap();
        peer.flush().await.unwrap();
        peer.shutdown().await.unwrap();
        drop(peer);
        let closed = soon(session.closed()).await;
        assert_eq!(app.handled.load(SeqCst), 200, "{kind:?}: {closed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_between_sessions_are_all_handled_before_a_close() {
    const SENDS: usize = 200;
    let (opened, mut sessions) = mpsc::unbounded_channel();
    let sender = ServiceBuilder::new()
        .layer(CodecLayer::new(LengthDelimited::new()))
        .layer(OnOpenLayer::new(move |session: Session<Bytes>| {
            let sent = opened.send(session).map_err(|_| "the receiver is gone");
            async move { sent.map_err(BoxError::from) }
        }))
        .layer(SessionLayer::new())
        .service_fn(|_: Request<Bytes>| async { Ok::<_, BoxError>(None::<Bytes>) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = tokio::sync::oneshot::channel();
    let _server = Server::serve(listener, sender, stopped);

    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    // The receiver is slow and also sends heartbeats.
    let (receiver, receiver_task) = getty::connect(TcpConnector::new(), address, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(LengthDelimited::new()))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<Bytes>| {
                let count = Arc::clone(&count);
                async move {
                    yield_now().await;
                    count.fetch_add(1, SeqCst);
                    let _ = request.session().try_send(Bytes::from_static(b"PING"));
                    Ok::<_, BoxError>(None::<Bytes>)
                }
            })
    })
    .await
    .unwrap();
    let session = soon(sessions.recv()).await.unwrap();
    let sends = (0..SENDS).map(|_| session.send(Bytes::from(vec![1; 16 * 1024])));
    for sent in soon(join_all(sends)).await {
        sent.unwrap();
    }
    session.close();
    let sent = soon(session.closed()).await;
    let received = soon(receiver_task).await.unwrap();
    assert_eq!(handled.load(SeqCst), SENDS);
    assert_eq!(received.reason, CloseReason::PeerClosed);
    assert_eq!(sent.reason, CloseReason::Local);
    assert!(sent.orderly, "{sent}");
    drop(receiver);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_unix_socket_see_no_reset_at_a_shutdown() {
    const CLIENTS: usize = 64;
    for _ in 0..4 {
        let (app, mut sessions) = Counting::new(true);
        let server = Server::new(Kind::Unix, &app).await;
        // A session that has not moved a byte does not wait for its peer's end, so each does first.
        let clients = join_all((0..CLIENTS).map(|_| async {
            let mut client = server.dial().await;
            client.write_all(b"in flight\n").await.unwrap();
            client.read_exact(&mut [0; 10]).await.unwrap();
            client
        }));
        let clients = soon(clients).await;
        for _ in 0..CLIENTS {
            soon(sessions.recv()).await.unwrap();
        }
        let clients = clients.into_iter().map(|client| {
            tokio::spawn(async move {
                let (mut read, mut write) = split(client);
                let writing = async {
                    // Write until the server has ended. Then there are always messages in flight.
                    while write.write_all(b"in flight\n").await.is_ok() {
                        yield_now().await;
                    }
                };
                let mut answers = Vec::new();
                let reading = async {
                    let end = read.read_to_end(&mut answers).await;
                    end.map(|_| ())
                };
                tokio::pin!(writing, reading);
                let end = tokio::select! {
                    biased;
                    end = &mut reading => end,
                    () = &mut writing => reading.await,
                };
                assert!(answers.len().is_multiple_of(10), "each answer is complete");
                end
            })
        });
        let clients: Vec<_> = clients.collect();
        soon(async {
            while app.handled.load(SeqCst) < 2 * CLIENTS {
                yield_now().await;
            }
        })
        .await;
        server.stop.send(()).unwrap();
        for client in clients {
            soon(client).await.unwrap().expect("no reset");
        }
        soon(server.task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_over_tcp_that_echo_each_others_pushes_make_progress() {
    const PUSHES: usize = 600;
    for _ in 0..8 {
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        // A push is echoed once. The echo must not be answered.
        let echo = move |request: Request<Bytes>| {
            count.fetch_add(1, SeqCst);
            let mut message = request.into_message().to_vec();
            let is_push = message[0] == 1;
            message[0] = 2;
            async move { Ok::<_, BoxError>(is_push.then(|| Bytes::from(message))) }
        };
        let (opened, mut sessions) = mpsc::unbounded_channel();
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(LengthDelimited::new()))
            .layer(OnOpenLayer::new(move |session: Session<Bytes>| {
                let sent = opened.send(session).map_err(|_| "nobody listens");
                async move { sent.map_err(BoxError::from) }
            }))
            .layer(SessionLayer::new())
            .service_fn(echo.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = tokio::sync::oneshot::channel();
        let server = Server::serve(listener, stack, stopped);
        let (client, _task) = getty::connect(TcpConnector::new(), address, |link| {
            ServiceBuilder::new()
                .layer(CodecLayer::new(LengthDelimited::new()))
                .layer(link)
                .layer(SessionLayer::new())
                .service_fn(echo)
        })
        .await
        .unwrap();
        let session = soon(sessions.recv()).await.unwrap();
        let push = async |session: &Session<Bytes>| {
            for _ in 0..PUSHES {
                let fed = session.feed(Bytes::from(vec![1; 30_000])).await;
                assert!(fed.is_ok(), "{:?}", session.reason());
            }
        };
        soon(async { tokio::join!(push(&client), push(&session)) }).await;
        soon(async {
            while handled.load(SeqCst) < 4 * PUSHES {
                assert!(!client.is_closing() && !session.is_closing());
                yield_now().await;
            }
        })
        .await;
        server.abort();
    }
}
