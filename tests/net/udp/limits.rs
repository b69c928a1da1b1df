//! Limits on the memory that peers can make a listener use.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, SessionLayer,
    net::{Evicted, Eviction, ProbePolicy, UdpAdmission, UdpInfo, UdpListener, UdpOverflow},
};
use tokio::{net::UdpSocket, sync::mpsc};

use super::{V4, V6, Whole, ask, peer_of, receive, reporting_echo, serve, soon, until};

#[tokio::test]
async fn full_queue_drops_the_newest_or_the_oldest_and_counts_it() {
    for (overflow, kept) in [
        (UdpOverflow::DropNewest, ["0", "1", "2"]),
        (UdpOverflow::DropOldest, ["7", "8", "9"]),
    ] {
        let builder = UdpListener::builder()
            .with_queue(3, 1024)
            .with_overflow(overflow);
        let listener = builder.bind(V4).await.unwrap();
        let monitor = listener.monitor();
        let peer = peer_of(listener.local_addr().unwrap()).await;
        // The session is not accepted yet. So the datagrams must stay in the peer's queue.
        for n in 0..10 {
            peer.send(n.to_string().as_bytes()).await.unwrap();
        }
        until(|| monitor.stats().received == 10).await;
        assert_eq!(monitor.stats().overflowed, 7);
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(listener, stack);
        for message in kept {
            assert_eq!(receive(&peer).await, message);
        }
        let session = soon(sessions.recv()).await.unwrap();
        assert_eq!(session.stats().skipped, 7);
        assert_eq!(session.get::<UdpInfo>().unwrap().overflowed(), 7);
    }
}

#[tokio::test]
async fn queue_is_bounded_in_bytes_and_has_room_for_one_of_any_length() {
    let listener = UdpListener::builder()
        .with_queue(100, 1000)
        .bind(V4)
        .await
        .unwrap();
    let monitor = listener.monitor();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    for length in [5000, 1, 1] {
        peer.send(&vec![b'x'; length]).await.unwrap();
    }
    until(|| monitor.stats().received == 3).await;
    assert_eq!(monitor.stats().overflowed, 2);
    let (stack, _sessions) = reporting_echo();
    let _server = serve(listener, stack);
    assert_eq!(receive(&peer).await.len(), 5000);
    assert_eq!(ask(&peer, "next").await, "next");
}

#[tokio::test]
async fn busy_handler_fills_only_the_queue_of_its_peer() {
    let listener = UdpListener::builder()
        .with_queue(2, 1024)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let (release, mut released) = mpsc::unbounded_channel::<()>();
    let (busy, mut is_busy) = mpsc::unbounded_channel();
    let held = Arc::new(tokio::sync::Mutex::new(()));
    let guard = Arc::clone(&held).lock_owned().await;
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(SessionLayer::new())
        .service_fn(move |request: Request<Bytes>| {
            let (held, busy) = (Arc::clone(&held), busy.clone());
            async move {
                if request.message() == "hold" {
                    busy.send(())?;
                    drop(held.lock().await);
                }
                Ok::<_, BoxError>(request.into_message())
            }
        });
    let _server = serve(listener, stack);
    let (slow, quick) = (peer_of(address).await, peer_of(address).await);
    slow.send(b"hold").await.unwrap();
    soon(is_busy.recv()).await.unwrap();
    for n in 0..10 {
        slow.send(n.to_string().as_bytes()).await.unwrap();
        assert_eq!(ask(&quick, "hello").await, "hello");
    }
    // One datagram is decoded and waits for the handler. Two must be in the queue.
    until(|| monitor.stats().received == 21).await;
    assert_eq!(monitor.stats().overflowed, 7);
    drop(guard);
    for message in ["hold", "0", "1", "2"] {
        assert_eq!(receive(&slow).await, message);
    }
    drop(release);
    assert!(released.recv().await.is_none());
}

#[tokio::test]
async fn new_peers_are_refused_at_the_maximum() {
    let listener = UdpListener::builder()
        .with_max_peers(2)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let (one, two, three) = (
        peer_of(address).await,
        peer_of(address).await,
        peer_of(address).await,
    );
    ask(&one, "hello").await;
    ask(&two, "hello").await;
    three.send(b"hello").await.unwrap();
    until(|| monitor.stats().refused == 1).await;
    assert_eq!(ask(&one, "still here").await, "still here");
    soon(sessions.recv()).await.unwrap().close();
    until(|| monitor.peers() == 1).await;
    assert_eq!(ask(&three, "now").await, "now");
}

#[tokio::test]
async fn settings_apply_to_a_socket_that_was_bound_before() {
    let socket = std::net::UdpSocket::bind(V4).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = UdpListener::builder()
        .with_max_peers(1)
        .with_send_buffer_size(64 * 1024)
        .listen_on(socket.try_clone().unwrap())
        .unwrap();
    // the kernel doubles the size for its bookkeeping
    let size = socket2::SockRef::from(&socket).send_buffer_size().unwrap();
    assert!([64 * 1024, 128 * 1024].contains(&size), "{size}");
    let monitor = listener.monitor();
    let (stack, _sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let (one, two) = (peer_of(address).await, peer_of(address).await);
    assert_eq!(ask(&one, "hello").await, "hello");
    two.send(b"hello").await.unwrap();
    until(|| monitor.stats().refused == 1).await;
    assert_eq!(ask(&one, "still here").await, "still here");
}

#[tokio::test]
async fn longest_idle_peer_is_evicted_and_peers_heard_once_go_first() {
    let builder = UdpListener::builder()
        .with_max_peers(3)
        .with_eviction(Eviction::LongestIdle);
    let listener = builder.bind(V4).await.unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    let mut peers = Vec::new();
    let mut opened = Vec::new();
    for times in [2, 2, 1] {
        let peer = peer_of(address).await;
        for _ in 0..times {
            ask(&peer, "hello").await;
        }
        opened.push(soon(sessions.recv()).await.unwrap());
        peers.push(peer);
    }
    for victim in [2, 0] {
        let peer = peer_of(address).await;
        ask(&peer, "hello").await;
        ask(&peer, "hello").await;
        let closed = soon(opened[victim].closed()).await;
        assert_eq!(closed.reason, CloseReason::IdleTimeout);
        assert!(closed.source.unwrap().is::<Evicted>());
        peers.push(peer);
    }
    assert!(!opened[1].is_closing());
    assert_eq!(monitor.peers(), 3);
    assert_eq!(monitor.stats().evicted, 2);
    assert_eq!(ask(&peers[1], "still here").await, "still here");
}

#[tokio::test]
async fn unaccepted_peers_are_bounded_and_dropped_after_their_timeout() {
    let builder = UdpListener::builder()
        .with_backlog(2)
        .with_accept_timeout(Duration::from_millis(50));
    let listener = builder.bind(V4).await.unwrap();
    let address = listener.local_addr().unwrap();
    let monitor = listener.monitor();
    // All are sent before the first is read. Its time must start when it is read.
    for _ in 0..5 {
        let peer = std::net::UdpSocket::bind(V4).unwrap();
        peer.send_to(b"hello", address).unwrap();
    }
    until(|| monitor.stats().received == 5).await;
    assert!(monitor.stats().refused >= 3);
    until(|| monitor.peers() == 0).await;
    assert_eq!(monitor.stats().unaccepted, 2);
    // The listener must accept again.
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    assert_eq!(ask(&peer_of(address).await, "hello").await, "hello");
    soon(sessions.recv()).await.unwrap();
    assert!(sessions.try_recv().is_err());
}

#[tokio::test]
async fn flood_from_many_addresses_is_bounded_and_starves_no_live_peer() {
    const FLOOD: u32 = 3000;
    for eviction in [Eviction::Refuse, Eviction::LongestIdle] {
        let builder = UdpListener::builder()
            .with_max_peers(64)
            .with_eviction(eviction);
        let listener = builder.bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let monitor = listener.monitor();
        let (stack, _sessions) = reporting_echo();
        let _server = serve(listener, stack);
        let mut live = Vec::new();
        for _ in 0..10 {
            let peer = peer_of(address).await;
            ask(&peer, "hello").await;
            ask(&peer, "hello again").await;
            live.push(peer);
        }
        for n in 0..FLOOD {
            let from = IpAddr::from(Ipv4Addr::from(0x7f02_0000 + n));
            let invented = UdpSocket::bind((from, 0)).await.unwrap();
            invented.send_to(b"flood", address).await.unwrap();
            if n % 50 == 0 {
                let peer = &live[n as usize / 50 % live.len()];
                assert_eq!(ask(peer, "still here").await, "still here");
                assert!(monitor.peers() <= 64);
            }
        }
        for peer in &live {
            assert_eq!(ask(peer, "after it").await, "after it");
        }
        let stats = monitor.stats();
        match eviction {
            Eviction::Refuse => assert!(stats.refused > u64::from(FLOOD) / 2),
            _ => assert!(stats.evicted > u64::from(FLOOD) / 2),
        }
    }
}

#[tokio::test]
async fn admit_hook_decides_who_gets_a_session() {
    let builder = UdpListener::builder().with_admit(|first| match first.payload {
        b"panic" => panic!("admit hook"),
        b"cookie?" => UdpAdmission::Answer(Bytes::from(first.peer.port().to_string())),
        payload if payload == first.peer.port().to_string().as_bytes() => UdpAdmission::Open,
        _ => UdpAdmission::Ignore,
    });
    let listener = builder.bind(V4).await.unwrap();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    let monitor = listener.monitor();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    peer.send(b"hello").await.unwrap();
    peer.send(b"panic").await.unwrap();
    let cookie = ask(&peer, "cookie?").await;
    assert!(sessions.try_recv().is_err());
    assert_eq!((monitor.peers(), monitor.stats().ignored), (0, 3));
    assert_eq!(ask(&peer, &cookie).await, cookie);
    assert_eq!(
        ask(&peer, "hello").await,
        "hello",
        "the hook is called once per session"
    );
    soon(sessions.recv()).await.unwrap();
}

#[tokio::test]
async fn answer_to_a_probe_is_not_answered_by_another_server() {
    let address = |listener: &UdpListener| listener.local_addr().unwrap();
    let mut servers = Vec::new();
    for any in [V4, V6, "0.0.0.0:0"] {
        let listener = UdpListener::builder()
            .with_probes(ProbePolicy::Answer)
            .bind(any)
            .await
            .unwrap();
        let host = if any == V6 { "[::1]" } else { "127.0.0.1" };
        let at: SocketAddr = format!("{host}:{}", address(&listener).port())
            .parse()
            .unwrap();
        let monitor = listener.monitor();
        let (stack, sessions) = reporting_echo();
        drop(serve(listener, stack));
        servers.push((at, monitor, sessions));
    }
    for (n, (first, ..)) in servers.iter().enumerate() {
        // With a forged probe one server answers the other.
        let answer = ask(&peer_of(*first).await, "connect-ping").await;
        for (m, (second, monitor, _)) in servers.iter().enumerate() {
            let peer = peer_of(*second).await;
            peer.send(&answer).await.unwrap();
            assert_eq!(
                ask(&peer, "hello").await,
                "hello",
                "no datagram arrived before"
            );
            assert_eq!(monitor.stats().probes, u64::from(m <= n));
        }
    }
    for (_, monitor, _) in &servers {
        assert_eq!((monitor.stats().probes, monitor.stats().empty), (1, 3));
    }
}

#[tokio::test]
async fn probe_is_delivered_discarded_or_answered() {
    for policy in [
        ProbePolicy::Deliver,
        ProbePolicy::Discard,
        ProbePolicy::Answer,
    ] {
        let listener = UdpListener::builder()
            .with_probes(policy)
            .bind(V4)
            .await
            .unwrap();
        let peer = peer_of(listener.local_addr().unwrap()).await;
        let monitor = listener.monitor();
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(listener, stack);
        peer.send(b"connect-ping").await.unwrap();
        if policy == ProbePolicy::Answer {
            assert_eq!(receive(&peer).await, "");
        } else if policy == ProbePolicy::Deliver {
            assert_eq!(receive(&peer).await, "connect-ping");
        }
        if policy == ProbePolicy::Deliver {
            soon(sessions.recv()).await.unwrap();
            continue;
        }
        until(|| monitor.stats().probes == 1).await;
        assert_eq!(monitor.peers(), 0);
        assert_eq!(ask(&peer, "connect-pin").await, "connect-pin");
    }
}

#[tokio::test]
async fn close_callback_runs_for_a_peer_that_was_not_accepted() {
    let listener = UdpListener::bind(V4).await.unwrap();
    let monitor = listener.monitor();
    peer_of(listener.local_addr().unwrap())
        .await
        .send(b"hello")
        .await
        .unwrap();
    until(|| monitor.peers() == 1).await;
    drop(listener);
    until(|| monitor.peers() == 0).await;
}

#[tokio::test]
async fn peer_that_the_stack_refused_may_try_again() {
    let listener = UdpListener::bind(V4).await.unwrap();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    let monitor = listener.monitor();
    let refuses = Arc::new(AtomicBool::new(true));
    let refusing = Arc::clone(&refuses);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Whole))
        .layer(getty::layers::OnOpenLayer::new(move |_session| {
            let refuses = refusing.load(SeqCst);
            async move {
                if refuses {
                    Err(BoxError::from("not now"))
                } else {
                    Ok(())
                }
            }
        }))
        .layer(SessionLayer::new())
        .service_fn(super::echo);
    let _server = serve(listener, stack);
    peer.send(b"hello").await.unwrap();
    until(|| monitor.stats().delivered == 1 && monitor.peers() == 0).await;
    refuses.store(false, SeqCst);
    assert_eq!(ask(&peer, "hello").await, "hello");
}

#[tokio::test]
async fn maximum_durations_disable_the_timeouts() {
    let listener = UdpListener::builder()
        .with_accept_timeout(Duration::MAX)
        .with_idle_timeout(Duration::MAX)
        .bind(V4)
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (stack, _sessions) = reporting_echo();
    let _server = serve(listener, stack);
    for _ in 0..2 {
        let peer = peer_of(address).await;
        assert_eq!(ask(&peer, "hello").await, "hello");
        assert_eq!(ask(&peer, "again").await, "again");
    }
}
