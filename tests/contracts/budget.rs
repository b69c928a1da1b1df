//! Memory that all sessions share.

use bytes::Bytes;
use getty::{
    BoxError, CodecLayer, MemoryBudget, Offered, Request, SendError, ServiceBuilder, SessionLayer,
    SlowConsumer, service_fn,
};

use crate::support::{connector, echo, idle, lines, open, soon, stream};

const KIB: usize = 1024;

fn layer(budget: &MemoryBudget) -> SessionLayer {
    SessionLayer::new().with_memory_budget(budget.clone())
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_refuses_and_hands_back_until_somebody_reads() {
    let budget = MemoryBudget::new(128 * KIB);
    let (transport, slow) = stream::pair();
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

    // others go on as long as they hold little
    let (transport, peer) = stream::pair();
    let (other, _other) = open(transport, lines(), layer(&budget), service_fn(echo)).await;
    for _ in 0..100 {
        other.send("little".to_owned()).await.unwrap();
    }
    soon(peer.lines(100)).await;
    idle().await;
    assert_eq!(budget.used(), 100 * KIB, "and give back what has left");

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
async fn queued_messages_weigh_what_the_codec_layer_says() {
    let budget = MemoryBudget::new(64 * KIB);
    let (transport, peer) = stream::pair();
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
    // no turn of the session's in between: all of them are in the queue
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

    // and what is left in the end is given back, too
    peer.stall();
    for _ in 0..queued {
        session.try_send(kib()).unwrap();
    }
    assert!(budget.is_used_up());
    session.close_within(getty::CloseReason::Local, std::time::Duration::ZERO);
    soon(task).await.unwrap();
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn drop_oldest_makes_room_in_the_budget_by_itself() {
    let budget = MemoryBudget::new(64 * KIB);
    let (transport, peer) = stream::pair();
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
async fn replies_stop_the_decoding_of_their_session_while_the_budget_is_used_up() {
    let budget = MemoryBudget::new(64 * KIB);
    let (transport, hog) = stream::pair();
    let (hogging, hog_task) = open(transport, lines(), layer(&budget), service_fn(echo)).await;
    hog.stall();
    let stuck = tokio::spawn({
        let session = hogging.clone();
        async move { session.send_raw(Bytes::from(vec![b'x'; 55 * KIB])).await }
    });
    idle().await;
    assert!(budget.is_used_up());

    let handler = service_fn(|request: Request<String>| async move {
        Ok::<_, BoxError>(Some(request.message().repeat(100)))
    });
    let (transport, peer) = stream::pair();
    let (session, _task) = open(transport, lines(), layer(&budget), handler).await;
    // a peer that reads is answered, one message after the other
    peer.send("ab\n".repeat(50));
    soon(peer.lines(50)).await;
    // one that does not gets one reply
    peer.stall();
    peer.send("cd\n".repeat(50));
    idle().await;
    assert_eq!(session.stats().messages_in, 51);
    assert_eq!(session.pending_bytes(), 201);

    // when there is room again it goes on, though its own peer has not read
    hogging.close_within(getty::CloseReason::Local, std::time::Duration::ZERO);
    soon(hog_task).await.unwrap();
    assert!(soon(stuck).await.unwrap().is_err());
    idle().await;
    assert_eq!(session.stats().messages_in, 100);
    peer.take_all();
    soon(peer.lines(50)).await;
    idle().await;
    assert_eq!(budget.used(), 0);
}
