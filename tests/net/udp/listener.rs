//! Sessions of a listener, one per peer: open, messages, close.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, SessionLayer, TransportKind,
    layers::{HeartbeatLayer, IdleTimeoutLayer},
    net::{Ecn, UdpInfo, UdpListener},
};
use socket2::SockRef;
use tokio::net::UdpSocket;

use super::{
    DESTINATIONS, V4, V6, Whole, ask, assert_answers_from_destination, peer_of, receive,
    reporting_echo, serve, soon, until,
};

#[tokio::test]
async fn each_peer_has_a_separate_session_in_both_families() {
    for any in [V4, V6] {
        let listener = UdpListener::bind(any).await.unwrap();
        let address = listener.local_addr().unwrap();
        let monitor = listener.monitor();
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(listener, stack);
        let mut ids = Vec::new();
        for n in 0..3 {
            let peer = peer_of(address).await;
            for m in 0..3 {
                let message = format!("{n}.{m}");
                assert_eq!(ask(&peer, &message).await, message);
            }
            let session = soon(sessions.recv()).await.unwrap();
            assert_eq!(session.peer_addr().socket_addr(), peer.local_addr().ok());
            assert_eq!(session.local_addr().socket_addr(), Some(address));
            assert_eq!(session.transport(), TransportKind::Udp);
            assert_eq!(session.stats().messages_in, 3);
            ids.push(session.id());
        }
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert!(sessions.try_recv().is_err());
        assert_eq!(monitor.peers(), 3);
        assert_eq!(monitor.stats().received, 9);
        assert_eq!(monitor.stats().delivered, 9);
    }
}

#[tokio::test]
async fn burst_is_answered_in_order_of_arrival() {
    let listener = UdpListener::bind(V4).await.unwrap();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    let (stack, _sessions) = reporting_echo();
    let _server = serve(listener, stack);
    for round in 0..20 {
        for n in 0..100 {
            // The lengths differ. So some answers can be sent together and others must be sent
            // separately.
            let message = format!("{round}.{n}{}", "x".repeat(n % 7));
            peer.send(message.as_bytes()).await.unwrap();
        }
        for n in 0..100 {
            let expected = format!("{round}.{n}{}", "x".repeat(n % 7));
            assert_eq!(receive(&peer).await, expected);
        }
    }
}

#[tokio::test]
async fn closed_session_is_followed_by_another() {
    let listener = UdpListener::bind(V4).await.unwrap();
    let monitor = listener.monitor();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let mut last = 0;
    for _ in 0..3 {
        assert_eq!(ask(&peer, "hello").await, "hello");
        let session = soon(sessions.recv()).await.unwrap();
        assert!(session.id() > last);
        last = session.id();
        peer.send(b"stop").await.unwrap();
        assert_eq!(soon(session.closed()).await.reason, CloseReason::Local);
        until(|| monitor.peers() == 0).await;
    }
}

#[tokio::test]
async fn silent_peer_expires_and_an_active_peer_stays() {
    let idle = Duration::from_millis(300);
    let listener = UdpListener::builder()
        .with_idle_timeout(idle)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let (silent, talking) = (peer_of(address).await, peer_of(address).await);
    // The session opens a little later than its datagram arrives.
    let last_datagram = Instant::now();
    ask(&silent, "once").await;
    let expiring = soon(sessions.recv()).await.unwrap();
    ask(&talking, "hello").await;
    let staying = soon(sessions.recv()).await.unwrap();
    while !expiring.is_closed() {
        ask(&talking, "still here").await;
    }
    let closed = soon(expiring.closed()).await;
    assert_eq!(closed.reason, CloseReason::IdleTimeout);
    assert!(last_datagram.elapsed() >= idle);
    assert!(!staying.is_closing());
    assert_eq!(monitor.stats().expired, 1);
    // An empty datagram must keep the session alive.
    while !staying.is_closed() && staying.last_read().elapsed() < 2 * idle {
        talking.send(b"").await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(!staying.is_closing());
}

#[tokio::test]
async fn heartbeats_and_idle_timeouts_work_as_on_a_stream() {
    let listener = UdpListener::bind(V4).await.unwrap();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(IdleTimeoutLayer::new(Duration::from_millis(200)))
        .layer(HeartbeatLayer::new(Duration::from_millis(20), |_| {
            Bytes::from("beat")
        }))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Bytes>| async move {
            request.session().add_close_callback("test", 1, |closed| {
                assert_eq!(closed.reason, CloseReason::IdleTimeout);
            });
            Ok::<_, BoxError>(None)
        });
    let monitor = listener.monitor();
    let _server = serve(listener, stack);
    assert_eq!(ask(&peer, "hello").await, "beat");
    assert_eq!(receive(&peer).await, "beat");
    until(|| monitor.peers() == 0).await;
    assert_eq!(
        monitor.stats().expired,
        0,
        "the layer closes the session first"
    );
}

#[tokio::test]
async fn bad_datagram_is_skipped_and_counted_or_closes() {
    for skips in [true, false] {
        let listener = UdpListener::bind(V4).await.unwrap();
        let peer = peer_of(listener.local_addr().unwrap()).await;
        let (opened, mut sessions) = tokio::sync::mpsc::unbounded_channel();
        let stack = ServiceBuilder::new()
            .layer(CodecLayer::new(Whole))
            .layer(SessionLayer::new().with_bad_messages_skipped(skips))
            .service_fn(move |request: Request<Bytes>| {
                let (message, session) = request.into_parts();
                let sent = opened.send(session);
                async move { sent.map(|()| message).map_err(BoxError::from) }
            });
        let _server = serve(listener, stack);
        ask(&peer, "good").await;
        let session = soon(sessions.recv()).await.unwrap();
        peer.send(b"bad").await.unwrap();
        if skips {
            assert_eq!(ask(&peer, "better").await, "better");
            assert_eq!(session.stats().skipped, 1);
        } else {
            assert_eq!(soon(session.closed()).await.reason, CloseReason::Decode);
        }
    }
}

#[tokio::test]
async fn shutdown_ends_all_sessions_and_frees_the_port() {
    let listener = UdpListener::bind(V4).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stack, mut sessions) = reporting_echo();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = getty::serve(listener, stack).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let server = tokio::spawn(async move { server.await.unwrap() });
    let peers = [peer_of(address).await, peer_of(address).await];
    for peer in &peers {
        ask(peer, "hello").await;
    }
    stop.send(()).unwrap();
    let drained = soon(server).await.unwrap();
    assert_eq!(drained.finished, 2);
    let session = soon(sessions.recv()).await.unwrap();
    assert_eq!(session.reason(), Some(CloseReason::Shutdown));
    // The reader must end with the last session, and its socket with it.
    soon(async {
        while UdpSocket::bind(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn several_sockets_share_the_port_and_each_peer_has_one_session() {
    let listener = UdpListener::builder()
        .with_sockets(4)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let (stack, _sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let mut peers = Vec::new();
    for _ in 0..40 {
        peers.push(peer_of(address).await);
    }
    for n in 0..10 {
        for peer in &peers {
            let message = n.to_string();
            assert_eq!(ask(peer, &message).await, message);
        }
    }
    assert_eq!(monitor.peers(), peers.len());
    assert_eq!(monitor.stats().delivered, 400);
}

#[tokio::test]
async fn answers_are_sent_from_the_address_that_the_peer_used() {
    let listener = UdpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let asked = IpAddr::from(Ipv4Addr::new(127, 0, 0, 77));
    // The peer's socket is connected. So the operating system would drop answers from other
    // addresses.
    let peer = peer_of((asked, port).into()).await;
    assert_eq!(ask(&peer, "hello").await, "hello");
    let session = soon(sessions.recv()).await.unwrap();
    assert_eq!(session.local_addr().ip(), Some(asked));
    let udp = session.get::<UdpInfo>().unwrap();
    assert_eq!(udp.local_ip(), Some(asked));
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn each_datagram_is_answered_from_the_address_that_it_was_sent_to() {
    for any in ["0.0.0.0:0", "[::]:0"] {
        let listener = UdpListener::builder()
            .with_only_v6(false)
            .bind(any)
            .await
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        let monitor = listener.monitor();
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(listener, stack);
        assert_answers_from_destination(port).await;
        // A session has one address at each end, as over TCP.
        assert_eq!(monitor.peers(), DESTINATIONS.len());
        for _ in DESTINATIONS {
            let session = soon(sessions.recv()).await.unwrap();
            let local = session.local_addr().ip().unwrap();
            assert!(DESTINATIONS.contains(&local.to_canonical()));
            assert_eq!(session.get::<UdpInfo>().unwrap().local_ip(), Some(local));
        }
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn dual_stack_listener_has_peers_of_both_families() {
    let listener = UdpListener::builder()
        .with_only_v6(false)
        .bind("[::]:0")
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stack, _sessions) = reporting_echo();
    let _server = serve(listener, stack);
    for host in ["127.0.0.1", "::1"] {
        let peer = peer_of((host.parse::<IpAddr>().unwrap(), port).into()).await;
        assert_eq!(ask(&peer, host).await, host);
        // A burst must be sent in one piece.
        for n in 0..10 {
            peer.send(format!("{host} {n}").as_bytes()).await.unwrap();
        }
        for n in 0..10 {
            assert_eq!(receive(&peer).await, format!("{host} {n}"));
        }
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn ecn_bits_reach_the_handler() {
    let listener = UdpListener::bind(V4).await.unwrap();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(|request: Request<Bytes>| async move {
            let udp = request.session().get::<UdpInfo>().ok_or("not over UDP")?;
            Ok::<_, BoxError>(Bytes::from(format!("{:?}", udp.ecn())))
        });
    let _server = serve(listener, stack);
    for (bits, ecn) in [
        (0, Ecn::NotCapable),
        (1, Ecn::Ect1),
        (2, Ecn::Ect0),
        (3, Ecn::Congested),
    ] {
        SockRef::from(&peer).set_tos_v4(bits).unwrap();
        assert_eq!(ask(&peer, "?").await, format!("{ecn:?}"));
    }
}

#[tokio::test]
async fn peer_whose_socket_is_gone_does_not_end_the_listener() {
    let listener = UdpListener::bind(V4).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let gone = peer_of(address).await;
    ask(&gone, "hello").await;
    let session = soon(sessions.recv()).await.unwrap();
    drop(gone);
    for _ in 0..10 {
        // The peer's machine refuses each datagram.
        soon(session.send(Bytes::from("anybody?"))).await.unwrap();
    }
    let peer = peer_of(address).await;
    assert_eq!(ask(&peer, "hello").await, "hello");
    assert!(!session.is_closing());
}
