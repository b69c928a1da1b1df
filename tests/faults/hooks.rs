//! Panics in the functions that an application gives to getty, in each of them. A panic ends at
//! most its own connection, whose callbacks run once. Servers and clients continue.
//!
//! Hooks with a test elsewhere are in docs/faults.md.

use std::{future::Future, sync::Arc, time::Duration};

use getty::{
    BoxError, BoxPipeline, Client, CloseReason, CodecLayer, Connection, Request, ServiceBuilder,
    Session, SessionLayer,
    client::Pick,
    codec::Lines,
    handle,
    layers::{
        ActivityLayer, HandleErrorLayer, HeartbeatLayer, IdleTimeoutLayer, IntervalLayer,
        OnOpenLayer,
    },
    middleware::message_fn,
    net::{Listener, UdpListener, memory},
    serve,
    ws::WsLayer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::UdpSocket,
    sync::oneshot,
};

use crate::app::{Side, soon};

const SECOND: Duration = Duration::from_secs(1);

fn bad<T>() -> T {
    panic!("a bad hook")
}

async fn echo(request: Request<String>) -> Result<String, BoxError> {
    Ok(request.into_message())
}

/// A stack of which one function panics, for each function.
macro_rules! stacks {
    ($($name:literal: $outer:expr, $inner:expr;)*) => {
        vec![$((
            $name,
            BoxPipeline::new(
                ServiceBuilder::new()
                    .layer(CodecLayer::new(Lines::new()))
                    .layer($outer)
                    .layer(SessionLayer::new())
                    .layer($inner)
                    .service_fn(echo),
            ),
        )),*]
    };
}

fn none() -> tower::layer::util::Identity {
    tower::layer::util::Identity::new()
}

fn stacks() -> Vec<(&'static str, BoxPipeline)> {
    let mut stacks = stacks! {
        "heartbeat": HeartbeatLayer::new(SECOND, |_: &Session<String>| bad::<String>()), none();
        "optional heartbeat":
            HeartbeatLayer::optional(SECOND, |_: &Session<String>| bad::<Option<String>>()), none();
        "pong": HeartbeatLayer::new(SECOND, |_: &Session<String>| "ping".to_owned())
            .with_pong(|_: &String| bad()), none();
        "idle": IdleTimeoutLayer::new(SECOND)
            .with_hook(|_: &Session<String>, _| bad()), none();
        "interval": IntervalLayer::new(SECOND, |_: &Session<String>| bad::<Result<(), BoxError>>()),
            none();
        "async interval": IntervalLayer::from_async_fn(SECOND, |_: Session<String>| async {
            bad::<Result<(), BoxError>>()
        }), none();
        "open hook": OnOpenLayer::new(|_: Session<String>| async { bad::<Result<(), BoxError>>() }),
            none();
        "activity": none(), ActivityLayer::new(|_: &String| bad());
        "message function": none(),
            message_fn(async |_: Request<String>, _| bad::<Result<String, BoxError>>());
    };
    let outside = || {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Lines::new()))
            .layer(SessionLayer::new())
    };
    stacks.push((
        "error handler",
        BoxPipeline::new(
            outside()
                .layer(HandleErrorLayer::new(|_: BoxError| bad::<String>()))
                .service(handle(|_: String| Err::<String, BoxError>("failed".into()))),
        ),
    ));
    stacks
}

/// Sends a line and reads until the end.
async fn visit(mut peer: DuplexStream) {
    let _ = peer.write_all(b"hello\n").await;
    let mut rest = Vec::new();
    let _ = soon(peer.read_to_end(&mut rest)).await;
}

#[tokio::test(start_paused = true)]
async fn panic_of_any_hook_ends_its_session_alone() {
    for (name, stack) in stacks() {
        let side = Side::new();
        let (listener, connector) = memory(1024);
        let (stop, stopped) = oneshot::channel::<()>();
        let stack = side.outside(stack);
        let served = tokio::spawn(async move {
            serve(listener, stack)
                .with_graceful_shutdown(async move { drop(stopped.await) })
                .await
        });
        for nth in 1..=3 {
            visit(connector.connect().await.unwrap().into_parts().0).await;
            side.settle(&name).await;
            assert_eq!(side.reasons(), vec![CloseReason::Panicked; nth], "{name}");
        }
        for record in side.records() {
            let source = record.source.expect("the panic is the source");
            assert!(
                source.to_string().contains("a bad hook"),
                "{name}: {source}"
            );
        }
        stop.send(()).unwrap();
        let drained = soon(served).await.unwrap().unwrap();
        assert_eq!((drained.finished, drained.aborted), (0, 0), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_in_a_connection_function_ends_its_connection_alone() {
    let side = Side::new();
    let (listener, connector) = memory(1024);
    let inner = ServiceBuilder::new()
        .map_request(|connection: Connection<DuplexStream>| {
            if connection.handle().id() > 0 {
                bad::<()>();
            }
            connection
        })
        .service(side.server());
    let stack = side.outside(inner);
    tokio::spawn(async move { serve(listener, stack).await });
    for nth in 1..=3 {
        visit(connector.connect().await.unwrap().into_parts().0).await;
        side.settle(&"map_request").await;
        assert_eq!(side.reasons(), vec![CloseReason::Panicked; nth]);
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_websocket_check_ends_its_handshake_alone() {
    let checks = [
        ("path", WsLayer::new().with_path_matcher(|_| bad())),
        ("origin", WsLayer::new().with_origin_check(|_| bad())),
    ];
    for (name, layer) in checks {
        let side = Side::new();
        let (listener, connector) = memory(1024);
        let stack = side.outside(getty::Layer::layer(&layer, side.server()));
        tokio::spawn(async move { serve(listener, stack).await });
        for nth in 1..=3 {
            let mut peer = connector.connect().await.unwrap().into_parts().0;
            let head = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Origin: http://b\r\nSec-WebSocket-Version: 13\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            peer.write_all(head.as_bytes()).await.unwrap();
            visit(peer).await;
            side.settle(&name).await;
            assert_eq!(side.reasons(), vec![CloseReason::Panicked; nth], "{name}");
        }
    }
}

/// The datagram is dropped. Other peers are served.
#[tokio::test]
async fn panic_of_the_admit_hook_drops_its_datagram_alone() {
    let side = Side::new();
    let listener = UdpListener::builder()
        .with_admit(|first| {
            if first.payload.starts_with(b"bad") {
                bad::<()>();
            }
            getty::net::UdpAdmission::Open
        })
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let stack = side.outside(side.server());
    let served = tokio::spawn(async move { serve(listener, stack).await });
    let bad_peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    bad_peer.send_to(b"bad", address).await.unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = [0; 100];
    peer.send_to(b"?hello\n", address).await.unwrap();
    let mut answers = Vec::new();
    while !answers.contains(&b"!hello\n".to_vec()) {
        let (length, _) = soon(peer.recv_from(&mut buffer)).await.unwrap();
        answers.push(buffer[..length].to_vec());
    }
    assert_eq!(side.connections.len(), 1);
    served.abort();
    side.settle(&"admit").await;
}

/// A function that the caller runs panics in the caller. Nothing is poisoned.
#[tokio::test(start_paused = true)]
async fn panic_of_a_callers_function_reaches_the_caller_and_poisons_nothing() {
    let (server, client) = (Side::new(), Side::new());
    let (listener, connector) = memory(1024);
    let stack = server.outside(server.server());
    tokio::spawn(async move { serve(listener, stack).await });
    let builder = client.clone();
    let panics = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let switch = Arc::clone(&panics);
    let called: Client<String> = Client::builder()
        .with_sessions(2)
        .with_pick(Pick::least(move |session: &Session<String>| {
            if switch.load(std::sync::atomic::Ordering::SeqCst) {
                bad::<()>();
            }
            session.queued()
        }))
        .connect(connector, (), move |link| {
            builder.outside(builder.client(link))
        });
    client.until(|side| side.sessions.len() == 2).await;
    let waiting = called.clone();
    let caller = tokio::spawn(async move { waiting.session().await.map(drop) });
    assert!(caller.await.unwrap_err().is_panic());
    panics.store(false, std::sync::atomic::Ordering::SeqCst);
    called.send("?hello".to_owned()).await.unwrap();

    let registry = server.sessions.clone();
    let find = tokio::spawn(async move { registry.find(|_| bad()).len() });
    assert!(find.await.unwrap_err().is_panic());
    server.sessions.show_attribute("bad", |_| bad());
    let registry = server.sessions.clone();
    let show = tokio::spawn(async move { registry.snapshot().len() });
    assert!(show.await.unwrap_err().is_panic());
    server.sessions.show_attribute("bad", |_| None);
    assert_eq!(server.sessions.snapshot().len(), 2);
    called.stop();
    called.stopped().await;
    client.settle(&"pick").await;
    server.settle(&"pick").await;
}

/// Ends all connections, whose callbacks run, and panics in the task of the server.
#[tokio::test(start_paused = true)]
async fn panic_of_the_listener_or_the_shutdown_signal_ends_the_server_with_its_callbacks() {
    struct Bad(getty::net::MemoryListener, usize);
    impl Listener for Bad {
        type Io = DuplexStream;

        fn poll_accept(
            &mut self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<Connection<DuplexStream>>> {
            if self.1 == 0 {
                bad::<()>();
            }
            let accepted = self.0.poll_accept(cx);
            self.1 -= usize::from(accepted.is_ready());
            accepted
        }

        fn local_addr(&self) -> std::io::Result<getty::Address> {
            self.0.local_addr()
        }
    }

    async fn ends<F: Future<Output = ()> + Send + 'static>(accepts: usize, signal: F) {
        let side = Side::new();
        let (listener, connector) = memory(1024);
        let stack = side.outside(side.server());
        let served = tokio::spawn(async move {
            serve(Bad(listener, accepts), stack)
                .with_graceful_shutdown(signal)
                .await
        });
        let peers = [
            connector.connect().await.unwrap(),
            connector.connect().await.unwrap(),
        ];
        assert!(soon(served).await.unwrap_err().is_panic());
        side.settle(&accepts).await;
        assert_eq!(side.records().len(), 2, "both were accepted");
        drop(peers);
    }

    ends(2, std::future::pending()).await;
    ends(usize::MAX, async {
        tokio::time::sleep(SECOND).await;
        bad::<()>();
    })
    .await;
}
