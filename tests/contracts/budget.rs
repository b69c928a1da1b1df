//! Memory budget that all sessions share.

use bytes::Bytes;
use getty::{
    BoxError, Close, CodecLayer, MemoryBudget, Offered, Request, SendError, ServiceBuilder,
    SessionLayer, SlowConsumer, service_fn,
};
use getty_test::stream;

use crate::support::{connector, echo, idle, lines, open, soon};

const KIB: usize = 1024;

fn layer(budget: &MemoryBudget) -> SessionLayer {
    SessionLayer::new().with_memory_budget(budget.clone())
}

#[tokio::test(start_paused = true)]
async fn used_up_budget_returns_messages_until_a_peer_reads() {
    let budget = MemoryBudget::new(128 * KIB);
    let (transport, slow) = stream();
    let roomy = layer(&budget).with_watermarks(KIB * KIB, KIB * KIB);
    let (session, _task) = open(transport, lines(), roomy, service_fn(echo)).await;
    slow.stall();
    let stuck = tokio::spawn({
        let session = session.clone();
        async move { session.send_raw(Bytes::from(vec![b'x'; 100 * KIB])).await }
    });
    idle().await;
    assert_eq!(budget.used(), 100 * KIB);
    match session.send_raw(Bytes::from(vec![b'y'; 20 * KIB])).await {
        Err(SendError::Budget(bytes)) => assert_eq!(bytes.len(), 20 * KIB),
        other => panic!("{other:?}"),
    }

    // The others must go on as long as they hold little.
    let (transport, peer) = stream();
    let (other, _other) = open(transport, lines(), layer(&budget), service_fn(echo)).await;
    for _ in 0..100 {
        other.send("little".to_owned()).await.unwrap();
    }
    soon(peer.lines(100)).await;
    idle().await;
    assert_eq!(budget.used(), 100 * KIB, "the session gives back its bytes");

    slow.take_all();
    soon(stuck).await.unwrap().unwrap();
    idle().await;
    assert_eq!(budget.used(), 0);
    session
        .send_raw(Bytes::from(vec![b'y'; 20 * KIB]))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn queued_messages_have_the_weight_of_the_codec_layer() {
    let budget = MemoryBudget::new(64 * KIB);
    let (transport, peer) = stream();
    let codec = CodecLayer::new(lines()).with_weight(String::capacity);
    let (session, task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(codec)
            .layer(link)
            .layer(layer(&budget))
            .service(service_fn(echo))
    })
    .await
    .unwrap();
    peer.stall();
    // The session is not polled in between, so all messages must be queued.
    let kib = || "x".repeat(KIB);
    let queued = (0..)
        .take_while(|_| session.try_send(kib()).is_ok())
        .count();
    assert!((40..56).contains(&queued), "{queued}");
    assert!(matches!(session.try_send(kib()), Err(SendError::Budget(_))));
    assert!(matches!(
        session.offer(kib(), SlowConsumer::DropNewest).await,
        Err(SendError::Budget(_))
    ));
    peer.take_all();
    soon(peer.lines(queued)).await;
    idle().await;
    assert_eq!(budget.used(), 0);

    // The rest must be returned at the end as well.
    peer.stall();
    for _ in 0..queued {
        session.try_send(kib()).unwrap();
    }
    assert!(budget.is_used_up());
    session
        .close_with(Close::new(getty::CloseReason::Local).with_deadline(std::time::Duration::ZERO));
    soon(task).await.unwrap();
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_makes_room_in_the_budget() {
    let budget = MemoryBudget::new(64 * KIB);
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), layer(&budget), service_fn(echo)).await;
    peer.stall();
    session.try_send("x".repeat(8 * KIB - 1)).unwrap();
    idle().await;
    let filler = {
        let session = session.clone();
        tokio::spawn(async move { session.send_raw(Bytes::from(vec![b'x'; 44 * KIB])).await })
    };
    idle().await;
    let mut offers = Vec::new();
    for n in 0..200 {
        let offered = session.offer(n.to_string(), SlowConsumer::DropOldest).await;
        offers.push(offered.unwrap());
    }
    assert_eq!(offers[0], Offered::Queued);
    assert_eq!(offers[199], Offered::Replaced);
    peer.take_all();
    soon(filler).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn replies_stop_decoding_while_the_budget_is_used_up() {
    let budget = MemoryBudget::new(64 * KIB);
    let (transport, hog) = stream();
    let (full, full_task) = open(transport, lines(), layer(&budget), service_fn(echo)).await;
    hog.stall();
    let stuck = tokio::spawn({
        let session = full.clone();
        async move { session.send_raw(Bytes::from(vec![b'x'; 55 * KIB])).await }
    });
    idle().await;
    assert!(budget.is_used_up());

    let handler = service_fn(|request: Request<String>| async move {
        Ok::<_, BoxError>(Some(request.message().repeat(100)))
    });
    let (transport, peer) = stream();
    let (session, _task) = open(transport, lines(), layer(&budget), handler).await;
    // A peer that reads must get its replies one after another.
    peer.send("ab\n".repeat(50));
    soon(peer.lines(50)).await;
    // A peer that does not read may get only one reply.
    peer.stall();
    peer.send("cd\n".repeat(50));
    idle().await;
    assert_eq!(session.stats().messages_in, 51);
    assert_eq!(session.pending_bytes(), 201);

    // The session must resume when there is room, even if its own peer has not read.
    full.close_with(Close::new(getty::CloseReason::Local).with_deadline(std::time::Duration::ZERO));
    soon(full_task).await.unwrap();
    assert!(soon(stuck).await.unwrap().is_err());
    idle().await;
    assert_eq!(session.stats().messages_in, 100);
    peer.take_all();
    soon(peer.lines(50)).await;
    idle().await;
    assert_eq!(budget.used(), 0);
}
