//! Deadlines, closes and refused upgrades.

use super::*;
use getty_test::{Stream, messages, stream};

// 5

#[tokio::test(start_paused = true)]
async fn handshake_that_takes_ten_seconds_closes_as_handshake_timeout() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let start = Instant::now();
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::HandshakeTimeout);
    let timeout = 10 * SECOND;
    assert_eq!(start.elapsed().as_secs(), timeout.as_secs());
    assert_eq!(
        error::<UpgradeError>(&closed),
        UpgradeError::TimedOut(timeout)
    );
}

// 6

#[tokio::test(start_paused = true)]
async fn idle_timeouts_and_heartbeats_wait_during_the_handshake() {
    let (io, peer) = stream();
    let session = open!(
        io,
        UpgradeLayer::new(shake::<Stream>).with_handshake_timeout(60 * SECOND),
        SessionLayer::new(),
        handle(upgrade_or_echo),
        ServiceBuilder::new()
            .layer(IdleTimeoutLayer::new(5 * SECOND))
            .layer(HeartbeatLayer::new(2 * SECOND, |_: &Session<String>| {
                "beat".to_owned()
            }))
            .into_inner()
    );
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    tokio::time::sleep(30 * SECOND).await;
    assert!(!session.is_closing());
    peer.send("+");
    assert!(soon(session.upgraded()).await);
    let start = Instant::now();
    assert_eq!(soon(peer.line()).await, "+BEAT");
    let closed = soon(session.closed()).await;
    let reasons = [CloseReason::IdleTimeout, CloseReason::HeartbeatMissed];
    assert!(reasons.contains(&closed.reason), "{closed}");
    assert!(start.elapsed() >= 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_handshake_at_once_and_callbacks_run_once() {
    let (session, peer) = session(SessionLayer::new()).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    session.add_close_callback("test", (), move |_| {
        counted.fetch_add(1, SeqCst);
    });
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    session.try_send("secret".to_owned()).unwrap();
    idle().await;
    let start = Instant::now();
    session.close();
    let closed = soon(session.closed()).await;
    assert_eq!(
        (closed.reason, start.elapsed()),
        (CloseReason::Local, Duration::ZERO)
    );
    assert_eq!((peer.output().as_str(), peer.is_gone()), ("ready\n", true));
    assert_eq!((calls.load(SeqCst), closed.unsent_messages), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn close_before_the_handshake_flushes_the_reply_and_nothing_else() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.stall();
    peer.send("upgrade\n");
    idle().await;
    session.try_send("secret".to_owned()).unwrap();
    idle().await;
    session.close();
    idle().await;
    peer.take_all();
    let closed = soon(session.closed()).await;
    assert_eq!(
        (closed.reason, closed.unsent_messages),
        (CloseReason::Local, 1)
    );
    assert_eq!((peer.output().as_str(), peer.is_shut()), ("ready\n", true));
}

#[tokio::test(start_paused = true)]
async fn reply_of_a_session_that_closes_is_sent_without_an_upgrade() {
    let (session, peer, slow) = slow_session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    idle().await;
    session.close();
    idle().await;
    slow.permits.add_permits(1);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Local);
    assert_eq!((peer.output().as_str(), peer.is_shut()), ("ready\n", true));
}

#[tokio::test(start_paused = true)]
async fn peer_that_takes_no_reply_ends_at_the_write_timeout() {
    let (session, peer) = session(SessionLayer::new().with_write_timeout(SECOND)).await;
    peer.stall();
    peer.send("upgrade\n");
    let closed = soon(session.closed()).await;
    assert_eq!(
        (closed.reason, peer.output().as_str()),
        (CloseReason::WriteTimeout, "")
    );
}

#[tokio::test(start_paused = true)]
async fn write_error_before_the_handshake_ends_the_session() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.stall();
    peer.send("upgrade\n");
    idle().await;
    peer.fail_writes(io::ErrorKind::BrokenPipe);
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Io);
}

// 7

#[tokio::test(start_paused = true)]
async fn handle_attributes_callbacks_and_statistics_stay() {
    let (session, peer) = session(SessionLayer::new()).await;
    let id = session.id();
    session.insert(42_u32);
    let (ended, end) = tokio::sync::oneshot::channel();
    session.once_closed(move |closed| ended.send(closed.clone()).unwrap());
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+HELLO\n");
    assert_eq!(soon(peer.line()).await, "+HELLO");
    assert_eq!((session.id(), session.get::<u32>()), (id, Some(42)));
    peer.finish();
    let closed = soon(end).await.unwrap();
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    let stats = closed.stats;
    assert_eq!((stats.messages_in, stats.messages_out), (2, 2));
    // The bytes of the handshake are not counted.
    assert_eq!((stats.bytes_in, stats.bytes_out), (14, 12));
}

// 8

#[tokio::test(start_paused = true)]
async fn transports_with_message_boundaries_are_refused() {
    let (io, peer) = stream();
    let session = open!(
        io,
        UpgradeLayer::new(async |_: Stream, _: ConnectionHandle| {
            Ok::<_, BoxError>(messages(Framing::Messages).0)
        }),
        SessionLayer::new(),
        handle(upgrade_or_echo)
    );
    peer.send("upgrade\n");
    assert_eq!(upgrade_error(&session).await, UpgradeError::NotAStream);
}

// 9

#[tokio::test(start_paused = true)]
async fn second_upgrade_fails() {
    let (session, peer) = session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    peer.send("+");
    assert!(soon(session.upgraded()).await);
    peer.send("UPGRADE\n");
    assert_eq!(upgrade_error(&session).await, UpgradeError::Repeated);
    assert_eq!((peer.output().as_str(), peer.is_shut()), ("ready\n+", true));
}

#[tokio::test(start_paused = true)]
async fn upgrade_without_the_layer_fails() {
    let (io, peer) = stream();
    let session = open!(
        BoxTransport::new(io),
        tower::layer::util::Identity::new(),
        SessionLayer::new(),
        handle(upgrade_or_echo)
    );
    peer.send("upgrade\n");
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::UpgradeFailed);
    assert_eq!(closed.reason.as_str(), "upgrade_failed");
    assert_eq!(error::<UpgradeError>(&closed), UpgradeError::Unsupported);
    assert_eq!((peer.output().as_str(), peer.is_shut()), ("", true));
}

#[tokio::test(start_paused = true)]
async fn upgrade_after_the_end_of_this_direction_fails() {
    let (io, peer) = stream();
    let session = open!(
        io,
        UpgradeLayer::new(shake::<Stream>),
        SessionLayer::new(),
        handle(upgrade_or_echo)
    );
    peer.stay_open();
    session.finish().await.unwrap();
    peer.send("upgrade\n");
    assert_eq!(upgrade_error(&session).await, UpgradeError::Finished);
}

// 10

#[tokio::test(start_paused = true)]
async fn pending_end_of_the_peer_refuses_the_upgrade() {
    let (session, peer, slow) = slow_session(SessionLayer::new()).await;
    peer.send("upgrade\n");
    peer.finish();
    idle().await;
    slow.permits.add_permits(1);
    assert_eq!(upgrade_error(&session).await, UpgradeError::PeerFinished);
    assert_eq!(peer.output(), "");
}

#[tokio::test(start_paused = true)]
async fn settings_that_the_handler_of_the_request_changes_hold_after_the_upgrade() {
    let (io, peer) = stream();
    let (_session, _task) = getty::connect(connector(), io, |link| {
        ServiceBuilder::new()
            .layer(UpgradeLayer::new(shake::<Stream>))
            .layer(CodecLayer::new(Lines::new().with_max_length(10)).with_settable_max_frame())
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(async |line: String, session: Session<String>| {
                if line == "upgrade" {
                    assert!(session.set_max_frame(100));
                }
                upgrade_or_echo(line).await
            }))
    })
    .await
    .unwrap();
    peer.send("upgrade\n");
    assert_eq!(soon(peer.line()).await, "ready");
    let long = "X".repeat(100);
    peer.send(format!("+{long}\n"));
    assert_eq!(soon(peer.line()).await, format!("+{long}"));
}
