//! Lengths of datagrams: limits, truncation and empty datagrams.

use bytes::Bytes;
use getty::{CloseReason, SendError, net::UdpListener, session::MessageTooLong};

use super::{V4, V6, ask, peer_of, receive, reporting_echo, serve, soon, until};

#[tokio::test]
async fn longest_datagrams_are_exchanged_in_both_families() {
    for (any, longest) in [(V4, 65_507), (V6, 65_527)] {
        let listener = UdpListener::bind(any).await.unwrap();
        let peer = peer_of(listener.local_addr().unwrap()).await;
        let (stack, mut sessions) = reporting_echo();
        let _server = serve(listener, stack);
        for length in [1, 1200, 9000, 65_000, longest] {
            let message = vec![b'x'; length];
            assert_eq!(ask(&peer, &message).await.len(), length);
        }
        let session = soon(sessions.recv()).await.unwrap();
        let sent = soon(session.send(Bytes::from(vec![0; longest])))
            .await
            .unwrap();
        assert_eq!(sent.bytes, longest);
        assert_eq!(receive(&peer).await.len(), longest);
        let refused = soon(session.send(Bytes::from(vec![0; longest + 1]))).await;
        let Err(SendError::Encode(source)) = refused else {
            panic!("{refused:?}");
        };
        let too_long: &MessageTooLong = source.downcast_ref().unwrap();
        assert_eq!((too_long.bytes, too_long.limit), (longest + 1, longest));
        let refused = soon(session.send_raw(Bytes::from(vec![0; longest + 1]))).await;
        assert!(matches!(refused, Err(SendError::Encode(_))));
        soon(session.send_raw(Bytes::from("raw"))).await.unwrap();
        assert_eq!(receive(&peer).await, "raw");
        assert!(!session.is_closing());
    }
}

#[tokio::test]
async fn lower_maximum_counts_each_truncated_datagram() {
    let listener = UdpListener::builder()
        .with_max_datagram(100)
        .bind(V4)
        .await
        .unwrap();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    let monitor = listener.monitor();
    let (stack, mut sessions) = reporting_echo();
    let _server = serve(listener, stack);
    // A truncated datagram must open no session.
    peer.send(&[b'x'; 101]).await.unwrap();
    until(|| monitor.stats().truncated == 1).await;
    assert_eq!(monitor.peers(), 0);

    assert_eq!(ask(&peer, [b'x'; 100]).await.len(), 100);
    peer.send(&[b'x'; 101]).await.unwrap();
    assert_eq!(ask(&peer, "next").await, "next");
    let session = soon(sessions.recv()).await.unwrap();
    assert_eq!(session.stats().skipped, 1);
    assert_eq!(monitor.stats().truncated, 2);

    // No sender waits for these. So the long one must be skipped, and the session must continue.
    session.try_send(Bytes::from(vec![0; 101])).unwrap();
    soon(session.feed(Bytes::from("short"))).await.unwrap();
    assert_eq!(receive(&peer).await, "short");
    assert_eq!(session.stats().skipped, 2);
    session.close();
    assert_eq!(soon(session.closed()).await.reason, CloseReason::Local);
}

#[tokio::test]
async fn empty_datagrams_reach_the_codec_only_if_enabled() {
    for asked in [false, true] {
        let builder = UdpListener::builder().with_empty_datagrams(asked);
        let listener = builder.bind(V4).await.unwrap();
        let peer = peer_of(listener.local_addr().unwrap()).await;
        let monitor = listener.monitor();
        let (stack, _sessions) = reporting_echo();
        let _server = serve(listener, stack);
        peer.send(b"").await.unwrap();
        if asked {
            assert_eq!(receive(&peer).await, "");
            assert_eq!(ask(&peer, "").await, "");
        } else {
            until(|| monitor.stats().empty == 1).await;
            assert_eq!(monitor.peers(), 0);
        }
        assert_eq!(ask(&peer, "hello").await, "hello");
    }
}

#[tokio::test]
async fn message_that_is_too_long_closes_a_session_that_skips_nothing() {
    let listener = UdpListener::builder()
        .with_max_datagram(10)
        .bind(V4)
        .await
        .unwrap();
    let peer = peer_of(listener.local_addr().unwrap()).await;
    let (opened, mut sessions) = tokio::sync::mpsc::unbounded_channel();
    let stack = getty::ServiceBuilder::new()
        .layer(getty::CodecLayer::new(super::Whole))
        .layer(getty::SessionLayer::new().with_bad_messages_skipped(false))
        .service_fn(move |request: getty::Request<Bytes>| {
            let sent = opened.send(request.session().clone());
            async move {
                sent.map_err(getty::BoxError::from)?;
                Ok::<_, getty::BoxError>(Bytes::from(vec![0; 11]))
            }
        });
    let _server = serve(listener, stack);
    peer.send(b"hello").await.unwrap();
    let session = soon(sessions.recv()).await.unwrap();
    let closed = soon(session.closed()).await;
    assert_eq!(closed.reason, CloseReason::Encode);
    let source = closed.source.unwrap();
    let too_long: &MessageTooLong = source.downcast_ref().unwrap();
    assert_eq!(too_long.bytes, 11);
}
