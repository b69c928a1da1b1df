//! `SessionLimitLayer`: a refused peer receives a last message, over each transport.

use std::{net::SocketAddr, time::Duration};

use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Request, ServiceBuilder, Session, SessionLayer,
    codec::Lines,
    layers::{OnOpenLayer, SessionLimitLayer, session_limit::TooManySessions},
    net,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::mpsc,
    time::{Instant, timeout},
};

const REFUSAL: &str = "-ERR max number of clients reached";

type Ends = mpsc::UnboundedReceiver<getty::Closed>;

/// Reports the close records of refused sessions.
fn report<T>(ended: &mpsc::UnboundedSender<getty::Closed>, connection: &Connection<T>) {
    let ended = ended.clone();
    let handle = connection.handle();
    handle.add_close_callback("test", "end", move |closed| {
        if closed.reason == CloseReason::Refused {
            let _ = ended.send(closed.clone());
        }
    });
}

/// Layers of a stack that echoes lines for at most one session, and greets it.
macro_rules! limited {
    ($stack:expr) => {{
        let (ended, ends) = mpsc::unbounded_channel();
        let stack = $stack
            .map_request(move |connection: Connection<_>| {
                report(&ended, &connection);
                connection
            })
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLimitLayer::new(1, |_: &Session<String>| {
                REFUSAL.to_owned()
            }))
            .layer(OnOpenLayer::new(|session| async move {
                session.feed("welcome".to_owned()).await
            }))
            .layer(SessionLayer::new())
            .service_fn(async |request: Request<String>| Ok::<_, BoxError>(request.into_message()));
        (stack, ends)
    }};
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future)
        .await
        .expect("nothing happened")
}

async fn line<T: AsyncRead + Unpin>(io: &mut T) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(soon(io.read_u8()).await.unwrap());
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

async fn echo<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) {
    io.write_all(b"hello\n").await.unwrap();
    assert_eq!(line(io).await, "hello");
}

async fn refused(ends: &mut Ends) -> getty::Closed {
    let closed = soon(ends.recv()).await.unwrap();
    let source = closed.source.as_ref().unwrap();
    assert_eq!(source.downcast_ref::<TooManySessions>().unwrap().limit(), 1);
    assert_eq!(
        (closed.stats.messages_in, closed.stats.messages_out),
        (0, 1)
    );
    closed
}

async fn tcp() -> (SocketAddr, Ends) {
    let (stack, ends) = limited!(ServiceBuilder::new());
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = getty::Listener::local_addr(&listener).unwrap();
    tokio::spawn(async move { getty::serve(listener, stack).await });
    (address.socket_addr().unwrap(), ends)
}

#[tokio::test]
async fn refused_peer_over_tcp_reads_the_message_and_no_reset() {
    let (address, mut ends) = tcp().await;
    let mut first = TcpStream::connect(address).await.unwrap();
    assert_eq!(line(&mut first).await, "welcome");

    let mut second = TcpStream::connect(address).await.unwrap();
    // Unread requests would turn a close into a reset.
    let requests = [b'x'; 50_000];
    second.write_all(&requests).await.unwrap();
    let mut received = String::new();
    soon(second.read_to_string(&mut received)).await.unwrap();
    assert_eq!(received, format!("{REFUSAL}\n"));
    drop(second);
    refused(&mut ends).await;

    // The first is not affected, and its place is free after its end.
    echo(&mut first).await;
    drop(first);
    loop {
        let mut next = TcpStream::connect(address).await.unwrap();
        if line(&mut next).await == "welcome" {
            echo(&mut next).await;
            break;
        }
    }
}

#[tokio::test]
async fn refused_peer_that_stays_is_dropped_at_the_deadline() {
    let (address, mut ends) = tcp().await;
    let _first = TcpStream::connect(address).await.unwrap();
    let start = Instant::now();
    let mut second = TcpStream::connect(address).await.unwrap();
    assert_eq!(line(&mut second).await, REFUSAL);
    refused(&mut ends).await;
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "the default is 1 s"
    );
}

#[tokio::test]
async fn refused_peer_over_udp_receives_the_message() {
    let (stack, mut ends) = limited!(ServiceBuilder::new());
    let listener = net::UdpListener::bind("127.0.0.1:0").await.unwrap();
    let address = getty::Listener::local_addr(&listener).unwrap();
    let address = address.socket_addr().unwrap();
    tokio::spawn(async move { getty::serve(listener, stack).await });
    let mut buf = [0; 100];
    let mut sockets = Vec::new();
    for expected in ["welcome\n".to_owned(), format!("{REFUSAL}\n")] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        socket.send(b"hello\n").await.unwrap();
        let bytes = soon(socket.recv(&mut buf)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&buf[..bytes]), expected);
        sockets.push(socket);
    }
    let closed = soon(ends.recv()).await.unwrap();
    assert_eq!(closed.reason, CloseReason::Refused);
}

#[cfg(feature = "ws")]
#[tokio::test]
async fn refused_peer_over_websocket_receives_the_message_and_a_code() {
    use futures_util::StreamExt;
    use tokio_tungstenite::{client_async, tungstenite::Message};

    let (stack, mut ends) = limited!(ServiceBuilder::new().layer(getty::ws::WsLayer::new()));
    let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = getty::Listener::local_addr(&listener).unwrap();
    let address = address.socket_addr().unwrap();
    tokio::spawn(async move { getty::serve(listener, stack).await });
    let mut peers = Vec::new();
    for expected in ["welcome\n".to_owned(), format!("{REFUSAL}\n")] {
        let io = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}/");
        let mut ws = soon(client_async(url, io)).await.unwrap().0;
        let message = soon(ws.next()).await.unwrap().unwrap();
        assert_eq!(message.into_text().unwrap().as_str(), expected);
        peers.push(ws);
    }
    match soon(peers[1].next()).await.unwrap().unwrap() {
        Message::Close(Some(close)) => assert_eq!(u16::from(close.code), 1008),
        other => panic!("{other:?}"),
    }
    assert!(soon(peers[1].next()).await.is_none());
    refused(&mut ends).await;
}
