//! Sessions over TLS. The contracts of sessions over TCP must hold, also for the ends of TLS.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, DrainDeadlineExceeded, Reply, Request,
    ServiceBuilder, Session, SessionLayer,
    codec::Lines,
    net::{TcpConnector, TcpListener, memory},
    tls::{ServerTls, TlsConnectLayer, TlsLayer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex},
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_test::{assert_pending, task};
use tower::{ServiceExt, util::BoxService};

use super::kit::{Authority, Client, NAME, Server, app, settings, trusting};

#[tokio::test(start_paused = true)]
async fn messages_of_any_size_return_in_order() {
    let authority = Authority::new();
    let mut server = Server::new(settings(&authority).load().unwrap());
    let client = server.connect(trusting(&authority)).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(client.stream.into_inner());
    let messages: Vec<_> = (0..50_usize)
        .map(|n| format!("{n}:{}", "x".repeat(n * n * n)))
        .collect();
    let sent = messages.clone();
    let writer = tokio::spawn(async move {
        for message in sent {
            writing.write_all(message.as_bytes()).await.unwrap();
            writing.write_all(b"\n").await.unwrap();
        }
        writing.shutdown().await.unwrap();
        writing
    });
    let mut answers = String::new();
    reading.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.lines().collect::<Vec<_>>(), messages);
    assert_eq!(server.end().await.reason, CloseReason::PeerClosed);
    drop(writer.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn peer_that_ended_its_direction_receives_its_replies_and_a_close_notify() {
    let authority = Authority::new();
    let mut server = Server::new(settings(&authority).load().unwrap());
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    client.send("one\nwait\nthree").await;
    client.stream.shutdown().await.unwrap();
    // Without a `close_notify` the read would fail.
    assert_eq!(client.rest().await.unwrap(), "one\nwaited\nthree\n");
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert!(closed.source.is_none());
    assert_eq!(closed.stats.messages_out, 3);
}

#[tokio::test(start_paused = true)]
async fn cut_off_stream_is_an_error() {
    let authority = Authority::new();
    let mut server = Server::new(settings(&authority).load().unwrap());
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
    // The underlying stream ends without a `close_notify`.
    client.stream.get_mut().get_mut().shutdown().await.unwrap();
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Io);
    let source = closed.source.unwrap();
    let error: &io::Error = source.downcast_ref().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("close_notify"), "{error}");
}

/// Cuts `PAY 10000` to `PAY 100` with and without a busy handler.
#[tokio::test(start_paused = true)]
async fn partial_line_of_a_cut_off_stream_is_not_handled() {
    for busy in [false, true] {
        let authority = Authority::new();
        let (handled, mut handles) = mpsc::unbounded_channel();
        let stack = ServiceBuilder::new()
            .layer(TlsLayer::new(settings(&authority).load().unwrap()))
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<String>| {
                handled.send(request.message().clone()).unwrap();
                async move {
                    if busy {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    Ok::<_, BoxError>(request.into_message())
                }
            });
        let mut server = Server::with_stack(stack);
        let mut client = server.connect(trusting(&authority)).await.unwrap();
        client.send("PAY 1\n").await;
        assert_eq!(handles.recv().await.unwrap(), "PAY 1");
        client.send("PAY 100").await;
        client.stream.get_mut().get_mut().shutdown().await.unwrap();
        let closed = server.end().await;
        assert_eq!(closed.reason, CloseReason::Io);
        assert_eq!(closed.stats.messages_in, 1);
        handles.try_recv().unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn manipulated_record_closes_the_session_with_its_cause() {
    let authority = Authority::new();
    let mut server = Server::new(settings(&authority).load().unwrap());
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
    // Application data that is not encrypted with the session's key.
    let forged = [&[0x17, 3, 3, 0, 32][..], &[7; 32]].concat();
    let below = client.stream.get_mut().get_mut();
    below.write_all(&forged).await.unwrap();
    let closed = server.end().await;
    assert_eq!(closed.reason, CloseReason::Io);
    assert!(closed.source.unwrap().to_string().contains("decrypt"));
}

#[tokio::test(start_paused = true)]
async fn close_lets_handlers_finish_and_sends_a_close_notify() {
    let authority = Authority::new();
    let stack = ServiceBuilder::new()
        .layer(TlsLayer::new(settings(&authority).load().unwrap()))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(async |request: Request<String>| {
            Ok::<_, BoxError>(Reply::one(request.into_message()).and_close())
        });
    let mut server = Server::with_stack(stack);
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    client.send("bye\nignored\n").await;
    assert_eq!(client.rest().await.unwrap(), "bye\n");
    assert_eq!(server.end().await.reason, CloseReason::Local);
}

#[tokio::test(start_paused = true)]
async fn refusal_by_a_make_service_is_flushed_and_sends_a_close_notify() {
    let authority = Authority::new();
    let stack = ServiceBuilder::new()
        .layer(TlsLayer::new(settings(&authority).load().unwrap()))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::per_session())
        .service_fn(async |session: Session<String>| {
            session.send("welcome".to_owned()).await?;
            session.feed("go away".to_owned()).await?;
            Err::<BoxService<Request<String>, Option<String>, BoxError>, BoxError>("full".into())
        });
    let mut server = Server::with_stack(stack);
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    // Without a `close_notify` the read would fail.
    assert_eq!(client.rest().await.unwrap(), "welcome\ngo away\n");
    assert_eq!(server.end().await.reason, CloseReason::Refused);
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_sessions_over_tls() {
    let authority = Authority::new();
    let layer = TlsLayer::new(settings(&authority).load().unwrap());
    let (listener, connector) = memory(64 * 1024);
    let (shut_down, shutdown) = oneshot::channel::<()>();
    let serving = tokio::spawn(
        getty::serve(listener, ServiceBuilder::new().layer(layer).service(app()))
            .with_graceful_shutdown(async { drop(shutdown.await) })
            .with_drain_deadline(Duration::from_secs(90))
            .into_future(),
    );
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut busy = tls_client(&authority, io).await;
    // A connection within its handshake is closed at once.
    let mut half = connector.connect().await.unwrap().into_parts().0;
    half.write_all(&[0x16, 3, 1]).await.unwrap();
    busy.send("wait\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    shut_down.send(()).unwrap();
    assert_eq!(half.read(&mut [0; 64]).await.unwrap(), 0);
    assert_eq!(busy.rest().await.unwrap(), "waited\n");
    let drained = serving.await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.aborted), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn hanging_handler_does_not_prevent_the_close_notify() {
    let authority = Authority::new();
    let (ours, theirs) = duplex(64 * 1024);
    let connection = Connection::new(ours);
    let handle = connection.handle().clone();
    let stack = ServiceBuilder::new()
        .layer(TlsLayer::new(settings(&authority).load().unwrap()))
        .service(app());
    let task = tokio::spawn(stack.oneshot(connection));
    let mut client = tls_client(&authority, theirs).await;
    client.send("wait\n").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.in_flight(), 1);
    let start = Instant::now();
    handle.close_with(CloseReason::Shutdown);
    // Without a `close_notify` the read would fail.
    let read = client.stream.read(&mut [0; 16]).await.unwrap();
    assert_eq!((read, start.elapsed().as_secs()), (0, 5));
    drop(client);
    let closed = task.await.unwrap().unwrap();
    assert!(closed.source.unwrap().is::<DrainDeadlineExceeded>());
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_read_is_cut_off_at_the_drain_deadline() {
    let authority = Authority::new();
    let (ours, theirs) = duplex(4096);
    let config = settings(&authority).load().unwrap();
    let connection = Connection::new(ours);
    let handle = connection.handle().clone();
    let stack = ServiceBuilder::new()
        .layer(TlsLayer::new(config))
        .service(app());
    let task = tokio::spawn(stack.oneshot(connection));
    let mut client = tls_client(&authority, theirs).await;
    client.send(&format!("{}\n", "x".repeat(100_000))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    handle.close();
    let closed = task.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(closed.reason, CloseReason::Local);
    assert!(closed.source.unwrap().is::<DrainDeadlineExceeded>());
}

/// Runs the client's side of a handshake over `transport`.
async fn tls_client<T>(authority: &Authority, transport: T) -> Client<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut transport = Some(transport);
    let connector = tower::service_fn(move |()| {
        let connection = transport.take().map(Connection::new);
        async { connection.ok_or_else(|| BoxError::from("connected twice")) }
    });
    let connection = ServiceBuilder::new()
        .layer(TlsConnectLayer::new(trusting(authority)).with_server_name(NAME.try_into().unwrap()))
        .service(connector)
        .oneshot(())
        .await
        .unwrap();
    Client::new(connection)
}

/// Counts the writes of a stream.
struct Counted<T> {
    inner: T,
    writes: Arc<AtomicUsize>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, SeqCst);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, SeqCst);
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn replies_of_one_poll_leave_in_one_write() {
    let authority = Authority::new();
    let writes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&writes);
    let stack = ServiceBuilder::new()
        .map_request(move |connection: Connection<_>| {
            let writes = Arc::clone(&count);
            connection.map_transport(|inner| Counted { inner, writes })
        })
        .layer(TlsLayer::new(settings(&authority).load().unwrap()))
        .service(app());
    let server = Server::with_stack(stack);
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    assert_eq!(client.ask("hello").await, "hello");
    let before = writes.load(SeqCst);
    client.send(&"line\n".repeat(100)).await;
    for _ in 0..100 {
        assert_eq!(client.line().await, "line");
    }
    assert_eq!(writes.load(SeqCst) - before, 1);
}

#[tokio::test]
async fn server_name_comes_from_the_target_over_tcp() {
    let authority = Authority::new();
    let issued = authority.issue("localhost");
    let config = ServerTls::new(issued.chain(), issued.key());
    let layer = TlsLayer::new(config.load().unwrap());
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = getty::Listener::local_addr(&listener)
        .unwrap()
        .port()
        .unwrap();
    let stack = ServiceBuilder::new().layer(layer).service(app());
    tokio::spawn(async move { getty::serve(listener, stack).await });
    let connector = ServiceBuilder::new()
        .layer(TlsConnectLayer::new(trusting(&authority)))
        .service(TcpConnector::new());
    let dialed = connector.oneshot(("localhost", port)).await.unwrap();
    let mut client = Client::new(dialed);
    assert_eq!(client.ask("hello").await, "hello");
    assert_eq!(client.info.server_name(), Some("localhost"));
}

#[tokio::test(start_paused = true)]
async fn send_resolves_only_after_its_bytes_have_left_tls() {
    let authority = Authority::new();
    let (sessions, mut session) = mpsc::unbounded_channel();
    // Smaller than a single record.
    let (listener, connector) = memory(1024);
    let stack = ServiceBuilder::new()
        .layer(TlsLayer::new(settings(&authority).load().unwrap()))
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<String>| {
            let sent = sessions.send(request.session().clone());
            async move { sent.map(|()| None::<String>).map_err(BoxError::from) }
        });
    tokio::spawn(async move { getty::serve(listener, stack).await });
    let io = connector.connect().await.unwrap().into_parts().0;
    let mut client = tls_client(&authority, io).await;
    client.send("hello\n").await;
    let session = session.recv().await.unwrap();

    // rustls buffers the whole message at once.
    let message = "x".repeat(10_000);
    let mut sending = task::spawn(session.send(message.clone()));
    assert_pending!(sending.poll());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_pending!(sending.poll());
    assert_eq!(client.line().await, message);
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn vectored_write_takes_all_slices() {
    let authority = Authority::new();
    let server = Server::new(settings(&authority).load().unwrap());
    let mut client = server.connect(trusting(&authority)).await.unwrap();
    let stream = client.stream.get_mut();
    assert!(stream.is_write_vectored());
    let slices = [
        IoSlice::new(b"one "),
        IoSlice::new(b""),
        IoSlice::new(b"line\n"),
    ];
    assert_eq!(stream.write_vectored(&slices).await.unwrap(), 9);
    client.stream.flush().await.unwrap();
    assert_eq!(client.line().await, "one line");
}
