//! Upgrades in other stacks.

use super::*;
use getty_test::{Stream, stream};

/// Line that a router can route.
struct Line(String);

impl Keyed for Line {
    type Key = str;

    fn key(&self) -> &str {
        &self.0
    }
}

#[tokio::test(start_paused = true)]
async fn route_of_a_router_upgrades() {
    let (io, peer) = stream();
    let router = Router::new()
        .route("upgrade", |_: Line| {
            Reply::one("ready".to_owned()).and_upgrade()
        })
        .route("hello", |line: Line| line.0);
    let (session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::new(shake::<Stream>))
            .layer(CodecLayer::new(lines()))
            .layer(link)
            .layer(SessionLayer::new())
            .map_request(|request: Request<String>| request.map(Line))
            .service(router)
    })
    .await
    .unwrap();
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+HELLO\n");
    assert_eq!(soon(peer.line()).await, "+HELLO");
    drop(session);
}

#[tokio::test(start_paused = true)]
async fn stack_of_a_session_upgrades() {
    let (io, peer) = stream();
    let (_session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::new(shake::<Stream>))
            .layer(CodecLayer::new(lines()))
            .layer(link)
            .layer(SessionLayer::per_session())
            .service_fn(async |_: Session<String>| Ok::<_, BoxError>(handle(upgrade_or_echo)))
    })
    .await
    .unwrap();
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+HELLO\n");
    assert_eq!(soon(peer.line()).await, "+HELLO");
}

#[tokio::test]
async fn boxed_transport_forwards_the_upgrade() {
    let (io, peer) = stream();
    let captured: Arc<Mutex<Option<BoxTransport>>> = Arc::default();
    let taken = Arc::clone(&captured);
    let mut stack = ServiceBuilder::new()
        .layer(UpgradeLayer::new(shake::<Stream>))
        .service_fn(move |connection: getty::Connection<Upgradable<_, _>>| {
            let (io, _rest) = connection.take_transport();
            *taken.lock().unwrap() = Some(BoxTransport::new(io));
            async { Ok::<_, BoxError>(()) }
        });
    let connection = getty::Connection::new(io);
    let handle = connection.handle().clone();
    getty::Service::call(&mut stack, connection).await.unwrap();
    let mut io = captured.lock().unwrap().take().unwrap();
    io.check_upgrade(b"").unwrap();
    assert_eq!(
        io.check_upgrade(b"x").unwrap_err().reason,
        CloseReason::Decode
    );
    peer.send("+");
    poll_fn(|cx| io.poll_upgrade(cx, &handle, &mut BytesMut::new()))
        .await
        .unwrap();
    assert!(io.check_upgrade(b"").is_err(), "upgraded already");
}
