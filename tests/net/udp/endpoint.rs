//! One session for a whole socket.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, Closed, CodecLayer, Connection, Pipeline, Reply, Request, SendError,
    ServiceBuilder, Session, SessionLayer,
    layers::{HandleErrorLayer, HeartbeatLayer, OnOpenLayer},
    net::{Datagram, ProbePolicy, UdpEndpoint, UdpEndpointIo},
    service_fn,
    session::MessageTooLong,
};
use tokio::{net::UdpSocket, sync::mpsc};

use super::{
    V4, V6, Whole, ask, assert_answers_from_destination, peer_of, receive, serve, soon, until,
};

type Sessions = mpsc::UnboundedReceiver<Session<Datagram<Bytes>>>;

fn reporting_echo() -> (impl Pipeline<UdpEndpointIo> + Clone, Sessions) {
    let (opened, sessions) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(OnOpenLayer::new(
            move |session: Session<Datagram<Bytes>>| {
                let sent = opened.send(session);
                async move { sent.map_err(|_| BoxError::from("the test has ended")) }
            },
        ))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Datagram<Bytes>>| async move {
            let asked = request.into_message();
            Ok(match &asked.message()[..] {
                b"stop" => Reply::close(),
                b"fail" => return Err(BoxError::from("asked to")),
                _ => Reply::one(asked.reply(asked.message().clone())),
            })
        });
    (stack, sessions)
}

#[tokio::test]
async fn reply_goes_to_its_sender_and_all_peers_share_the_session() {
    for any in [V4, V6] {
        let endpoint = UdpEndpoint::bind(any).await.unwrap();
        let address = endpoint.local_addr();
        let monitor = endpoint.monitor();
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(endpoint, stack);
        let session = soon(sessions.recv()).await.unwrap();
        let peers = [
            peer_of(address).await,
            peer_of(address).await,
            peer_of(address).await,
        ];
        // All peers send before any is answered. So consecutive answers must go to different peers.
        for round in 0..10 {
            for (n, peer) in peers.iter().enumerate() {
                for part in 0..3 {
                    peer.send(format!("{round}.{n}.{part}").as_bytes())
                        .await
                        .unwrap();
                }
            }
            for (n, peer) in peers.iter().enumerate() {
                for part in 0..3 {
                    assert_eq!(receive(peer).await, format!("{round}.{n}.{part}"));
                }
            }
        }
        assert_eq!(session.stats().messages_in, 90);
        assert_eq!(monitor.stats().delivered, 90);
        assert!(sessions.try_recv().is_err());
    }
}

#[tokio::test]
async fn session_sends_to_any_peer_that_it_names() {
    let endpoint = UdpEndpoint::bind(V4).await.unwrap();
    let address = endpoint.local_addr();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(endpoint, stack);
    let session = soon(sessions.recv()).await.unwrap();
    let peers = [peer_of(address).await, peer_of(address).await];
    for (n, peer) in peers.iter().enumerate() {
        let to = peer.local_addr().unwrap();
        soon(session.send(Datagram::to(to, Bytes::from(n.to_string()))))
            .await
            .unwrap();
    }
    for (n, peer) in peers.iter().enumerate() {
        assert_eq!(receive(peer).await, n.to_string());
    }
    let no_way: SocketAddr = "[::1]:9".parse().unwrap();
    let refused = soon(session.send(Datagram::to(no_way, Bytes::new()))).await;
    assert!(matches!(refused, Err(SendError::Encode(_))));
    let to = peers[0].local_addr().unwrap();
    let refused = soon(session.send(Datagram::to(to, Bytes::from(vec![0; 65_508])))).await;
    let Err(SendError::Encode(source)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        source.downcast_ref::<MessageTooLong>().unwrap().limit,
        65_507
    );
    // Raw bytes have no peer.
    let refused = soon(session.send_raw(Bytes::from("to whom?"))).await;
    assert!(matches!(refused, Err(SendError::Encode(_))));
    // The refused message must not shift the later ones.
    soon(session.send(Datagram::to(to, Bytes::from("last"))))
        .await
        .unwrap();
    assert_eq!(receive(&peers[0]).await, "last");
    assert!(!session.is_closing());
}

#[tokio::test]
async fn bad_empty_and_long_datagrams_are_skipped_and_counted() {
    let endpoint = UdpEndpoint::bind(V4)
        .await
        .unwrap()
        .with_max_datagram(100)
        .with_probes(ProbePolicy::Answer);
    let monitor = endpoint.monitor();
    let peer = peer_of(endpoint.local_addr()).await;
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(endpoint, stack);
    let session = soon(sessions.recv()).await.unwrap();
    peer.send(b"bad").await.unwrap();
    peer.send(b"").await.unwrap();
    peer.send(&[0; 101]).await.unwrap();
    assert_eq!(ask(&peer, "connect-ping").await, "");
    assert_eq!(ask(&peer, "good").await, "good");
    assert_eq!(session.stats().skipped, 2);
    assert_eq!(session.stats().messages_in, 1);
    let stats = monitor.stats();
    assert_eq!((stats.empty, stats.truncated, stats.probes), (1, 1, 1));
}

#[tokio::test]
async fn closed_session_is_followed_by_another_on_the_same_socket() {
    let endpoint = UdpEndpoint::bind(V4).await.unwrap();
    let peer = peer_of(endpoint.local_addr()).await;
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(endpoint, stack);
    for (last, reason) in [
        ("fail", CloseReason::Handler),
        ("stop", CloseReason::Local),
        ("stop", CloseReason::Local),
    ] {
        // A datagram that arrives while the old session ends would be lost with it.
        peer.send(b"hello").await.unwrap();
        let session = soon(sessions.recv()).await.unwrap();
        assert_eq!(receive(&peer).await, "hello");
        peer.send(last.as_bytes()).await.unwrap();
        assert_eq!(soon(session.closed()).await.reason, reason);
    }
}

#[tokio::test]
async fn stack_that_refuses_the_session_is_not_called_in_a_loop() {
    let endpoint = UdpEndpoint::bind(V4).await.unwrap();
    let monitor = endpoint.monitor();
    let peer = peer_of(endpoint.local_addr()).await;
    let (calls, mut called) = mpsc::unbounded_channel();
    let stack = service_fn(move |connection: Connection<UdpEndpointIo>| {
        let sent = calls.send(());
        drop(connection);
        async move {
            sent.map_err(BoxError::from)
                .and(Err::<Closed, _>("never".into()))
        }
    });
    let _server = serve(endpoint, stack);
    soon(called.recv()).await.unwrap();
    for n in 1..=3 {
        peer.send(b"hello").await.unwrap();
        until(|| monitor.stats().ignored >= n).await;
    }
    // The datagrams have been dropped. So the stack may be called at most once for each.
    assert!(called.len() <= 3);
}

#[tokio::test]
async fn heartbeats_have_a_peer_and_errors_are_answered() {
    let endpoint = UdpEndpoint::bind(V4).await.unwrap();
    let peer = peer_of(endpoint.local_addr()).await;
    let to = peer.local_addr().unwrap();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(HeartbeatLayer::new(Duration::from_millis(20), move |_| {
            Datagram::to(to, Bytes::from("beat"))
        }))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|_| None))
        .service_fn(|_: Request<Datagram<Bytes>>| async move {
            Err::<Option<Datagram<Bytes>>, _>(BoxError::from("always"))
        });
    let _server = serve(endpoint, stack);
    assert_eq!(receive(&peer).await, "beat");
    assert_eq!(ask(&peer, "hello").await, "beat");
}

#[tokio::test]
async fn each_datagram_is_answered_from_the_address_that_it_was_sent_to() {
    for any in ["0.0.0.0:0", "[::]:0"] {
        let endpoint = UdpEndpoint::bind(any).await.unwrap();
        let port = endpoint.local_addr().port();
        let (stack, _sessions) = reporting_echo();
        let _server = serve(endpoint, stack);
        assert_answers_from_destination(port).await;
    }
}

#[tokio::test]
async fn datagram_is_sent_from_the_address_that_it_names() {
    let endpoint = UdpEndpoint::bind("0.0.0.0:0").await.unwrap();
    let port = endpoint.local_addr().port();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(endpoint, stack);
    let session = soon(sessions.recv()).await.unwrap();
    let peer = UdpSocket::bind(V4).await.unwrap();
    let to = peer.local_addr().unwrap();
    for last in [5, 6, 5] {
        let from = IpAddr::from([127, 0, 0, last]);
        let datagram = Datagram::to(to, Bytes::from("hello")).with_local_ip(from);
        soon(session.send(datagram)).await.unwrap();
        let (_, sender) = soon(peer.recv_from(&mut [0; 16])).await.unwrap();
        assert_eq!(sender, SocketAddr::new(from, port));
    }
}

#[tokio::test]
async fn endpoint_can_be_driven_as_a_client() {
    let (sender, mut received) = mpsc::unbounded_channel();
    let endpoint = UdpEndpoint::bind(V4).await.unwrap();
    let address = endpoint.local_addr();
    let connection = Arc::new(Mutex::new(Some(endpoint.into_connection())));
    let connector = service_fn(move |()| {
        let connection = connection.lock().unwrap().take();
        async move { connection.ok_or("already taken") }
    });
    let (session, task) = getty::connect(connector, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(Whole))
            .layer(link)
            .layer(SessionLayer::new())
            .service_fn(move |request: Request<Datagram<Bytes>>| {
                let sent = sender.send(request.into_message());
                async move { sent.map(|()| None).map_err(BoxError::from) }
            })
    })
    .await
    .unwrap();
    let servers = [
        UdpSocket::bind(V4).await.unwrap(),
        UdpSocket::bind(V4).await.unwrap(),
    ];
    for server in &servers {
        let to = server.local_addr().unwrap();
        soon(session.send(Datagram::to(to, Bytes::from("hello"))))
            .await
            .unwrap();
        let (_, from) = soon(server.recv_from(&mut [0; 16])).await.unwrap();
        assert_eq!(from, address);
        server.send_to(b"welcome", from).await.unwrap();
        let answer = soon(received.recv()).await.unwrap();
        assert_eq!(
            (answer.peer(), &answer.message()[..]),
            (to, &b"welcome"[..])
        );
    }
    session.close();
    drop(task);
    // The socket must be closed with the session.
    until(|| std::net::UdpSocket::bind(address).is_ok()).await;
}

#[tokio::test]
async fn datagram_has_the_local_address_that_it_was_sent_to() {
    let endpoint = UdpEndpoint::bind("0.0.0.0:0").await.unwrap();
    let port = endpoint.local_addr().port();
    let (seen, mut datagrams) = mpsc::unbounded_channel();
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<Datagram<Bytes>>| {
            let datagram = request.into_message();
            let sent = seen.send(datagram.clone());
            async move { sent.map(|()| datagram).map_err(BoxError::from) }
        });
    let _server = serve(endpoint, stack);
    // The peer's socket is connected. So the operating system would drop answers from other
    // addresses.
    let peer = peer_of(SocketAddr::from(([127, 0, 0, 9], port))).await;
    assert_eq!(ask(&peer, "hello").await, "hello");
    let datagram = soon(datagrams.recv()).await.unwrap();
    assert_eq!(datagram.peer(), peer.local_addr().unwrap());
    assert_eq!(datagram.local_ip(), Some([127, 0, 0, 9].into()));
}
