//! Sessions, senders and closes on several threads.

use std::sync::Arc;

use getty::{BoxError, CloseReason, Request, SendError, SessionLayer, service_fn};
use getty_test::stream;
use tokio::sync::mpsc;

use crate::support::{echo, lines, open};

const SENDERS: usize = 8;
const MESSAGES: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn senders_on_many_threads_lose_nothing_and_each_keeps_its_order() {
    for queue in [1, 4, 64] {
        let (ours, theirs) = tokio::io::duplex(256);
        let layer = SessionLayer::new()
            .with_queue(queue)
            .with_watermarks(64, 200);
        let (got, mut messages) = mpsc::unbounded_channel();
        let collect = service_fn(move |request: Request<String>| {
            let sent = got.send(request.into_message());
            async move {
                sent?;
                Ok::<Option<String>, BoxError>(None)
            }
        });
        let (_peer, _peer_task) = open(theirs, lines(), SessionLayer::new(), collect).await;
        let (session, task) = open(ours, lines(), layer, service_fn(echo)).await;
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let session = session.clone();
                tokio::spawn(async move {
                    for n in 0..MESSAGES {
                        let message = format!("{sender} {n}");
                        match n % 3 {
                            0 => session.feed(message).await?,
                            1 => assert_eq!(
                                session.send(message.clone()).await?.bytes,
                                message.len() + 1
                            ),
                            _ => {
                                while let Err(error) = session.try_send(message.clone()) {
                                    assert!(error.is_full());
                                    tokio::task::yield_now().await;
                                }
                            }
                        }
                    }
                    Ok::<_, SendError<String>>(())
                })
            })
            .collect();
        let mut next = [0; SENDERS];
        for _ in 0..SENDERS * MESSAGES {
            let message = messages.recv().await.unwrap();
            let (sender, n) = message.split_once(' ').unwrap();
            let sender: usize = sender.parse().unwrap();
            assert_eq!(n.parse(), Ok(next[sender]));
            next[sender] += 1;
        }
        for sender in senders {
            sender.await.unwrap().unwrap();
        }
        session.close();
        assert_eq!(
            task.await.unwrap().stats.messages_out,
            (SENDERS * MESSAGES) as u64
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_send_that_races_a_close_gets_its_outcome() {
    for round in 0..200 {
        let (transport, peer) = stream();
        let (session, task) = open(transport, lines(), SessionLayer::new(), service_fn(echo)).await;
        let barrier = Arc::new(tokio::sync::Barrier::new(SENDERS + 1));
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (session, barrier) = (session.clone(), Arc::clone(&barrier));
                tokio::spawn(async move {
                    barrier.wait().await;
                    let mut sent = 0_u64;
                    loop {
                        match session.send("message".to_owned()).await {
                            Ok(_) => sent += 1,
                            Err(error) => {
                                assert!(error.is_closed());
                                assert_eq!(error.into_message().as_deref(), Some("message"));
                                return sent;
                            }
                        }
                    }
                })
            })
            .collect();
        barrier.wait().await;
        for _ in 0..round % 20 {
            tokio::task::yield_now().await;
        }
        session.close();
        let closed = task.await.unwrap();
        assert_eq!(closed.reason, CloseReason::Local);
        assert!(closed.source.is_none());
        let mut sent = 0;
        for sender in senders {
            sent += sender.await.unwrap();
        }
        // No message may be cut off: each was either returned or sent.
        assert_eq!(closed.stats.messages_out, sent);
        assert_eq!(peer.written() as u64, sent * 8);
    }
}
